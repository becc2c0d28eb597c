"""Situational questions and persona descriptions: those of the package, and PersonalityBench files.

The shipped texts are split by purpose: "search" (finding neurons, making training data), "fit" or "judge"
(fitting a judge, and the personas it compares), "holdout" (looked at while the judge was chosen), "validation"
(written before that and evaluated once, after it).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import json_lines

QuestionSplit = Literal["search", "fit", "holdout", "validation"]
DescriptionSplit = Literal["search", "judge", "holdout", "validation"]


@dataclass(frozen=True)
class Question:
    """An open question about an everyday situation in which `trait` shows."""

    id: str
    trait: Trait
    split: QuestionSplit
    question: str


@dataclass(frozen=True)
class DescriptionEntry:
    """A second-person description of somebody at `pole`. The n-th high and low ones of a trait are a pair."""

    id: str
    pole: Pole
    split: DescriptionSplit
    text: str


@dataclass(frozen=True)
class PersonalityBench:
    """Files of PersonalityBench (RUCAIBox/NPTI): test questions per trait, persona paragraphs per pole."""

    questions: dict[Trait, tuple[str, ...]]
    descriptions: dict[Pole, tuple[str, ...]]


def load_questions(trait: Trait | str | None = None, split: QuestionSplit | None = None) -> tuple[Question, ...]:
    """The shipped questions, of one trait and one split if these are given.

    Raises:
        ValueError: unknown trait or split.
    """
    _check_split(split, get_args(QuestionSplit))
    wanted = None if trait is None else Trait.parse(trait)
    return tuple(row for row in _questions() if wanted in (None, row.trait) and split in (None, row.split))


def load_descriptions(pole: Pole | str, split: DescriptionSplit | None = None) -> tuple[DescriptionEntry, ...]:
    """The shipped descriptions of a pole ("E+"), of one split if that is given.

    Raises:
        ValueError: unknown pole or split.
    """
    _check_split(split, get_args(DescriptionSplit))
    wanted = pole if isinstance(pole, Pole) else Pole.parse(pole)
    return tuple(row for row in _descriptions() if row.pole == wanted and split in (None, row.split))


def load_personalitybench(folder: Path | str) -> PersonalityBench:
    """Read `{Trait}.jsonl` (keys `question`) and `descriptions.jsonl` (keys `Trait`, `Trait_reversed`).

    Raises:
        FileNotFoundError: one of the six files is missing.
        ValueError: a line is not of the format; the message names file and line.
    """
    folder = Path(folder)
    questions = {
        trait: tuple(
            _text(row, "question", where) for where, row in json_lines(folder / f"{trait.value.capitalize()}.jsonl")
        )
        for trait in Trait
    }
    rows = list(json_lines(folder / "descriptions.jsonl"))
    descriptions = {
        pole: tuple(
            _text(row, pole.trait.value.capitalize() + ("" if pole.high else "_reversed"), where) for where, row in rows
        )
        for pole in POLES
    }
    return PersonalityBench(questions, descriptions)


def _check_split(split: str | None, accepted: tuple[str, ...]) -> None:
    if split is not None and split not in accepted:
        raise DPGError(f"unknown split {split!r}; accepted: {', '.join(accepted)}")


def _asset(name: str) -> str:
    return resources.files("dpg_fast").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _questions() -> tuple[Question, ...]:
    rows = (json.loads(line) for line in _asset("questions.jsonl").splitlines())
    return tuple(Question(row["id"], Trait.parse(row["trait"]), row["split"], row["question"]) for row in rows)


@cache
def _descriptions() -> tuple[DescriptionEntry, ...]:
    return tuple(
        DescriptionEntry(row["id"], Pole.parse(pole), row["split"], row["text"])
        for pole, rows in json.loads(_asset("descriptions.json")).items()
        for row in rows
    )


def _text(row: Any, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DPGError(f"{where}: needs the key {key!r} with a text")
    return value.strip()
