"""What annotation would ask, for the price of a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from dpg_fast.llm import Call
from dpg_fast.personified.data import prompts
from dpg_fast.personified.data.build import Annotator
from dpg_fast.personified.data.drafts import Draft, clean_turn
from dpg_fast.personified.data.prompts import GoldenAnswer
from dpg_fast.personified.data.record import join_reply
from dpg_fast.personified.data.slots import slots

_STAND_IN = "and so it went, as far as I remember it " * 6  # about as long as a response


def expected_calls(annotator: Annotator) -> list[tuple[str, list[Call[Any]], int]]:
    """What `Annotator.build` would ask, without asking: (step, calls, expected tokens of a reply).

    User turns that are stored are taken as they are; for the others the source paragraph stands in, so their answers are
    estimates. Answers are stood in for likewise.
    """
    settings, client = annotator.settings, annotator.asker.client
    questions: list[Call[Any]] = []
    drafts: list[Draft] = []
    for stage in annotator.character.stages:
        for slot in islice(slots(stage, settings), settings.items):
            call = annotator.question_call(slot)
            known = client.stored(call)
            text = known.value.text if known is not None and known.value is not None else slot.source.text
            questions.append(call)
            drafts.append(Draft(slot.id, stage, slot.kind, slot.source, slot.source.id, clean_turn(text)))
    general = [draft for stage in annotator.character.stages for draft in annotator.general_drafts(stage)]
    cross = [
        d.asked_of_stage(other, d.question)
        for d in drafts[: round(len(drafts) * settings.cross * (1 - settings.test))]
        for other in annotator.character.stages
        if other.id != d.stage.id
    ]
    further = [
        replace(d, id=f"{d.id}+{number}", exchanges=[(d.question, join_reply("-", _STAND_IN))] * (number - 1))
        for number in range(2, settings.turns + 1)
        for d in drafts
    ]
    answered = [*drafts, *further, *general, *cross]
    annotator.find_materials(answered)
    plan: list[tuple[str, list[Call[Any]], int]] = [("user turns", questions, prompts.QUESTION_TOKENS)]
    if further:
        calls = [annotator.follow_up_call(d, d.source) for d in further if d.source is not None]
        plan.append(("further user turns", calls, prompts.QUESTION_TOKENS))
    plan.append(("answers", [annotator.answer_call(d) for d in answered], prompts.ANSWER_TOKENS))
    if settings.verify:
        plan.append(("verdicts", _verdicts(annotator, answered), prompts.VERDICT_TOKENS))
    return plan


def _verdicts(annotator: Annotator, drafts: Sequence[Draft]) -> list[Call[Any]]:
    calls = []
    for draft in drafts:
        if draft.kind == "general":
            continue
        known = annotator.asker.client.stored(annotator.answer_call(draft))
        value = None if known is None else known.value
        stand_in = GoldenAnswer(analysis="-", stance="neutral", answerable=True, response=draft.question)
        draft.answer = value or stand_in
        calls.append(annotator.verdict_call(draft))
    return calls
