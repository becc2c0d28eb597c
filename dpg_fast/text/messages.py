"""Messages as chat APIs and exports have them: what is said of a content that may come in parts, and roles that do not speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNSPOKEN_ROLES = frozenset(("developer", "tool", "tools", "function", "observation", "ipython")) | frozenset(
    ("function_call", "function_response", "tool_call", "tool_response")
)
_PIECES = frozenset(  # of a sentence, in Telegram's exports
    (
        "bold",
        "italic",
        "underline",
        "strikethrough",
        "spoiler",
        "code",
        "pre",
        "link",
        "text_link",
        "mention",
        "mention_name",
    )
) | frozenset(
    ("hashtag", "cashtag", "email", "phone", "bot_command", "custom_emoji", "plain", "blockquote", "bank_card")
)
_UNSPOKEN_PARTS = frozenset(("thinking", "reasoning", "redacted_thinking", "refusal", "tool_use", "tool_result"))


def message_text(content: Any) -> str | None:
    """The words of a message's content.

    A content is a text, a number, null, an object with "text" or "parts", or a list of such parts, as those of OpenAI,
    transformers and Telegram: parts of an API are paragraphs, formatted pieces of one sentence stand beside bare texts.
    Pictures, tool calls and thoughts hold no words.

    Returns:
        "" for a content without words; None if it is of no form that is known.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return whole_text(content).strip()
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return str(content)
    if isinstance(content, Mapping):
        return _part(content)
    if not isinstance(content, Sequence):
        return None
    texts = [message_text(part) if isinstance(part, (str, Mapping)) else None for part in content]
    if None in texts:
        return None
    if any(isinstance(part, Mapping) and str(part.get("type")) in _PIECES for part in content):
        raw = [part if isinstance(part, str) else str(part.get("text") or "") for part in content]
        return whole_text("".join(raw)).strip()
    return "\n".join(text for text in texts if text)


def whole_text(text: str) -> str:
    """``text`` with half characters (a lone ``\\ud83d``, which JSON allows and UTF-8 does not) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _part(part: Mapping[str, Any]) -> str | None:
    """The words of an object; None if it is not a part of a content."""
    if str(part.get("type")) in _UNSPOKEN_PARTS:
        return ""
    for key in ("text", "value", "parts"):
        if key in part:
            return message_text(part[key])
    return "" if "type" in part or "content_type" in part else None
