"""What a request may hold. Whatever has no effect here is refused by name, and never ignored.

Sources: OpenAI's API reference for chat completions and completions; `personality` is this server's own field, and
`vllm_xargs` vLLM's, so that one request can be sent to both.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpg_fast.util.errors import DPGError

__all__ = ["APIError", "AssessRequest", "ChatRequest", "CompletionRequest", "SaveRequest", "StreamOptions", "read_body"]

MAX_CHOICES = 16
MAX_STOPS = 8
MAX_STOP = 200  # characters
MAX_LOGPROBS = 20
MAX_MESSAGES = 1000
MAX_TOOLS = 128


class APIError(DPGError):
    """A request that is not served.

    Args:
        message: for the one who sent it.
        status: of HTTP.
        param: the field at fault.
        kind, code: OpenAI's ``type`` and ``code``.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class CalledFunction(_Strict):
    """A function and what it is called with, a JSON object as text."""

    name: str
    arguments: str


class ToolCall(_Strict):
    """A call in a turn of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Strict):
    """A turn. Fields of type None are those that clients send back with an answer that was given to them."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def uses_tools(self) -> bool:
        return self.role == "tool" or bool(self.tool_calls)

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates take it.

        Raises:
            APIError: fields that do not fit its role.
        """
        if self.content is None and not self.tool_calls:
            raise APIError("messages: a turn has content", param="messages")
        if self.tool_calls and self.role != "assistant":
            raise APIError("messages: tool_calls belong to turns of the assistant", param="messages")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise APIError("messages: tool_call_id belongs to turns of the role tool", param="messages")
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            turn["tool_calls"] = [_call(call) for call in self.tool_calls]
        return turn


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except ValueError:
        raise APIError("messages: the arguments of a tool call are a JSON object as text", param="messages") from None
    return {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PlainText(_Strict):
    """Any text."""

    type: Literal["text"]


class JSONObject(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Strict):
    """A JSON schema. It is always obeyed, whether ``strict`` or not."""

    name: str = Field(max_length=64)
    held: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class JSONSchema(_Strict):
    """What a JSON schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class Function(_Strict):
    """A function that may be called."""

    name: str = Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(_Strict):
    """A tool."""

    type: Literal["function"]
    function: Function


class VllmArguments(_Strict):
    """What vLLM passes on to plugins."""

    personality: Any = None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]


class _Generation(_Strict):
    """What chat completions and completions share. Fields of type None are accepted where they say nothing."""

    model: str = Field(max_length=1200)
    personality: Any = None
    vllm_xargs: VllmArguments | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        return self.max_tokens

    @property
    def formatted(self) -> bool:
        """Whether the answer has to be JSON."""
        return False


class ChatRequest(_Generation):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    response_format: Annotated[PlainText | JSONObject | JSONSchema, Field(discriminator="type")] | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: Literal[True] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @property
    def told_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model is told about."""
        if not self.tools or self.tool_choice == "none":
            return None
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    @property
    def formatted(self) -> bool:
        """Whether the answer has to be JSON."""
        return isinstance(self.response_format, (JSONObject, JSONSchema))

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema of a formatted answer; None for any object."""
        return self.response_format.json_schema.held if isinstance(self.response_format, JSONSchema) else None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many likeliest tokens are told; None for no log-probabilities."""
        if not self.logprobs:
            if self.top_logprobs:
                raise APIError("top_logprobs needs logprobs: true", param="top_logprobs")
            return None
        return self.top_logprobs or 0


class CompletionRequest(_Generation):
    """The body of /v1/completions."""

    prompt: str | Annotated[list[str] | list[Annotated[int, Field(strict=True)]], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One for each answer, or group of n."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [text for text in self.prompt if isinstance(text, str)]

    @property
    def wanted_logprobs(self) -> int | None:
        """How many likeliest tokens are told; None for no log-probabilities."""
        return self.logprobs


class SaveRequest(_Strict):
    """The body of /v1/personalities."""

    name: str
    personality: Any


class AssessRequest(_Strict):
    """The body of /v1/assess."""

    text: str = Field(min_length=1, max_length=20_000)
    question: str = Field("", max_length=4000)


def read_body(kind: type[Any], value: Any) -> Any:
    """A body as ``kind``.

    Raises:
        APIError: it is not; the message names the field.
    """
    if not isinstance(value, dict):
        raise APIError("the body is a JSON object")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = [str(part) for part in first["loc"]]
        name = where[0] if where else None
        if first["type"] == "extra_forbidden":
            raise APIError(f"{'.'.join(where)} is not supported here", param=name, code="unknown_parameter") from None
        known = kind.model_fields.get(name)
        if known is not None and known.default is None and name in _UNSUPPORTED:
            raise APIError(f"{name} is not supported here: {_UNSUPPORTED[name]}", param=name) from None
        raise APIError(f"{'.'.join(where)}: {first['msg']}", param=name) from None


_UNSUPPORTED = {
    "frequency_penalty": "leave it out, or 0",
    "presence_penalty": "leave it out, or 0",
    "logit_bias": "leave it out",
    "response_format": 'its type is "text", "json_object" or "json_schema"',
    "tools": 'a tool is {"type": "function", "function": {...}}, without strict',
    "tool_choice": 'leave it out, or "auto", or "none"',
    "parallel_tool_calls": "leave it out, or true",
    "modalities": 'leave it out, or ["text"]',
    "store": "leave it out, or false",
    "echo": "leave it out, or false",
    "best_of": "leave it out, or 1; n gives several answers",
    "suffix": "leave it out",
}
