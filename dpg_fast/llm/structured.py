"""Structured replies: the JSON schema sent for a pydantic model, and the model read back from a reply's text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

Mode = Literal["json_schema", "json_object", "text"]
MODES: tuple[Mode, ...] = (
    "json_schema",
    "json_object",
    "text",
)  # from strict to lenient; the client falls back along it
T = TypeVar("T", bound=BaseModel)

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


class UnreadableReply(ValueError):
    """A reply that is not exactly one object of the wanted form; the text says what is wrong with it."""


def plain_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema. Shared: do not change it."""
    return _schema(model, False)


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema as strict servers want it: no additional properties, every property required. Shared likewise."""
    return _schema(model, True)


@cache
def _schema(model: type[BaseModel], strict: bool) -> dict[str, Any]:
    schema = model.model_json_schema()
    if strict:
        _make_strict(schema)
    return schema


def response_format(model: type[BaseModel], mode: Mode) -> dict[str, Any] | None:
    """The ``response_format`` of a request; None in text mode, where the prompt alone asks for JSON."""
    if mode == "json_schema":
        return {
            "type": "json_schema",
            "json_schema": {"name": model.__name__, "schema": strict_schema(model), "strict": True},
        }
    return {"type": "json_object"} if mode == "json_object" else None


def format_instruction(model: type[BaseModel]) -> str:
    """What the prompt says where the server does not enforce the schema itself."""
    schema = json.dumps(strict_schema(model), ensure_ascii=False)
    return f"Reply with one JSON object and nothing else: no explanation, no code fence. Its JSON schema is:\n{schema}"


def read_reply(model: type[T], text: str) -> T:
    """The one object of ``model`` in ``text``.

    The text may be the object itself, or hold it in a code fence or between sentences (servers without structured
    output). Text holding two different valid objects is refused: one may be quoted from the text under judgement.

    Raises:
        UnreadableReply: there is no valid object, or more than one.
    """
    text = _THINKING.sub("", text).strip()
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problem = _explain(error)
    found: list[T] = []
    for value in _objects(text):
        try:
            parsed = model.model_validate(value)
        except ValidationError as error:
            problem = _explain(error)
            continue
        if parsed not in found:
            found.append(parsed)
    if len(found) > 1:
        raise UnreadableReply(f"the reply holds {len(found)} different valid objects; exactly one is wanted")
    if not found:
        raise UnreadableReply(problem)
    return found[0]


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The outermost JSON objects written in ``text``."""
    decoder = json.JSONDecoder()
    found, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found


def _make_strict(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _make_strict(item)
    if not isinstance(node, dict):
        return
    properties = node.get("properties")
    if node.get("type") == "object" and isinstance(properties, dict):
        node["additionalProperties"] = False
        node["required"] = list(properties)
        for child in properties.values():
            if isinstance(child, dict):
                child.pop("default", None)
    for child in node.values():
        _make_strict(child)


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(parts)
