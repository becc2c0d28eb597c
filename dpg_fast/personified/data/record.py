"""What annotation makes: personified conversations, one JSON line each."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.text.records import DialogueRecord, Turn
from dpg_fast.util.errors import DPGError

ItemKind = Literal["ordinary", "thought", "error", "general"]
ITEM_KINDS: tuple[ItemKind, ...] = ("ordinary", "thought", "error", "general")
Stance = Literal["agrees", "partly", "disagrees", "corrects", "does not know", "neutral"]
Split = Literal["train", "test"]
ANALYSIS, RESPONSE = "[Analysis]", "[Response]"


class Annotation(BaseModel):
    """Who wrote a record: model, wording of the prompts, and what found the materials."""

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt_version: str
    embedding: str
    verified: bool


class PersonifiedRecord(DialogueRecord):
    """A conversation with a character at a stage of its life.

    The assistant's turns hold an analysis and a response, each behind its marker: `split_reply` takes them apart.

    Attributes:
        id: "stage-kind-number"; of an answer to another stage's question, that record's id, "@" and the stage.
        kind: of user turn: ordinary question, thought (an opinion), error (a false premise), general instruction.
        split: train or test.
        label: temporal label of the stage, without angle brackets.
        time: the sentence that told the annotator when it is.
        source: id of the paragraph the first user turn was written from, or "general#number".
        knowledge, style: ids of the paragraphs given with the last answer.
        stance: towards the last user turn, as the annotator sees it.
        asked_of: whose question it is, in an answer to another stage's question.
    """

    id: str
    kind: ItemKind
    split: Split
    label: str
    time: str | None = None
    knowledge: list[str] = Field(default_factory=list)
    style: list[str] = Field(default_factory=list)
    stance: Stance
    asked_of: str | None = None
    annotation: Annotation

    @property
    def question(self) -> str:
        """The first user turn."""
        return next(turn.content for turn in self.messages if turn.role == "user")

    @property
    def answer(self) -> str:
        """The last assistant turn, markers and analysis included."""
        return self.messages[-1].content


class LostItem(BaseModel):
    """An item that gave no record, and why.

    Attributes:
        id: as the record would have had.
        step: "question", "answer", "check" (of the answer), "verdict" or "follow-up".
        reason, detail: the rule that removed it, or the kind of failure of the call.
        failed: the call failed; another run tries again where nothing was paid for.
        text: what was removed.
    """

    id: str
    stage: str
    kind: ItemKind
    step: Literal["question", "answer", "check", "verdict", "follow-up"]
    reason: str
    detail: str = ""
    failed: bool = False
    text: str = ""
    source: str = ""


def join_reply(analysis: str, response: str) -> str:
    """ "[Analysis] ..., newline, [Response] ..."."""
    return f"{ANALYSIS} {analysis.strip()}\n{RESPONSE} {response.strip()}"


def split_reply(text: str) -> tuple[str, str]:
    """Analysis and response of an assistant turn.

    Raises:
        ValueError: the text does not begin with `ANALYSIS`, or does not have each marker once.
    """
    if not text.startswith(ANALYSIS) or text.count(ANALYSIS) != 1 or text.count(RESPONSE) != 1:
        raise DPGError(f"wanted {ANALYSIS} ... {RESPONSE} ..., each marker once, not {text[:80]!r}")
    analysis, response = text.removeprefix(ANALYSIS).split(RESPONSE)
    return analysis.strip(), response.strip()


def without_analysis(messages: list[Turn]) -> list[Turn]:
    """The conversation with the responses alone in the assistant's turns."""
    return [
        Turn(role=turn.role, content=split_reply(turn.content)[1]) if turn.role == "assistant" else turn
        for turn in messages
    ]
