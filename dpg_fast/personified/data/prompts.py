"""Prompts for user turns, golden answers and verdicts. The tasks are PersLLM's (arXiv 2407.12393)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.llm import Call, Fence
from dpg_fast.personified.data import wording
from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.record import ItemKind, Stance, split_reply
from dpg_fast.personified.data.retrieval import Materials
from dpg_fast.util.errors import DPGError

PROMPT_VERSION = "personified-1"
QUESTION_TOKENS, ANSWER_TOKENS, VERDICT_TOKENS = 60, 350, 90  # expected in a reply, for the price of a dry run
Dialogue = Sequence[tuple[str, str]]  # (user, assistant) exchanges, the assistant's with both parts


class UserTurn(BaseModel):
    """The reply to a request for a user turn."""

    text: str = Field(description="what the user says, and nothing else")


class GoldenAnswer(BaseModel):
    """The reply to a request for an answer in character."""

    analysis: str = Field(
        description="what the speaker makes of the message: what is asked or claimed, what the speaker "
        "remembers that bears on it, whether a premise is wrong, and how the speaker wants to answer; two to four sentences"
    )
    stance: Stance = Field(description="towards what the user says")
    answerable: bool = Field(
        description="false if the person could not know what is asked for, or the materials say nothing that bears on it"
    )
    response: str = Field(description="what the speaker says to the user")


class AnswerVerdict(BaseModel):
    """The reply to a request for a judgement of an answer."""

    model_config = ConfigDict(title="Verdict")  # part of the key of replies in a cache

    supported: bool = Field(
        description="no statement of fact about the person goes against the materials or adds to them"
    )
    in_time: bool = Field(description="the answer knows nothing that comes after the given time")
    premise_handled: bool = Field(
        description="false only if the user states something that the materials contradict and the answer lets it pass"
    )
    in_voice: bool = Field(
        description="it sounds like the person's own words, not like an assistant or an encyclopedia"
    )
    problem: str = Field(description="the worst fault in one sentence, or an empty text")


@dataclass(frozen=True)
class Shot:
    """A paragraph of the same character, a user turn written from it, and the answer: shown before a call as a chat."""

    text: str
    question: str
    answer: GoldenAnswer


def question_call(
    item: str,
    name: str,
    language: str,
    stage: Stage,
    kind: ItemKind,
    source: Paragraph,
    draw: int,
    guidance: str = "",
    shots: Sequence[Shot] = (),
) -> Call[UserTurn]:
    """The call for the first user turn written from ``source``; each ``draw`` is about something else."""
    number = zlib.crc32(source.id.encode()) + draw
    fence = Fence.around([source.text, *(shot.text for shot in shots)])
    if kind == "ordinary":
        wanted = wording.text("ordinary").format(name=name, about=wording.ABOUT[number % len(wording.ABOUT)])
    elif kind == "thought":
        wanted = wording.text("thought").format(name=name, attitude=wording.ATTITUDES[number % len(wording.ATTITUDES)])
    elif kind == "error":
        wanted = wording.text("error").format(name=name)
    else:
        raise DPGError(f"no user turn of kind {kind!r} is written from a paragraph")
    system = wording.text("question_system").format(
        name=name, language=language, time=_time(stage), notice=fence.notice()
    )
    wanted += _guidance(guidance)
    chat = [
        (f"{wanted}\n\n{fence.wrap('text', shot.text)}", UserTurn(text=shot.question).model_dump_json())
        for shot in shots
    ]
    return _call(item, system, f"{wanted}\n\n{fence.wrap('text', source.text)}", UserTurn, draw=draw, chat=chat)


def follow_up_call(
    item: str, name: str, language: str, stage: Stage, source: Paragraph, dialogue: Dialogue, guidance: str = ""
) -> Call[UserTurn]:
    """The call for the next user turn of a conversation."""
    said = _transcript(dialogue)
    fence = Fence.around([source.text, said])
    system = wording.text("question_system").format(
        name=name, language=language, time=_time(stage), notice=fence.notice()
    )
    user = (
        f"{wording.text('follow').format(name=name)}{_guidance(guidance)}\n\n{fence.wrap('conversation', said)}\n"
        f"{fence.wrap('text', source.text)}"
    )
    return _call(item, system, user, UserTurn)


def answer_call(
    item: str,
    name: str,
    language: str,
    stage: Stage,
    kind: ItemKind,
    question: str,
    materials: Materials,
    *,
    dialogue: Dialogue = (),
    guidance: str = "",
    check: Callable[[GoldenAnswer], str | None] | None = None,
    shots: Sequence[Shot] = (),
    draw: int = 0,
) -> Call[GoldenAnswer]:
    """The call for the character's answer to ``question``, after the exchanges of ``dialogue``.

    ``shots`` take the place of the answers by another person that are shown otherwise; ``draw`` numbers candidates.
    """
    knowledge, style = _join(materials.knowledge), _join(materials.style)
    said = _transcript(dialogue)
    shown = [text for shot in shots for text in (shot.text, shot.question)]
    fence = Fence.around([knowledge, style, said, question, *shown])
    note = {"error": wording.text("error_note"), "general": wording.text("general_note")}.get(
        kind, wording.text("no_error_note")
    )
    system = wording.text("answer_system").format(
        name=name,
        language=language,
        time=_time(stage),
        notice=fence.notice(),
        error=note,
        guidance=_guidance(guidance),
        examples="" if shots else wording.text("examples_title") + "\n\n".join(map(_example, wording.EXAMPLES)),
    )
    known, asked = f"What {name} has lived and knows:\n", "Answer this message of the user:\n"
    chat = [
        (
            f"{known}{fence.wrap('knowledge', shot.text)}\n\n{asked}{fence.wrap('message', shot.question)}",
            shot.answer.model_dump_json(),
        )
        for shot in shots
    ]
    parts = [
        f"{known}{fence.wrap('knowledge', knowledge)}",
        f"Samples of {name}'s own words:\n{fence.wrap('style', style)}",
    ]
    if said:
        parts.append(f"The conversation so far:\n{fence.wrap('conversation', said)}")
    parts.append(f"{asked}{fence.wrap('message', question)}")
    return _call(item, system.strip(), "\n\n".join(parts), GoldenAnswer, draw=draw, check=check, chat=chat)


def verdict_call(
    item: str,
    name: str,
    stage: Stage,
    question: str,
    answer: GoldenAnswer,
    materials: Materials,
    dialogue: Dialogue = (),
) -> Call[AnswerVerdict]:
    """The call that judges an answer by the materials it was written from."""
    known = _join((*materials.knowledge, *materials.style))
    said = _transcript(dialogue)
    fence = Fence.around([known, said, question, answer.response])
    system = wording.text("verdict_system").format(name=name, time=_time(stage), notice=fence.notice())
    user = (
        f"Materials:\n{fence.wrap('materials', known)}\n\n"
        + (f"The conversation so far:\n{fence.wrap('conversation', said)}\n\n" if said else "")
        + f"The user said:\n{fence.wrap('message', question)}\n\n"
        f"The answer:\n{fence.wrap('answer', answer.response)}"
    )
    return _call(item, system, user, AnswerVerdict)


def instructions(name: str) -> str:
    """What the prompts themselves say, without materials: what no answer may repeat."""
    blank: Any = {key: "" for key in ("time", "notice", "language", "error", "guidance", "examples")} | {"name": name}
    notes = (wording.text("error_note"), wording.text("no_error_note"), wording.text("general_note"))
    return "\n".join([wording.text("answer_system").format(**blank), *notes, *(r for _, _, r in wording.EXAMPLES)])


def fault_of(
    verdict: AnswerVerdict,
) -> Literal["unsupported", "out of time", "premise not corrected", "not in voice"] | None:
    """The first fault that a verdict names."""
    if not verdict.supported:
        return "unsupported"
    if not verdict.in_time:
        return "out of time"
    if not verdict.premise_handled:
        return "premise not corrected"
    return None if verdict.in_voice else "not in voice"


def _call(
    item: str,
    system: str,
    user: str,
    answer: type[Any],
    draw: int = 0,
    check: Any = None,
    chat: Sequence[tuple[str, str]] = (),
) -> Call[Any]:
    messages = [{"role": "system", "content": system}]
    for asked, said in chat:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return Call(item, [*messages, {"role": "user", "content": user}], answer, PROMPT_VERSION, draw=draw, check=check)


def _example(example: tuple[str, str, str]) -> str:
    question, analysis, response = example
    return f"User: {question}\nanalysis: {analysis}\nresponse: {response}"


def _time(stage: Stage) -> str:
    return f"{stage.time} " if stage.time else ""


def _guidance(text: str) -> str:
    return f"\nFurther: {text.strip()}" if text.strip() else ""


def _join(paragraphs: Sequence[Paragraph]) -> str:
    return "\n\n".join(paragraph.text for paragraph in paragraphs)


def _transcript(dialogue: Dialogue) -> str:
    return "\n".join(f"User: {user}\nAnswer: {split_reply(answer)[1]}" for user, answer in dialogue)
