"""What a server means when it refuses a call: read from status, body, code and parameter, never from an exception's text.

Servers say the same in many forms (``{"error": {...}}``, ``{"error": "..."}``, ``{"detail": [...]}``, plain text, HTML), and
some send an error with status 200. `RULES` is the table that tells them apart, the first that fits counts;
tests/llm/refusals.json holds what OpenAI, Azure, Mistral, Groq, Together, OpenRouter, vLLM, SGLang, llama.cpp, Ollama, LM
Studio, TGI and others answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from textwrap import shorten
from typing import Any

_READ, _SHOWN = 20_000, 600  # cut between words, so that no part of a key is left of one
_EMPTY_CODES = ("error", "invalid_request_error", "BadRequestError", "api_error", "extra_forbidden")
_INSIDE = (
    "error",
    "message",
    "errors",
    "detail",
    "details",
    "metadata",
    "innererror",
    "inner_error",
    "raw",
    "cause",
    "provider_error",
)
_SAYING = ("message", "msg", "error", "detail", "reason", "title", "error_description", "raw")
_NAMING = ("code", "type", "status", "error_type")
_DEEPEST = 6


class Kind(StrEnum):
    """What a refusal is about."""

    KEY = "key"
    ADDRESS = "address"  # or the model's name
    CREDIT = "credit"
    FILTER = "filter"  # the text is not wanted
    FORMAT = "format"  # the server does not know such a response_format
    FORMAT_ONCE = "format_once"  # the model missed it this time
    LIMIT_NAME = "limit_name"  # max_tokens or max_completion_tokens, but not this one
    LIMIT_SIZE = "limit_size"
    TEMPERATURE = "temperature"
    TOO_LONG = "too_long"
    PARAMETER = "parameter"
    BUSY = "busy"  # may pass
    NO_ANSWER = "no_answer"  # status 200 with something else than an answer
    OTHER = "other"


FATAL = (Kind.KEY, Kind.ADDRESS, Kind.CREDIT)  # every further call would end the same way
HINTS = {
    Kind.KEY: "is the key right, and in the variable that --judge-key-env, --writer-key-env or --header names?",
    Kind.ADDRESS: "are the model's name and the address right? It mostly ends with /v1; Azure's takes --query api-version=...",
    Kind.CREDIT: "the account has no credit left",
    Kind.FORMAT: "choose a format that it knows with --structured",
    Kind.LIMIT_NAME: "try --legacy-max-tokens, or without it",
    Kind.LIMIT_SIZE: "lower the longest reply with --max-tokens",
    Kind.TEMPERATURE: "leave the temperature out with --no-send-temperature",
    Kind.TOO_LONG: "lower --context-tokens or --max-tokens, or raise the server's context",
    Kind.PARAMETER: "take it out of --parameters",
    Kind.NO_ANSWER: "does the address belong to an OpenAI-compatible server? It mostly ends with /v1",
}


@dataclass(frozen=True)
class Refusal:
    """Why a server gave no answer.

    Attributes:
        kind: what it is about.
        message: what the server said, shortened; may hold the key.
        status: of HTTP; None where nothing came.
        named: the parameter and the code that it names.
        wait: seconds that the server asks to wait.
    """

    kind: Kind
    message: str
    status: int | None = None
    named: str = ""
    wait: float | None = None

    @property
    def same(self) -> tuple[Any, ...]:
        """What two refusals for the same reason share: numbers and names differ from call to call."""
        return self.kind, self.status, re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "", self.message)[:100]

    def __str__(self) -> str:
        named = f" ({self.named})" if self.named and self.named not in self.message else ""
        return f"{self.status}: {self.message}{named}" if self.status else f"{self.message}{named}"

    def advice(self) -> str:
        """The option that may help, as the end of a sentence."""
        return f"; {HINTS[self.kind]}" if self.kind in HINTS else ""


@dataclass(frozen=True)
class Rule:
    """Fits where a status, a code, a parameter or a pattern does, and nothing that the rule excludes.

    Attributes:
        kind: what it then is.
        statuses: that the rule is limited to; empty: all.
        always: statuses that say it by themselves.
        codes: of the error.
        params: beginnings of the parameter's name.
        words: pattern in the message, or in the parameter's name.
        but: pattern that must not be in the message.
    """

    kind: Kind
    statuses: tuple[int, ...] = ()
    always: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    words: str | None = None
    but: str | None = None

    def fits(self, said: ErrorBody) -> bool:
        """Whether the rule says what this is."""
        if self.statuses and said.status not in self.statuses:
            return False
        if self.but is not None and re.search(self.but, said.text, re.IGNORECASE):
            return False
        return (
            said.status in self.always
            or any(code.casefold() in self.codes for code in said.codes)
            or any(param.startswith(self.params) for param in said.params if self.params)
            or (self.words is not None and re.search(self.words, said.text, re.IGNORECASE | re.DOTALL) is not None)
        )


_LIMIT = r"max_(?:completion_|new_|output_)?tokens"
_INPUT = r"input tokens|in the messages|length of (?:the|your) (?:messages|prompt|input)|`inputs`|prompt"
_UNKNOWN = (
    r"unsupported|not supported|not permitted|forbidden|unknown|unrecogni[sz]ed|unexpected|not allowed|instead|no such"
)
_TOO_HIGH = r"too large|too high|maximum|at most|less than|exceed"
_SETTINGS = (200, 400, 404, 405, 415, 422, 500, 501)
RULES = (
    Rule(Kind.KEY, always=(401,), codes=("invalid_api_key", "authentication_error"), words=r"API key (?:not valid|is invalid)"),
    Rule(
        Kind.CREDIT,
        always=(402,),
        codes=("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_credits"),
        words=r"insufficient (?:credit|balance|fund)|out of credits|payment required",
    ),
    Rule(
        Kind.FILTER,
        statuses=(200, 400, 403, 422, 451),
        codes=("content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed"),
        words=r"content management policy|content[ _]filter|content[ _]policy|was flagged|flagged by|moderation",
    ),
    Rule(
        Kind.FORMAT_ONCE,
        codes=("json_validate_failed",),
        words=r"failed to (?:generate|validate) json|generated json does not match",
    ),
    Rule(
        Kind.FORMAT,
        statuses=_SETTINGS,
        params=("response_format", "guided", "grammar", "json_schema", "text.format"),
        words=r"response[_ ]?format|json[_ ]schema|json[_ ]object|json mode|structured[_ ]output|guided|grammar"
        r"|no endpoints found that (?:can handle|support)",
    ),
    Rule(
        Kind.LIMIT_NAME,
        statuses=_SETTINGS,
        words=rf"(?:{_UNKNOWN}|extra).{{0,80}}{_LIMIT}|{_LIMIT}.{{0,80}}(?:{_UNKNOWN}|extra)",
        but=_TOO_HIGH,
    ),
    Rule(
        Kind.LIMIT_SIZE,
        statuses=(*_SETTINGS, 413),
        params=("max_tokens", "max_completion_tokens", "max_new_tokens"),
        words=rf"(?:{_LIMIT}|(?:output|completion) tokens).{{0,120}}(?:{_TOO_HIGH}|must be)",
        but=_INPUT,
    ),
    Rule(
        Kind.TOO_LONG,
        always=(413,),
        codes=(
            "context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "request_too_large",
            "tokens_limit_reached", "model_max_prompt_tokens_exceeded",
        ),
        words=r"reduce the length of|context (?:length|window|size)|max_model_len|request too large|too many (?:input )?tokens"
        r"|(?:prompt|inputs?|messages?)\b.{0,60}(?:too (?:long|large)|exceeds?\b.{0,40}(?:token|context|length|limit))"
        r"|token (?:count|limit) exceed|requested token count|`inputs`|input tokens",
    ),
    Rule(Kind.TEMPERATURE, statuses=_SETTINGS, params=("temperature",), words=r"temperature"),
    Rule(
        Kind.ADDRESS,
        always=(404, 405, 501),
        codes=("model_not_found", "deploymentnotfound", "invalid_model", "modelnotfound"),
        words=r"not a valid model|model\b.{0,80}(?:not found|does not exist|not loaded)|no models? loaded|unexpected endpoint"
        r"|api.version",
    ),
    Rule(
        Kind.PARAMETER,
        statuses=_SETTINGS,
        codes=("unknown_parameter", "unsupported_parameter", "extra_forbidden"),
        words=r"(?:unknown|unrecogni[sz]ed|unsupported|invalid) (?:parameter|argument|field|request argument)|extra inputs"
        r"|additional propert",
    ),
    Rule(Kind.KEY, always=(403,)),
    Rule(
        Kind.BUSY,
        always=(408, 409, 425, 429, *range(500, 600)),
        codes=("rate_limit_exceeded", "server_error", "overloaded_error"),
    ),
)  # fmt: skip


@dataclass
class ErrorBody:
    """What an error's body says."""

    status: int | None
    messages: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    params: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Messages and names of parameters."""
        return " ".join([*self.messages, *self.params, *self.codes])


def read_refusal(status: int | None, body: str, wait: float | None = None, otherwise: Kind = Kind.OTHER) -> Refusal:
    """What a body that is not an answer means.

    Args:
        status: of HTTP.
        body: as it came.
        wait: seconds that the server asks to wait.
        otherwise: what it is if no rule fits.
    """
    said = ErrorBody(status)
    try:
        _collect(json.loads(body), said, 0)
    except (ValueError, RecursionError):
        said.messages.append(_plain(body))
    if status == 200:  # the error's own status, where its code is one
        numbers = [int(code) for code in said.codes if code.isdigit() and 400 <= int(code) < 600]
        status = said.status = numbers[0] if numbers else status
    kind = next((rule.kind for rule in RULES if rule.fits(said)), otherwise)
    message = "; ".join(dict.fromkeys(said.messages)) or _plain(body) or "without a word"
    codes = [code for code in said.codes if not code.isdigit() and code not in _EMPTY_CODES]
    return Refusal(
        kind, shorten(message, _SHOWN), status, ", ".join(dict.fromkeys([*said.params[:1], *codes[:1]])), wait
    )


def _collect(node: Any, said: ErrorBody, depth: int) -> None:
    """Gather what error bodies say where they say it; not what they repeat of the request."""
    if depth > _DEEPEST:
        return
    if isinstance(node, str):
        _say(node, said, depth)
    elif isinstance(node, list):
        for item in node:
            _collect(item, said, depth + 1)
    elif isinstance(node, Mapping):
        for name, value in node.items():
            if name in _NAMING and isinstance(value, (str, int)) and not isinstance(value, bool):
                said.codes.append(str(value))
            elif name == "param" and isinstance(value, str):
                said.params.append(value)
            elif name == "loc" and isinstance(value, list):
                said.params += [str(part) for part in value if isinstance(part, str) and part != "body"][:1]
            elif name in _SAYING and isinstance(value, str):
                _say(value, said, depth)
            elif name in _INSIDE:
                _collect(value, said, depth + 1)


def _say(text: str, said: ErrorBody, depth: int) -> None:
    """A message, which may itself be an error's JSON."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return _collect(json.loads(text), said, depth + 1)
        except (ValueError, RecursionError):
            pass
    if text.strip():
        said.messages.append(shorten(text, _SHOWN))
    return None


def _plain(body: str) -> str:
    """A body's words: without the tags of HTML."""
    body = body[:_READ]
    if body.lstrip().startswith("<"):
        body = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", body, flags=re.DOTALL | re.IGNORECASE)
    return shorten(body, _SHOWN)
