"""Calls of tools in answers, in the form of Hermes and Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

__all__ = ["ToolText", "knows_tools"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL = re.compile(rf"{OPEN}\s*(.*?)\s*(?:{CLOSE}|\Z)", re.DOTALL)


def knows_tools(template: str | None) -> bool:
    """Whether a chat template tells a model about tools and asks for calls in this form, and not with XML inside."""
    return template is not None and "tools" in template and OPEN in template and "<function=" not in template


class ToolText:
    """The text of one answer, with calls taken out at its end."""

    def __init__(self) -> None:
        self._held = ""
        self._calling = False

    def add(self, piece: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """A further piece, and whether it is the last; gives what is text for certain, and with the last one the calls.

        Calls that cannot be read stay in the text.
        """
        self._held += piece
        if not self._calling:
            at = self._held.find(OPEN)
            self._calling = at >= 0
            if not self._calling:
                at = len(self._held) if last else self._certain()
            at = len(self._held[:at].rstrip()) if self._calling else at  # space in front of a call belongs to it
            given, self._held = self._held[:at], self._held[at:]
        else:
            given = ""
        if not last:
            return given, []
        calls = _calls(self._held) if self._calling else []
        return (given if calls else given + self._held), calls

    def _certain(self) -> int:
        """Characters in front of what may be the beginning of a mark, or space before one."""
        end = len(self._held)
        most = next((n for n in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:n])), 0)
        return len(self._held[: end - most].rstrip())


def _calls(text: str) -> list[dict[str, Any]]:
    """All calls, in OpenAI's shape; none where one of them cannot be read."""
    found = []
    for inner in CALL.findall(text):
        try:
            value = json.loads(inner)
        except ValueError:
            return []
        for call in value if isinstance(value, list) else [value]:
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                return []
            function = {"name": call["name"], "arguments": json.dumps(call.get("arguments") or {}, ensure_ascii=False)}
            found.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
    return found
