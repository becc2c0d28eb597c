"""Chats as JSON Lines.

A line is one turn, ``{"speaker": "Ann", "text": "Hi"}`` (optionally with "scene"), or one conversation, which is a scene:
``{"messages": [{"role": "user", "content": "Hi"}]}`` with an optional "name" or "speaker" in each message, or
``{"conversations": [{"from": "human", "value": "Hi"}]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dpg_fast.data.scripts.names import plain_name
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech

_SPEAKER = ("speaker", "name", "author", "from", "role")
_TEXT = ("text", "content", "value", "utterance", "message")
_UNSPOKEN = ("system", "developer", "tool")


def read_chats(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: lines of another form are problems, and the rest is kept."""
    builder = ScriptBuilder(name, "chats")
    scene: object = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            builder.problem(number, f"not JSON ({str(error)[:80]}): left out")
            continue
        if not isinstance(row, dict):
            builder.problem(number, "not a JSON object: left out")
            continue
        turns = row.get("messages") or row.get("conversations") or row.get("turns")
        if isinstance(turns, list):
            builder.open_scene(_text(row, ("scene", "title", "id")) or f"conversation {number}", number)
            scene = None
            for turn in turns:
                _add(builder, turn, number)
            continue
        if "scene" in row and row["scene"] != scene:
            scene = row["scene"]
            builder.open_scene(str(scene), number)
        _add(builder, row, number)
    return builder.finish()


def _add(builder: ScriptBuilder, turn: Any, number: int) -> None:
    speaker = _text(turn, _SPEAKER)
    words = _text(turn, _TEXT)
    if speaker is None or words is None or not plain_name(speaker):
        builder.problem(number, "a turn needs a speaker and a text: left out")
    elif speaker.lower() in _UNSPOKEN:
        builder.add(Direction("note", words, number))
    else:
        builder.add(Speech(speaker, (), [Part("words", words, number)], number, plain_name(speaker)))


def _text(row: Any, keys: Sequence[str]) -> str | None:
    if not isinstance(row, Mapping):
        return None
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return _whole(str(value).strip())
    return None


def _whole(text: str) -> str:
    """The text with half characters (a lone ``\\ud83d``, which JSON allows and UTF-8 does not) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
