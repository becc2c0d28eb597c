"""Lessons for a writer: the builder's own prompts with replies written by hand, to teach a small model before it is asked.

Ours: PersLLM's annotator is a strong model behind an API. A model that has seen the prompts answered keeps their form and
comes nearer to the character's manner; that its facts are right is not learnt from some dozens of lessons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from dpg_fast.llm import Call
from dpg_fast.personified.data.build import Annotator
from dpg_fast.personified.data.drafts import Draft
from dpg_fast.personified.data.prompts import UserTurn
from dpg_fast.personified.data.slots import PersonifySettings, Slot, split_of
from dpg_fast.personified.data.written import Example
from dpg_fast.text.records import Turn
from dpg_fast.util.errors import DPGError


class WriterLesson(BaseModel):
    """One call and its reply, in TRL's conversational prompt and completion form.

    Attributes:
        id: of the example and the step: "early-ordinary-w01 answer".
        prompt: system and user turns as `dpg-fast data personified build` sends them, demonstrations included.
        completion: the reply as one assistant turn of JSON.
    """

    id: str
    prompt: list[Turn]
    completion: list[Turn]


def training_examples(examples: Sequence[Example], settings: PersonifySettings) -> tuple[Example, ...]:
    """The examples whose records are for training, so that who learns from them has seen no test record."""
    return tuple(e for e in examples if split_of(e.name.split("@")[0], settings) == "train")


def writer_lessons(annotator: Annotator) -> list[WriterLesson]:
    """The lessons of an annotator's examples: a user turn and an answer of each, and the answers across stages.

    Raises:
        ValueError: there are no examples.
    """
    if not annotator.examples:
        raise DPGError(
            f"{annotator.character.name} has no examples to learn from: put some into STAGE/examples.jsonl, enough that not "
            "all of them are test records"
        )
    drafts = [_draft(example) for example in annotator.examples]
    annotator.find_materials(drafts)
    return [
        lesson
        for example, draft in zip(annotator.examples, drafts, strict=True)
        for lesson in _lessons(annotator, example, draft)
    ]


def _draft(example: Example) -> Draft:
    own = example.paragraph if example.asked_of is None else None
    return Draft(
        example.name, example.stage, example.kind, own, example.paragraph.id, example.question, example.asked_of
    )


def _lessons(annotator: Annotator, example: Example, draft: Draft) -> Iterator[WriterLesson]:
    if example.asked_of is None:
        slot = Slot(example.name, example.stage, example.kind, example.paragraph, 0)
        yield _lesson(annotator.question_call(slot), "question", UserTurn(text=example.question))
    yield _lesson(annotator.answer_call(draft), "answer", example.answer)


def _lesson(call: Call[BaseModel], step: str, reply: BaseModel) -> WriterLesson:
    return WriterLesson(
        id=f"{call.item} {step}",
        prompt=[Turn.model_validate(turn) for turn in call.messages],
        completion=[Turn(role="assistant", content=reply.model_dump_json())],
    )
