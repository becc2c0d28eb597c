"""Structured replies: the JSON schema that is sent for a pydantic model. `dpg_fast.llm.reading` reads the reply."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

Mode = Literal["json_schema", "json_object", "text"]
MODES: tuple[Mode, ...] = (
    "json_schema",
    "json_object",
    "text",
)  # from strict to lenient; the client falls back along it


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
