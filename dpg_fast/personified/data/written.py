"""Conversations that somebody wrote by hand: STAGE/examples.jsonl in a character's folder.

They show a model how this character is asked and answers (`PersonifySettings.shots`), and can stand among the records
(`PersonifySettings.written`), marked as written. One JSON object a line:

{"source": "written", "id": "w01", "kind": "error", "paragraph": "early/knowledge/ferry.txt#3", "question": "...",
 "analysis": "...", "stance": "corrects", "response": "..."}

{"source": "written", "id": "w01", "asked_of": "early", "analysis": "...", "stance": "...", "response": "..."}: in another
stage's file, that stage's answer to the same question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from dpg_fast.personified.data.material import CharacterMaterial, Name, Paragraph, Stage
from dpg_fast.personified.data.prompts import GoldenAnswer, Shot
from dpg_fast.personified.data.record import ItemKind, Stance
from dpg_fast.text.records import Text, numbered_records
from dpg_fast.util.errors import DPGError

EXAMPLES = "examples.jsonl"
WRITTEN = "written"  # stands where records name the model


class WrittenExample(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["written"]
    id: Name
    kind: Literal["ordinary", "thought", "error"] | None = None
    paragraph: Text | None = None
    question: Text | None = None
    asked_of: Name | None = None
    analysis: Text
    stance: Stance
    response: Text

    @model_validator(mode="after")
    def _check(self) -> WrittenExample:
        own = (self.kind, self.paragraph, self.question)
        if self.asked_of is None and None in own:
            raise DPGError(
                "kind, paragraph and question are needed, or asked_of with the id of another stage's example"
            )
        if self.asked_of is not None and own != (None, None, None):
            raise DPGError("with asked_of, kind, paragraph and question are those of the other stage's example")
        return self


@dataclass(frozen=True)
class Example:
    """An example with its question looked up.

    Attributes:
        name: of the record: "stage-kind-id", with "@stage" for an answer to another stage's question.
        stage: that answers.
        asked_of: the stage whose question it is, if another's.
    """

    name: str
    stage: Stage
    kind: ItemKind
    paragraph: Paragraph
    question: str
    answer: GoldenAnswer
    asked_of: str | None = None


def load_examples(folder: Path, character: CharacterMaterial) -> tuple[Example, ...]:
    """All stages' examples, in the order of stages and lines; a stage without a file has none.

    Raises:
        ValueError: a line is not of the form above, names no paragraph of its stage, or repeats an id; the message names
            file and line.
    """
    stages = {stage.id: stage for stage in character.stages}
    rows: list[tuple[str, Stage, WrittenExample]] = []
    for stage in character.stages:
        path = folder / stage.id / EXAMPLES
        if path.is_file():
            rows += [(where, stage, row) for where, row in numbered_records(path, WrittenExample, str(path))]
    own: dict[tuple[str, str], Example] = {}
    for where, stage, row in rows:
        if row.asked_of is not None:
            continue
        found = next((p for p in stage.paragraphs if p.id == row.paragraph), None)
        if found is None:
            raise DPGError(f"{where}: stage {stage.id!r} has no paragraph {row.paragraph!r}")
        if (stage.id, row.id) in own:
            raise DPGError(f"{where}: the id {row.id!r} is taken")
        assert row.kind is not None and row.question is not None
        name = f"{stage.id}-{row.kind}-{row.id}"
        own[stage.id, row.id] = Example(name, stage, row.kind, found, row.question, _answer(row))
    found_all = list(own.values())
    names = {example.name for example in found_all}
    for where, stage, row in rows:
        if row.asked_of is None:
            continue
        asked = own.get((row.asked_of, row.id))
        if row.asked_of not in stages or row.asked_of == stage.id or asked is None:
            raise DPGError(f"{where}: another stage {row.asked_of!r} with an example {row.id!r} is wanted")
        name = f"{asked.name}@{stage.id}"
        if name in names:
            raise DPGError(f"{where}: the id {row.id!r} is taken")
        names.add(name)
        found_all.append(
            Example(name, stage, asked.kind, asked.paragraph, asked.question, _answer(row), asked.stage.id)
        )
    return tuple(found_all)


def choose(
    examples: Sequence[Example], stage: Stage, kind: ItemKind, source: Paragraph | None, count: int, draw: str
) -> list[Shot]:
    """``count`` examples of the stage to show before a call, drawn by the text ``draw``.

    Of the same kind (any kind for general instructions); never one written from the same paragraph, which a weak model would
    repeat.
    """
    fitting = [
        example
        for example in examples
        if example.stage.id == stage.id
        and example.asked_of is None
        and (kind == "general" or example.kind == kind)
        and (source is None or example.paragraph.id != source.id)
    ]
    drawn = random.Random(draw).sample(fitting, min(count, len(fitting)))
    return [Shot(example.paragraph.text, example.question, example.answer) for example in drawn]


def _answer(row: WrittenExample) -> GoldenAnswer:
    return GoldenAnswer(analysis=row.analysis, stance=row.stance, answerable=True, response=row.response)
