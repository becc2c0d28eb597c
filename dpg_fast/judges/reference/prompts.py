"""What a judge is told and how it answers when it compares answers with a reference: kind, agreement, ranking.

The tasks are PersLLM's (arXiv 2407.12393): an item is labelled knowledge, attitude or neither; an answer's agreement with its
reference is rated from 0 (conflict) to 5 (the same); systems are ranked given question and reference, once for knowledge and
once for attitude and style, ties allowed. The wording, the levels between, a rating that looks at the item's kind alone, letters
in place of systems' names, structured replies and fences are this package's own, so figures are not comparable with published
ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from string import ascii_lowercase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from dpg_fast.llm import Fence
from dpg_fast.text.records import Text
from dpg_fast.util.identity import digest

PROMPT_VERSION = "reference-1"
MAX_SYSTEMS = len(ascii_lowercase)
ItemKind = Literal["knowledge", "attitude", "neither"]
Aspect = Literal["knowledge", "attitude"]
ASPECTS: tuple[Aspect, ...] = ("knowledge", "attitude")

_LOOK = {
    "knowledge": "knowledge: the facts, events, people, places and skills that they state or take for granted",
    "attitude": "attitude: the opinions, feelings, values and wishes that they express, and the manner of speaking",
}
_KIND_SYSTEM = """You sort questions to a character. You see a question and the reference answer, which is right by definition. \
Say what the reference answer mainly shows:
- knowledge: facts that the character knows, or corrects;
- attitude: what the character thinks, feels, values or wants;
- neither: nothing of the character, such as a greeting or a general task.
Give your reason in at most 30 words, then the kind.
{notice}"""
_RATING_SYSTEM = """You compare an answer with a reference answer to the same question. The reference is right by definition. \
Look at {look}. Nothing else counts, neither length nor wording, nor which of the two is better written.
Explain your rating in at most 30 words, then give it:
0: it contradicts the reference, or is empty;
1: it says something else that has nothing to do with the reference;
2: little of the reference is there, or as much is contradicted as is met;
3: about half of the reference is there and nothing important is contradicted;
4: nearly all of it is there, with small gaps or additions;
5: it is the same in substance.
{notice}"""
_RANKING_SYSTEM = """You compare several answers to one question with a reference answer, which is right by definition. Look at \
{look}. Nothing else counts, neither length nor the order in which the answers are shown.
For each answer give a reason in at most 30 words, then its rank: 1 for the one closest to the reference, then 2 and so on. \
Answers that are equally close share a rank. An empty answer is last.
{notice}"""
_PAIR = """This question was asked:
{question}

This is the reference answer:
{reference}"""


class AnswersRecord(BaseModel):
    """A question, the answer it should get, and what systems answered.

    Attributes:
        question, reference: both not empty.
        answers: system -> its answer, which may be empty; 1 to 26 systems.
        kind: what the reference shows; None lets the judge say so.
        character: who is asked; for reports, the judge does not see it.
        id: the user's own name for it, which goes into the output.
    """

    model_config = ConfigDict(extra="forbid")

    question: Text
    reference: Text
    answers: dict[Text, str] = Field(min_length=1, max_length=MAX_SYSTEMS)
    kind: ItemKind | None = None
    character: str | None = None
    id: str | int | None = None


class KindReply(BaseModel):
    """What an item is about."""

    reason: str = Field(description="at most 30 words")
    kind: ItemKind


class AgreementReply(BaseModel):
    """How far an answer agrees with its reference."""

    explanation: str = Field(description="at most 30 words")
    rating: Literal[0, 1, 2, 3, 4, 5]


@cache
def ranking_reply(systems: int) -> type[BaseModel]:
    """The reply of a ranking: a field for each letter with "reason" and "rank" (1 to ``systems``), no other and none left out."""
    ranks: Any = Literal[tuple(range(1, systems + 1))]
    place = create_model(
        "Place", __config__=ConfigDict(extra="forbid"), reason=(str, Field(description="at most 30 words")), rank=ranks
    )
    fields: Any = dict.fromkeys(ascii_lowercase[:systems], (place, ...))
    return create_model(f"Ranking{systems}", __config__=ConfigDict(extra="forbid"), **fields)


def shown_order(record: AnswersRecord, aspect: Aspect, seed: int) -> list[str]:
    """The systems in the order in which a judge sees them: drawn from seed, aspect and what the record says, not its place."""
    key = digest([record.question, record.reference, sorted(record.answers.items()), aspect, seed])
    systems = sorted(record.answers)
    random.Random(key).shuffle(systems)
    return systems


def kind_messages(record: AnswersRecord) -> list[dict[str, str]]:
    """The prompt that asks what an item is about; it holds no system's answer."""
    fence = Fence.around([record.question, record.reference])
    user = f"{_pair(record, fence)}\n\nWhat does the reference answer show?"
    return _messages(_KIND_SYSTEM.format(notice=fence.notice()), user)


def rating_messages(record: AnswersRecord, answer: str, aspect: Aspect) -> list[dict[str, str]]:
    """The prompt that asks how far ``answer`` agrees with the reference in ``aspect``."""
    fence = Fence.around([record.question, record.reference, answer])
    user = (
        f"{_pair(record, fence)}\n\nThis is the answer to be rated:\n{fence.wrap('answer', answer)}\n\n"
        f"How far does it agree with the reference in {aspect}?"
    )
    return _messages(_RATING_SYSTEM.format(look=_LOOK[aspect], notice=fence.notice()), user)


def ranking_messages(record: AnswersRecord, order: Sequence[str], aspect: Aspect) -> list[dict[str, str]]:
    """The prompt that asks for a ranking of the systems in ``order``, which are shown as answers a, b, ..."""
    fence = Fence.around([record.question, record.reference, *record.answers.values()])
    shown = "\n\n".join(
        f"Answer {letter}:\n{fence.wrap(f'answer_{letter}', record.answers[system])}"
        for letter, system in zip(ascii_lowercase, order, strict=False)
    )
    user = f"{_pair(record, fence)}\n\nThese are the answers:\n{shown}\n\nRank them by {aspect}."
    return _messages(_RANKING_SYSTEM.format(look=_LOOK[aspect], notice=fence.notice()), user)


def ranks_of(reply: BaseModel, order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """System -> "rank" and "reason" of a `ranking_reply`, the letters put back to the systems of ``order``."""
    found: Mapping[str, Any] = reply.model_dump()
    return {system: found[letter] for letter, system in zip(ascii_lowercase, order, strict=False)}


def _pair(record: AnswersRecord, fence: Fence) -> str:
    return _PAIR.format(
        question=fence.wrap("question", record.question), reference=fence.wrap("reference", record.reference)
    )


def _messages(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
