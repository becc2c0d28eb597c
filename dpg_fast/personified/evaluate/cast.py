"""The people of an evaluation: their stages, test questions and material, read from folders of personified data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.record import ItemKind, PersonifiedRecord, split_reply
from dpg_fast.personified.data.writing import PARAGRAPHS, ParagraphRecord, read_personified
from dpg_fast.text.records import read_records
from dpg_fast.util.errors import DPGError

GENERAL = "general"


@dataclass(frozen=True)
class CastQuestion:
    """A test question: whose it is, of which stage and kind, and the answer it should get.

    Attributes:
        id: unique within a character.
        reference: the golden response, without its analysis; full: with it.
        known: whether it was written from knowledge (else from a sample of style), which tells knowledge from attitude weakly.
    """

    id: str
    character: str
    stage: str
    kind: ItemKind
    text: str
    reference: str
    full: str
    known: bool


@dataclass(frozen=True)
class Person:
    """A character with its stages (label, time, material) in the order of time, and its test questions.

    Attributes:
        said: stage -> golden responses of the training part: how the person speaks at that time.
    """

    name: str
    stages: dict[str, Stage]
    questions: tuple[CastQuestion, ...]
    said: dict[str, tuple[str, ...]]

    def same(self, other: str) -> bool:
        """Whether ``other`` is this person's name in any spelling: "marit_oss", "Marit Oss"."""
        return _plain(self.name) == _plain(other)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def load_person(folder: Path, *, limit: int | None = None, seed: int = 0) -> Person:
    """Read a folder that ``dpg-fast data personified build`` wrote.

    Args:
        limit: at most so many test questions of each stage, drawn by the seed; None: all.

    Raises:
        FileNotFoundError: no such folder, or files missing in it.
        ValueError: a stage without a test question or material, or records of several characters.
    """
    records, _ = read_personified(folder)
    names = sorted({record.character or "" for record in records})
    if len(names) != 1 or not names[0]:
        raise DPGError(f"{folder} must hold records of one character, not of {', '.join(names) or 'nobody'}")
    paragraphs = list(read_records(folder / PARAGRAPHS, ParagraphRecord))
    own = [record for record in records if record.kind != GENERAL and record.asked_of is None]
    stages: dict[str, Stage] = {}
    for record in sorted(own, key=lambda r: r.label):
        if record.stage is not None and record.stage not in stages:
            parts = [p for p in paragraphs if p.id.startswith(f"{record.stage}/")]
            knowledge, style = (
                tuple(Paragraph(p.id, kind, p.text, p.origin) for p in parts if p.kind == kind)  # type: ignore[arg-type]
                for kind in ("knowledge", "style")
            )
            stages[record.stage] = Stage(record.stage, record.label, record.time, knowledge, style)
    questions: list[CastQuestion] = []
    for stage, material in stages.items():
        asked = sorted((r for r in own if r.stage == stage and r.split == "test"), key=lambda r: r.id)
        if not asked:
            raise DPGError(f"{folder} has no test question of {names[0]}'s stage {stage}")
        if not material.knowledge or not material.style:
            raise DPGError(f"{folder / PARAGRAPHS} has no material of {names[0]}'s stage {stage}")
        if limit is not None and len(asked) > limit:
            asked = sorted(random.Random(seed).sample(asked, limit), key=lambda r: r.id)
        questions += [_question(record) for record in asked]
    said = {s: tuple(_responses([r for r in own if r.stage == s and r.split == "train"])) for s in stages}
    return Person(names[0], stages, tuple(questions), said)


def load_cast(folders: Sequence[Path], *, limit: int | None = None, seed: int = 0) -> list[Person]:
    """Several people.

    Raises:
        ValueError: nobody, or somebody twice; and as `load_person`.
    """
    found = [load_person(folder, limit=limit, seed=seed) for folder in folders]
    names = [person.name for person in found]
    if not names or len(set(names)) < len(names):
        raise DPGError(f"name folders of different characters (at least one), not of {', '.join(names) or 'nobody'}")
    return found


def _question(record: PersonifiedRecord) -> CastQuestion:
    known = record.source.split("/")[1:2] != ["style"]
    first = record.messages[1].content
    return CastQuestion(
        record.id,
        record.character or "",
        record.stage or "",
        record.kind,
        record.question,
        split_reply(first)[1],
        first,
        known,
    )


def _responses(records: Sequence[PersonifiedRecord]) -> list[str]:
    return [split_reply(turn.content)[1] for r in records for turn in r.messages if turn.role == "assistant"]
