"""Stretches of a scene around one character: what is judged and trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpg_fast.data.scripts.names import is_group
from dpg_fast.data.scripts.script import Scene, Script
from dpg_fast.text.records import Turn
from dpg_fast.util.errors import DPGError

HIDDEN = "PERSON"  # how a judge sees the one whose words it judges


@dataclass(frozen=True)
class SegmentSettings:
    """How scenes are cut.

    Attributes:
        turns: at most, of everybody.
        before: turns of others kept before the character's first one.
        min_words: of the character, below which a segment is not used.
    """

    turns: int = 8
    before: int = 2
    min_words: int = 10

    def __post_init__(self) -> None:
        if self.turns < 1 or not 0 <= self.before < self.turns or self.min_words < 1:
            raise DPGError("turns must be at least 1, before from 0 to turns - 1, min_words at least 1")


@dataclass(frozen=True)
class SaidLine:
    """What one speaker says until another does.

    Attributes:
        lines: first and last line in the file.
    """

    speaker: str
    words: str
    lines: tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Turns of one scene that end with the character's own.

    Attributes:
        cast: the script, or what several scripts with the same people have in common.
        scene: number of the scene in its script.
    """

    cast: str
    script: str
    scene: int
    heading: str
    character: str
    turns: tuple[SaidLine, ...]

    @property
    def id(self) -> str:
        """A content address: the same for the same words, whatever else is in the folder."""
        value = [self.cast, self.script, self.character, self.heading, [[t.speaker, t.words] for t in self.turns]]
        return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:20]

    @property
    def key(self) -> tuple[str, str]:
        """Who: the cast and the character."""
        return self.cast, self.character

    @property
    def speakers(self) -> frozenset[str]:
        """Everybody who speaks."""
        return frozenset(turn.speaker for turn in self.turns)

    @property
    def answer(self) -> str:
        """What the character says, one turn a line."""
        return "\n".join(turn.words for turn in self.turns if turn.speaker == self.character)

    @property
    def situation(self) -> str:
        """What a judge is told besides: what others say and where the character speaks, not who that is."""
        lines = [f"This is part of a conversation; the words of {HIDDEN} are left out."]
        if self.heading:
            lines.append(f"[{self.heading}]")
        for turn in self.turns:
            lines.append(f"{HIDDEN}: [...]" if turn.speaker == self.character else f"{turn.speaker}: {turn.words}")
        lines.append(f"What does {HIDDEN} say?")
        return "\n".join(lines)

    def messages(self) -> list[Turn]:
        """The conversation with the character as the assistant; others' turns carry their names.

        The first message is the user's: the scene's heading in brackets, if it has one, and what is said before.
        """
        opening = f"[{self.heading}]" if self.heading else ""
        found: list[Turn] = []
        waiting = [opening] if opening else []
        for turn in self.turns:
            if turn.speaker != self.character:
                waiting.append(f"{turn.speaker}: {turn.words}")
                continue
            found.append(Turn(role="user", content="\n".join(waiting) or f"[{self.character} speaks.]"))
            found.append(Turn(role="assistant", content=turn.words))
            waiting = []
        return found


def segments(script: Script, settings: SegmentSettings, *, cast: str | None = None) -> Iterator[Segment]:
    """The segments of every single person in ``script``, scene by scene; those of one person do not overlap."""
    for scene in script.scenes:
        turns = merged_turns(scene)
        for character in dict.fromkeys(turn.speaker for turn in turns):
            if not is_group(character):
                for part in _cut(turns, character, settings):
                    yield Segment(cast or script.name, script.name, scene.number, scene.heading, character, part)


def merged_turns(scene: Scene) -> list[SaidLine]:
    """The scene's turns: speeches of one speaker that follow each other are one, those without words are left out."""
    found: list[SaidLine] = []
    for speech in scene.speeches:
        words = speech.words
        if not words:
            continue
        last = max((part.line for part in speech.parts), default=speech.line)
        if found and found[-1].speaker == speech.speaker:
            before = found[-1]
            found[-1] = SaidLine(before.speaker, f"{before.words} {words}", (before.lines[0], last))
        else:
            found.append(SaidLine(speech.speaker, words, (speech.line, last)))
    return found


def _cut(turns: Sequence[SaidLine], character: str, settings: SegmentSettings) -> Iterator[tuple[SaidLine, ...]]:
    own = [i for i, turn in enumerate(turns) if turn.speaker == character]
    taken = 0
    while own:
        begin = max(taken, own[0] - settings.before)
        last = max(i for i in own if i < begin + settings.turns)
        part = tuple(turns[begin : last + 1])
        if sum(len(turn.words.split()) for turn in part if turn.speaker == character) >= settings.min_words:
            yield part
        taken = last + 1
        own = [i for i in own if i > last]
