"""What is asked of a model, and what came of it: plain values without any input or output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from dpg_fast.llm.cache import Reply
from dpg_fast.llm.fence import defuse
from dpg_fast.llm.prices import Usage
from dpg_fast.llm.reading import UnreadableReply, read_reply
from dpg_fast.llm.structured import Mode, format_instruction, plain_schema, response_format, strict_schema
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest

T = TypeVar("T", bound=BaseModel)
Message = Mapping[str, str]
NOTHING = Usage()
FINAL_KINDS = ("refused", "cut", "unreadable")
FailureKind = Literal["refused", "cut", "unreadable", "rejected", "unreachable", "open"]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question to a model, answered by one object of a pydantic model.

    Attributes:
        item: what the call is about, for reports ("E+ answer 17"). Not part of the cache key.
        messages: turns with "role" and "content".
        answer: the pydantic model of the reply.
        prompt_version: name of the prompt's wording; changing it asks again.
        parameters: sent with this call, over those of the client (temperature, max_completion_tokens, ...).
        draw: the n-th independent reply to the same prompt.
        check: finds fault with a readable answer, in words for the model, or returns None. A fault asks for one repair; the
            repaired answer counts if it is readable, else the first one. Must depend on the answer alone.
    """

    item: str
    messages: Sequence[Message]
    answer: type[T]
    prompt_version: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0
    check: Callable[[T], str | None] | None = None


@dataclass(frozen=True)
class Request:
    """What is sent for a call: its own messages, or those with one bad reply and the request to repair it.

    Attributes:
        formless: whether the bad reply held no object at all.
    """

    key: str
    messages: tuple[dict[str, str], ...]
    repair: bool = False
    formless: bool = False


@dataclass(frozen=True)
class Failure:
    """Why an item has no answer.

    Kinds: "refused" by the model or a content filter, "cut" at the token limit, "unreadable" also after one repair
    (asking again as before would end in the same way; replies that came were paid for and are kept); "rejected" by the server
    as a bad request, "unreachable" after all retries (nothing was paid, and the next run tries again); "open" where nothing
    was to be sent and no reply is stored.

    Attributes:
        too_long: the server refused the call because its text is too long.
    """

    kind: FailureKind
    detail: str
    too_long: bool = False

    @property
    def final(self) -> bool:
        """Whether the next run would not find an answer either."""
        return self.kind in FINAL_KINDS


@dataclass(frozen=True)
class Result(Generic[T]):
    """What came of a call: a `value` or a `failure`.

    Attributes:
        usage: tokens of all its replies, stored ones included.
        paid: the part of `usage` that this run caused.
        served_by: the model name the server gave in its last reply.
    """

    item: str
    value: T | None
    failure: Failure | None
    usage: Usage = NOTHING
    paid: Usage = NOTHING
    served_by: str | None = None


def call_key(call: Call[Any], model: str, parameters: Mapping[str, Any]) -> str:
    """The content address of a call's first reply.

    Raises:
        ValueError: a parameter is not of JSON types.
    """
    try:
        return digest(
            {
                "model": model,
                "messages": [dict(message) for message in call.messages],
                "parameters": {**parameters, **call.parameters},
                "schema": plain_schema(call.answer),
                "prompt_version": call.prompt_version,
                "draw": call.draw,
            }
        )
    except (TypeError, ValueError) as error:
        raise DPGError(f"{call.item}: messages and parameters must be JSON types: {error}") from error


def first_request(call: Call[Any], key: str) -> Request:
    """The request that begins a call."""
    return Request(key, tuple(dict(message) for message in call.messages))


def settle(call: Call[T], request: Request, reply: Reply) -> T | Failure | Request:
    """The answer in ``reply``, or why there is none, or the repair to ask for."""
    found = _read(call, reply)
    text = reply.content or ""
    if request.repair:
        if not isinstance(found, (Failure, UnreadableReply)):
            return found
        try:  # the first answer, if it could be read and was only found fault with
            return read_reply(call.answer, request.messages[-2]["content"], asked(call))
        except UnreadableReply:
            pass
        if isinstance(found, Failure):
            return found
        return Failure("unreadable", f"{found}; the reply was {text[:200]!r}")
    if isinstance(found, Failure):
        return found
    if isinstance(found, UnreadableReply):
        repair = f"That reply cannot be read: {found}.\n{format_instruction(call.answer)}"
    else:
        fault = call.check(found) if call.check is not None else None
        if fault is None:
            return found
        repair = f"{fault}\n{format_instruction(call.answer)}"
    said = {"role": "assistant", "content": defuse(text)}  # it may repeat text under judgement
    messages = (*request.messages, said, {"role": "user", "content": repair})
    formless = isinstance(found, UnreadableReply) and found.no_object
    return Request(digest(["repair", request.key, text]), messages, repair=True, formless=formless)


def _read(call: Call[T], reply: Reply) -> T | Failure | UnreadableReply:
    if reply.refusal:
        return Failure("refused", reply.refusal)
    if reply.finish_reason == "content_filter":
        return Failure("refused", "stopped by the server's content filter")
    if reply.finish_reason == "length":
        return Failure("cut", f"the reply was cut after {reply.completion_tokens or '?'} tokens; allow more of them")
    try:
        return read_reply(call.answer, reply.content or "", asked(call))
    except UnreadableReply as error:
        return error


def asked(call: Call[Any]) -> list[str]:
    """What the call's user messages say: the texts under judgement are among it."""
    return [message["content"] for message in call.messages if message["role"] == "user"]


def result_of(call: Call[T], outcome: T | Failure | Request, used: Sequence[Reply], paid: Sequence[Reply]) -> Result[T]:
    """The result of a settled call, with the tokens of the replies used, and of those among them that were paid for now."""
    assert not isinstance(outcome, Request)
    value, failure = (None, outcome) if isinstance(outcome, Failure) else (outcome, None)
    usage, now = sum(map(usage_of, used), Usage()), sum(map(usage_of, paid), Usage())
    return Result(call.item, value, failure, usage, now, used[-1].served_by if used else None)


def request_body(
    call: Call[Any], request: Request, model: str, parameters: Mapping[str, Any], mode: Mode
) -> dict[str, Any]:
    """What is sent, as arguments of the SDK's ``chat.completions.create``; ``parameters`` are all that go with it."""
    body = {"model": model, "messages": with_instruction(request, call, mode), **parameters}
    wanted = response_format(call.answer, mode)
    return body if wanted is None else body | {"response_format": wanted}


def with_instruction(request: Request, call: Call[Any], mode: Mode) -> list[dict[str, str]]:
    """The messages to send: where the server does not enforce the schema, the last one says what is wanted."""
    messages = [dict(message) for message in request.messages]
    if mode != "json_schema" and not request.repair:
        messages[-1]["content"] += "\n\n" + format_instruction(call.answer)
    return messages


def usage_of(reply: Reply) -> Usage:
    """The reply's token counts."""
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return Usage(calls=1, uncounted=1)
    return Usage(
        calls=1,
        prompt_tokens=reply.prompt_tokens,
        cached_prompt_tokens=reply.cached_prompt_tokens or 0,
        completion_tokens=reply.completion_tokens,
    )


def estimate_tokens(text: str) -> int:
    """A rough count without a tokenizer: a quarter of the UTF-8 bytes, which suits English best."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 4)


def prompt_estimate(call: Call[Any], request: Request, count: Callable[[str], int]) -> int:
    """Estimated prompt tokens of a request, its schema included, with four tokens of chat template a message."""
    texts = [message["content"] for message in request.messages]
    return sum(count(text) + 4 for text in texts) + count(json.dumps(strict_schema(call.answer)))
