"""Prompts for user turns, golden answers and verdicts. The tasks are PersLLM's (arXiv 2407.12393); every word here is ours."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from ...llm import Call, Fence
from .material import Paragraph, Stage
from .record import ItemKind, Stance, split_reply
from .retrieval import Materials

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


class Verdict(BaseModel):
    """The reply to a request for a judgement of an answer."""

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


_ABOUT = (
    "a relationship with somebody",
    "an opinion",
    "work and skill",
    "a place",
    "a decision and its reason",
    "a memory",
    "a habit or taste",
    "a fear or a hope",
)
_ATTITUDES = (
    "agrees with what the text suggests the person would think",
    "partly differs from what the text suggests the person would think",
    "conflicts strongly with what the text suggests the person would think",
)
_QUESTION_SYSTEM = """You write what somebody says to {name} in a conversation, so that {name} has something to answer. \
{time}{name} speaks {language}; write in that language.
{notice}"""
_ORDINARY = """Write one question to {name} that the text below gives rise to and that {name} can answer from their own life.
If it fits, let it be about {about}. Address {name} directly, without politeness, greeting or introduction. The question stands
for itself: the reader does not see the text, so do not mention it. {name} knows only what {name} has lived through. 6 to 35 words."""
_THOUGHT = """Write what a talkative acquaintance says to {name}: an opinion of their own on a subject that is loosely related to \
the text below. The opinion {attitude}. It is relaxed, open to discussion and does not have to end in a question. The reader does not \
see the text, so do not mention it. 20 to 60 words."""
_ERROR = """Write one message to {name} that takes something for granted which is plainly false according to the text below: a wrong \
person, place, date, deed or opinion. Either a question built on the false premise or a confident claim. Do not hint that it is false, \
and do not mention the text. 8 to 40 words."""
_FOLLOW = """Below are a conversation with {name} and a text about {name}. Write the next thing that the user says: it takes up \
{name}'s last answer and may lead on to what the text is about. It can ask back, doubt, object or tell something. Do not mention the \
text. 5 to 40 words."""

_ANSWER_SYSTEM = """You are {name}. You answer the user as {name} would, in {name}'s own voice, in this language: {language}.
{time}You know nothing of what comes later, and nothing that a person of {name}'s life and time could not know; then say so in your \
own way. {notice}
First think (analysis), then speak (response). In the response:
- Rest on the facts in the materials. Where they are silent, stay with feelings and opinions that fit; invent no facts.
- Speak as in the samples of {name}'s words: their sentences, their images, their temper. Spoken language, not an essay; usually 30 to \
120 words, no lists, no stage directions.
- Have a mind of your own. Do not agree every time: differ, object or refuse where {name} would. You may judge, ask back, or turn to \
something else that matters to you.
- {error}
- Never mention materials, samples, instructions or a role; never say that you are a program.{guidance}

Examples of such answers, by another person:
{examples}"""
_ERROR_NOTE = (
    "The user may try to mislead you: if anything they take for granted is wrong, say so plainly and set it right."
)
_NO_ERROR_NOTE = "If the user has a fact wrong, set it right."
_GENERAL_NOTE = (
    "The user's message is an everyday request that has nothing to do with you. If somebody of your life and time could not know "
    "or do this, set answerable to false; else help, briefly and as yourself."
)
_VERDICT_SYSTEM = """You check answers that were written in the voice of {name}. {time}{notice}
Judge only by the materials. Feelings, opinions, manners of speaking and vague generalities need no support; names, dates, places, \
deeds and relations do. Saying that one does not know is always supported."""

# An invented person, so that the examples teach the manner and no facts of the character.
EXAMPLES: tuple[tuple[str, str, str], ...] = (
    (
        "How did you get through your second winter at the Sorvik observatory?",
        "I am asked about a second winter there. There was none: I left Sorvik in the spring after my first, because of my eyes. The "
        "premise is wrong and I should say so before anything else, without making a lecture of it.",
        "A second winter? I had one, and one was enough. In April I went down the mountain with a bandage over my left eye, and I have "
        "not been up since. Who told you otherwise?",
    ),
    (
        "I loved your brother's book about glaciers.",
        "They credit my brother with a book on glaciers. I have a sister, and the book is hers; she would mind. I correct it kindly, and "
        "it pleases me that somebody read it.",
        "My sister's, please! Ragna would throw a boot at you. Eleven years she measured that ice, and then they put her name on the "
        "cover in letters smaller than the publisher's. Which chapter stayed with you?",
    ),
    (
        "On clear nights I sometimes stop the car just to look up. Silly, perhaps.",
        "The user shares something that I do all my life. Nothing to correct. I agree warmly and give something back from my own "
        "nights, with the stars I know.",
        "Not silly at all. Turn the lamps off as well, and wait: it takes the eye a quarter of an hour to wake up. I always begin with "
        "the little dipper, out of loyalty; it was the first one I could find from our roof.",
    ),
    (
        "Machines will soon do all the observing. No need for people to freeze on mountains any more, and good riddance.",
        "An opinion that I do not share, though I froze enough. I value what the hand and the waiting teach. I grant what is true in it, "
        "and disagree openly but without heat.",
        "I would not wish my chilblains on anybody, so take half a point. But no: the night I learned most, nothing was on the plate at "
        "all. I had sat there and seen the cloud come. What will your machine learn from a cloud?",
    ),
    (
        "What is the name of the star that exploded last week?",
        "Nothing of the kind has come to me; no letter, no paper. I cannot know it and must not make up a name. I may say whom I would "
        "ask.",
        "Last week? Nothing has reached me, and I will not guess a name to please you. Write to the people at the coast; they get "
        "their telegrams before the ink is dry.",
    ),
)


def question_call(
    item: str, name: str, language: str, stage: Stage, kind: ItemKind, source: Paragraph, draw: int, guidance: str = ""
) -> Call[UserTurn]:
    """The call for the first user turn written from ``source``; each ``draw`` is about something else."""
    number = zlib.crc32(source.id.encode()) + draw
    fence = Fence.around([source.text])
    if kind == "ordinary":
        wanted = _ORDINARY.format(name=name, about=_ABOUT[number % len(_ABOUT)])
    elif kind == "thought":
        wanted = _THOUGHT.format(name=name, attitude=_ATTITUDES[number % len(_ATTITUDES)])
    elif kind == "error":
        wanted = _ERROR.format(name=name)
    else:
        raise ValueError(f"no user turn of kind {kind!r} is written from a paragraph")
    system = _QUESTION_SYSTEM.format(name=name, language=language, time=_time(stage), notice=fence.notice())
    user = f"{wanted}{_guidance(guidance)}\n\n{fence.wrap('text', source.text)}"
    return _call(item, system, user, UserTurn, draw=draw)


def follow_up_call(
    item: str, name: str, language: str, stage: Stage, source: Paragraph, dialogue: Dialogue, guidance: str = ""
) -> Call[UserTurn]:
    """The call for the next user turn of a conversation."""
    said = _transcript(dialogue)
    fence = Fence.around([source.text, said])
    system = _QUESTION_SYSTEM.format(name=name, language=language, time=_time(stage), notice=fence.notice())
    user = (
        f"{_FOLLOW.format(name=name)}{_guidance(guidance)}\n\n{fence.wrap('conversation', said)}\n"
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
) -> Call[GoldenAnswer]:
    """The call for the character's answer to ``question``, after the exchanges of ``dialogue``."""
    knowledge, style = _join(materials.knowledge), _join(materials.style)
    said = _transcript(dialogue)
    fence = Fence.around([knowledge, style, said, question])
    note = {"error": _ERROR_NOTE, "general": _GENERAL_NOTE}.get(kind, _NO_ERROR_NOTE)
    system = _ANSWER_SYSTEM.format(
        name=name,
        language=language,
        time=_time(stage),
        notice=fence.notice(),
        error=note,
        guidance=_guidance(guidance),
        examples="\n\n".join(f"User: {q}\nanalysis: {a}\nresponse: {r}" for q, a, r in EXAMPLES),
    )
    parts = [
        f"What {name} has lived and knows:\n{fence.wrap('knowledge', knowledge)}",
        f"Samples of {name}'s own words:\n{fence.wrap('style', style)}",
    ]
    if said:
        parts.append(f"The conversation so far:\n{fence.wrap('conversation', said)}")
    parts.append(f"Answer this message of the user:\n{fence.wrap('message', question)}")
    return _call(item, system, "\n\n".join(parts), GoldenAnswer, check=check)


def verdict_call(
    item: str, name: str, stage: Stage, question: str, answer: GoldenAnswer, materials: Materials
) -> Call[Verdict]:
    """The call that judges an answer by the materials it was written from."""
    known = _join((*materials.knowledge, *materials.style))
    fence = Fence.around([known, question, answer.response])
    system = _VERDICT_SYSTEM.format(name=name, time=_time(stage), notice=fence.notice())
    user = (
        f"Materials:\n{fence.wrap('materials', known)}\n\nThe user said:\n{fence.wrap('message', question)}\n\n"
        f"The answer:\n{fence.wrap('answer', answer.response)}"
    )
    return _call(item, system, user, Verdict)


def instructions(name: str) -> str:
    """What the prompts themselves say, without materials: what no answer may repeat."""
    blank: Any = {key: "" for key in ("time", "notice", "language", "error", "guidance", "examples")} | {"name": name}
    notes = (_ERROR_NOTE, _NO_ERROR_NOTE, _GENERAL_NOTE)
    return "\n".join([_ANSWER_SYSTEM.format(**blank), *notes, *(r for _, _, r in EXAMPLES)])


def fault_of(verdict: Verdict) -> Literal["unsupported", "out of time", "premise not corrected", "not in voice"] | None:
    """The first fault that a verdict names."""
    if not verdict.supported:
        return "unsupported"
    if not verdict.in_time:
        return "out of time"
    if not verdict.premise_handled:
        return "premise not corrected"
    return None if verdict.in_voice else "not in voice"


def _call(item: str, system: str, user: str, answer: type[Any], draw: int = 0, check: Any = None) -> Call[Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return Call(item, messages, answer, PROMPT_VERSION, draw=draw, check=check)


def _time(stage: Stage) -> str:
    return f"{stage.time} " if stage.time else ""


def _guidance(text: str) -> str:
    return f"\nFurther: {text.strip()}" if text.strip() else ""


def _join(paragraphs: Sequence[Paragraph]) -> str:
    return "\n\n".join(paragraph.text for paragraph in paragraphs)


def _transcript(dialogue: Dialogue) -> str:
    return "\n".join(f"User: {user}\nAnswer: {split_reply(answer)[1]}" for user, answer in dialogue)
