"""A server's body with status 200, read for what it is: an answer in one of the forms that servers give it, or none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from dpg_fast.llm.cache import Reply
from dpg_fast.llm.refusals import Kind, Refusal, read_refusal
from dpg_fast.llm.structured import Mode

_FINISH = {
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "sensitive": "content_filter",
}
_BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "canceled")


def read_body(text: str, mode: Mode) -> Reply | Refusal:
    """What a body with status 200 holds."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return Refusal(Kind.NO_ANSWER, f"the reply is not JSON but {shorten(text, 80)!r}", 200)
    return read_completion(body, mode)


def read_completion(body: Any, mode: Mode) -> Reply | Refusal:
    """The reply in a chat completion, given as its JSON; a refusal where there is none.

    A reply without any text that cost nothing is none: a server that was about to fail sends such a one.
    """
    if not isinstance(body, Mapping):
        return Refusal(Kind.NO_ANSWER, f"the reply is not a chat completion but {shorten(json.dumps(body), 80)}", 200)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        known = bool(body.get("error") or body.get("detail") or body.get("message")) or "choices" in body
        return _refusal(body, Kind.BUSY if known else Kind.NO_ANSWER)
    finish = _text(choice.get("finish_reason"))
    finish = None if finish is None else _FINISH.get(finish.lower(), finish.lower())
    if choice.get("error") or finish in _BROKEN_OFF:
        return _refusal(choice, Kind.BUSY)
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("prompt_tokens_details")
    reply = Reply(
        content=_content(message),
        finish_reason=finish,
        refusal=_text(message.get("refusal")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_prompt_tokens=_count(details.get("cached_tokens")) if isinstance(details, Mapping) else None,
        completion_tokens=_count(usage.get("completion_tokens")),
        served_by=_text(body.get("model")),
        mode=mode,
    )
    silent = not (reply.content or "").strip() and not reply.refusal and finish not in ("length", "content_filter")
    if silent and not reply.completion_tokens:
        return _refusal(body, Kind.BUSY, "the reply is empty")
    return reply


def _refusal(body: Mapping[str, Any], otherwise: Kind, words: str = "") -> Refusal:
    said = {name: body[name] for name in ("error", "detail", "message", "code") if body.get(name)}
    if said:
        return read_refusal(200, json.dumps(said), otherwise=otherwise)
    return Refusal(otherwise, words or f"the reply holds no answer: {shorten(json.dumps(body), 200)}", 200)


def _content(message: Mapping[str, Any]) -> str | None:
    """The answer's text: the content, or where a server leaves that out, an object given as reasoning or to a tool."""
    content = message.get("content")
    if isinstance(content, list):  # parts; those of reasoning are not the answer
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") != "thinking"]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content.strip():
        return _text(content)
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and len(calls) == 1 else None
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    for other in (json.dumps(arguments) if isinstance(arguments, Mapping) else arguments, reasoning):
        if isinstance(other, str) and other.strip().startswith("{") and other.strip().endswith("}"):
            return _text(other)
    return _text(content)


def _text(value: Any) -> str | None:
    """As text that can be stored: a surrogate without its partner is replaced."""
    if value is None or isinstance(value, (Mapping, list)):
        return None
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    """A count of tokens, however a server writes it; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return round(number) if math.isfinite(number) and number >= 0 else None
