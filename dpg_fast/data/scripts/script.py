"""A script in memory: scenes of speeches and directions, and what was wrong with the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

DirectionKind = Literal["action", "transition", "centred", "lyrics", "note", "section", "synopsis", "page break"]


@dataclass(frozen=True)
class Problem:
    """Something in a file that could not be read as it stands; the rest was kept.

    Attributes:
        line: from 1; 0 is the file as a whole.
        what: what was found, and what was made of it.
    """

    line: int
    what: str


@dataclass(frozen=True)
class Part:
    """A piece of a speech: words that are spoken or sung, or a parenthetical that is neither."""

    kind: Literal["words", "lyrics", "parenthetical"]
    text: str
    line: int


@dataclass
class Speech:
    """What somebody says at one go.

    Attributes:
        cue: the name as the file has it, without extensions.
        extensions: such as "V.O." or "CONT'D".
        parts: words and parentheticals in order.
        line: of the cue, from 1.
        speaker: who that is; the cue's plain form until `names.merge_speakers` has looked at the whole script.
        dual: spoken together with the speech beside it.
    """

    cue: str
    extensions: tuple[str, ...]
    parts: list[Part]
    line: int
    speaker: str
    dual: bool = False

    @property
    def words(self) -> str:
        """What is heard, on one line; empty if nothing is."""
        return " ".join(" ".join(part.text for part in self.parts if part.kind != "parenthetical").split())

    @property
    def parentheticals(self) -> list[str]:
        """What stands in parentheses, without them."""
        return [part.text for part in self.parts if part.kind == "parenthetical"]


@dataclass(frozen=True)
class Direction:
    """Text that nobody speaks."""

    kind: DirectionKind
    text: str
    line: int


@dataclass
class Scene:
    """A stretch of a script between two headings.

    Attributes:
        number: from 1, in the order of the file.
        heading: "" for what stands before the first heading.
        label: the scene's own number in the script ("12A"), if it has one.
    """

    number: int
    heading: str
    line: int
    label: str | None = None
    elements: list[Speech | Direction] = field(default_factory=list)

    @property
    def speeches(self) -> list[Speech]:
        """The speeches alone."""
        return [element for element in self.elements if isinstance(element, Speech)]


@dataclass
class Script:
    """One file.

    Attributes:
        name: the file's name without its ending.
        format: which reader read it.
        title_page: keys as in the file.
        scenes: those that hold anything.
        merged: name -> the name it was taken to belong to, for names that are not spelled alike.
        unmerged: pairs of names that might be one person and were left apart.
    """

    name: str
    format: str
    scenes: list[Scene] = field(default_factory=list)
    title_page: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    unmerged: list[tuple[str, str]] = field(default_factory=list)

    def speeches(self) -> Iterator[Speech]:
        """All speeches in order."""
        for scene in self.scenes:
            yield from scene.speeches


class ScriptBuilder:
    """Collects scenes while a reader goes through a file."""

    def __init__(self, name: str, format: str) -> None:
        self.script = Script(name, format)
        self._scene = Scene(1, "", 1)

    def open_scene(self, heading: str, line: int, label: str | None = None) -> None:
        """Begin a scene."""
        self._close()
        self._scene = Scene(0, heading, line, label)

    def add(self, element: Speech | Direction) -> None:
        """Add to the current scene."""
        self._scene.elements.append(element)

    @property
    def last(self) -> Speech | Direction | None:
        """The current scene's last element."""
        return self._scene.elements[-1] if self._scene.elements else None

    @property
    def elements(self) -> list[Speech | Direction]:
        """What the current scene holds."""
        return self._scene.elements

    def problem(self, line: int, what: str) -> None:
        """Note a problem."""
        self.script.problems.append(Problem(line, what))

    def _close(self) -> None:
        if self._scene.heading or self._scene.elements:
            self._scene.number = len(self.script.scenes) + 1
            self.script.scenes.append(self._scene)

    def finish(self) -> Script:
        """The script, problems in the order of lines."""
        self._close()
        self._scene = Scene(0, "", 0)
        self.script.problems.sort(key=lambda problem: problem.line)
        return self.script
