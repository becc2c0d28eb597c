"""A character's folder: stages of a life, and for each what is known (knowledge/) and how the person speaks (style/).

ilse/
  stages.yaml              name, language, stages in the order of time
  early/knowledge/*.txt    objective: events, places, people, skills
  early/style/*.txt        subjective: speech, letters, diaries
  late/...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from dpg_fast.data.similarity import near_duplicates
from dpg_fast.personified.data.reading import ENDINGS, count_words, find_texts, read_texts
from dpg_fast.text.records import Text
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import checked, read_yaml

Kind = Literal["knowledge", "style"]
KINDS: tuple[Kind, Kind] = ("knowledge", "style")
STAGES_FILE = "stages.yaml"
MAX_STAGE_BYTES = 32_000_000
SAME = 0.8  # word-trigram overlap from which a paragraph repeats another
_NEAR_UP_TO = 500_000  # words of one stage and kind; above, only equal paragraphs are found
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
MAX_STAGES = len(_NUMERALS)
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class StageEntry(BaseModel):
    """A stage in stages.yaml.

    Attributes:
        id: name of its folder.
        time: a sentence that says when it is, put before the prompts ("It is the autumn of 1936.").
        label: temporal label of the trained text, "TIME-I" and so on by default.
    """

    model_config = ConfigDict(extra="forbid")

    id: Name
    time: Text | None = None
    label: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9][A-Z0-9-]{0,31}$")] | None = None


class CharacterEntry(BaseModel):
    """stages.yaml.

    Attributes:
        name: the character's.
        language: two-letter code of the language the character speaks.
        aliases: other names, by which `material` finds the character in a text.
        reviewed: false in folders that `material` has made, until somebody has looked through them.
        stages: in the order of time.
    """

    model_config = ConfigDict(extra="forbid")

    name: Text
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] = "en"
    aliases: list[Text] = Field(default_factory=list)
    reviewed: bool = True
    stages: list[StageEntry] = Field(min_length=1, max_length=MAX_STAGES)

    @field_validator("language", mode="before")
    @classmethod
    def _norwegian(cls, value: object) -> object:
        return "no" if value is False else value  # YAML reads a bare "no" as false

    @model_validator(mode="after")
    def _check(self) -> CharacterEntry:
        for i, stage in enumerate(self.stages):
            stage.label = stage.label or f"TIME-{_NUMERALS[i]}"
        for what in ("id", "label"):
            values = [getattr(stage, what) for stage in self.stages]
            if len(set(values)) < len(values):
                raise DPGError(f"two stages have the same {what}: {', '.join(values)}")
        return self


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of material.

    Attributes:
        id: "stage/kind/file#number", counting from 1 inside the file.
        origin: where the file says that the text comes from.
    """

    id: str
    kind: Kind
    text: str
    origin: str | None = None


@dataclass(frozen=True)
class Stage:
    """A stage with its material, in the order of files and paragraphs."""

    id: str
    label: str
    time: str | None
    knowledge: tuple[Paragraph, ...]
    style: tuple[Paragraph, ...]

    @property
    def token(self) -> str:
        """The temporal label as it stands in the trained text, "<TIME-I>"."""
        return f"<{self.label}>"

    @property
    def paragraphs(self) -> tuple[Paragraph, ...]:
        """Knowledge, then style."""
        return (*self.knowledge, *self.style)


@dataclass(frozen=True)
class CharacterMaterial:
    """A character's stages in the order of time, and `notes` on what was repaired or left out while reading."""

    name: str
    language: str
    stages: tuple[Stage, ...]
    reviewed: bool = True
    notes: tuple[str, ...] = field(default=())


def read_entry(folder: Path) -> CharacterEntry:
    """The folder's stages.yaml.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not of the form that `CharacterEntry` says.
        ImportError: PyYAML is missing.
    """
    path = folder / STAGES_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {STAGES_FILE}; wanted: name: NAME, stages: [{{id: early, time: It is 1936.}}, ...], and for each "
            "stage folders ID/knowledge and ID/style"
        )
    entry: CharacterEntry = checked(CharacterEntry, read_yaml(path), path)
    return entry


def load_character(folder: Path, encoding: str | None = None) -> CharacterMaterial:
    """Read a character's folder.

    Args:
        folder: as the module describes.
        encoding: of its texts, if it must not be guessed.

    Raises:
        FileNotFoundError: the folder, its stages.yaml or a stage's folder is missing.
        ValueError: stages.yaml is wrong, or a stage has no knowledge or no style that can be read, or holds more than
            `MAX_STAGE_BYTES`.
        ImportError: PyYAML is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    entry = read_entry(folder)
    notes: list[str] = []
    stages = []
    for stage in entry.stages:
        found = {kind: _read(folder, stage.id, kind, encoding, notes) for kind in KINDS}
        assert stage.label is not None
        stages.append(Stage(stage.id, stage.label, stage.time, found["knowledge"], found["style"]))
    return CharacterMaterial(entry.name, entry.language, tuple(stages), entry.reviewed, tuple(notes))


def _read(folder: Path, stage: str, kind: Kind, encoding: str | None, notes: list[str]) -> tuple[Paragraph, ...]:
    place = folder / stage / kind
    if not place.is_dir():
        raise FileNotFoundError(f"stage {stage!r} has no folder {place}")
    files = find_texts(place)
    size = sum(file.stat().st_size for file in files)
    if size > MAX_STAGE_BYTES:
        raise DPGError(
            f"{place} holds {size / 1e6:.0f} MB; at most {MAX_STAGE_BYTES / 1e6:.0f} MB are read as one character's material. "
            "`dpg-fast data personified material` takes what concerns a character out of larger texts"
        )
    found, problems = read_texts(place, encoding)
    notes += [f"{stage}/{kind}: {problem}" for problem in problems]
    paragraphs = []
    for file, blocks in found:
        name = file.relative_to(place).as_posix()
        for number, block in enumerate(blocks, 1):
            paragraphs.append(Paragraph(f"{stage}/{kind}/{name}#{number}", kind, block.text, block.origin))
    kept = without_repetitions(paragraphs)
    if len(kept) < len(paragraphs):
        notes.append(f"{stage}/{kind}: {len(paragraphs) - len(kept)} repeated paragraphs left out")
    if not kept:
        what = "what is known of the person" if kind == "knowledge" else "the person's own words"
        why = f" ({'; '.join(problems)})" if problems else ""
        raise DPGError(f"stage {stage!r} is empty: put {what} into {place} ({', '.join(ENDINGS)}){why}")
    return tuple(kept)


def without_repetitions(paragraphs: Sequence[Paragraph]) -> list[Paragraph]:
    """Without paragraphs that repeat an earlier one: equal but for spaces and capitals, or alike from `SAME` on."""
    first: dict[str, Paragraph] = {}
    for paragraph in paragraphs:
        first.setdefault(re.sub(r"\W+", " ", paragraph.text.casefold()).strip(), paragraph)
    kept = list(first.values())
    if sum(count_words(paragraph.text) for paragraph in kept) > _NEAR_UP_TO:
        return kept
    gone = {found.index for found in near_duplicates([p.text for p in kept], threshold=SAME)}
    return [paragraph for i, paragraph in enumerate(kept) if i not in gone]
