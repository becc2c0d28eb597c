"""Conversations on their way to records, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.prompts import GoldenAnswer
from dpg_fast.personified.data.record import ItemKind, LostItem, PersonifiedRecord, split_reply
from dpg_fast.personified.data.retrieval import Materials

Step = Literal["question", "answer", "check", "verdict", "follow-up"]


@dataclass
class Draft:
    """A conversation under way: exchanges so far, and the question that is open.

    Attributes:
        draw: which candidate for the open question's answer, from 0.
        written: by somebody, not by the model.
    """

    id: str
    stage: Stage
    kind: ItemKind
    source: Paragraph | None
    source_id: str
    question: str
    asked_of: str | None = None
    exchanges: list[tuple[str, str]] = field(default_factory=list)
    materials: Materials | None = None
    answer: GoldenAnswer | None = None
    draw: int = 0
    written: bool = False

    def asked_of_stage(self, other: Stage, question: str) -> Draft:
        """The same question, put to another stage."""
        return Draft(f"{self.id}@{other.id}", other, self.kind, None, self.source_id, question, self.stage.id)


@dataclass
class Build:
    """What came of it.

    Attributes:
        records: conversations that passed, in the order of stages and slots.
        cross: one stage's answers to another's questions (`asked_of`), for preference pairs.
        lost: what was removed or failed, with reasons.
        refused: candidates that fell where another one was asked for.
        written: user turns that the model wrote.
    """

    records: list[PersonifiedRecord] = field(default_factory=list)
    cross: list[PersonifiedRecord] = field(default_factory=list)
    lost: list[LostItem] = field(default_factory=list)
    refused: list[LostItem] = field(default_factory=list)
    written: int = 0


def answers_of(record: PersonifiedRecord) -> list[str]:
    """The responses of a record, without their analyses."""
    return [split_reply(turn.content)[1] for turn in record.messages if turn.role == "assistant"]


def clean_turn(text: str) -> str:
    """A user turn on one line, without quotation marks around it."""
    return " ".join(text.split()).strip('"“”')
