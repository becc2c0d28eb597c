"""Conversations in JSON: a turn or a conversation a line, or one value that holds them (an array, an app's export).

Most forms need no declaration: a list under one of the usual names (`_LISTS`) whose rows say who speaks and what is a
conversation, however deep it lies. So are read OpenAI's messages, ShareGPT, SillyTavern, ConvoKit, Discord, Telegram, Slack,
Instagram, Character.AI and Label Studio. Declared are ChatGPT's export, whose messages are a tree, and pairs of prompt and
answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dpg_fast.data.scripts.chats.logs import is_log, read_log
from dpg_fast.data.scripts.chats.turns import TurnRow, TurnTable, has_turns, keys_of, read_turn, turn_of, vocabulary
from dpg_fast.data.scripts.script import Script, ScriptBuilder
from dpg_fast.text.messages import message_text, whole_text

_LISTS = vocabulary(
    "messages conversations conversation turns dialog dialogue utterances chat_messages chat msgs history exchanges transcript "
    "lines"
)
_ALWAYS = vocabulary("messages conversations turns")  # lists of turns even where no row of them can be read
_HEADING = vocabulary("scene title name id")
_PAIRS = tuple(
    vocabulary(pair)
    for pair in (
        *("prompt completion", "prompt response", "prompt chosen", "instruction output"),
        *("query response", "user assistant", "human assistant"),
    )
)
_BETWEEN = ("input",)  # what an instruction is about
_HEADERS = vocabulary("user_name character_name chat_metadata")  # SillyTavern's first line
_DEEPEST = 12
_NO_TURN = "a turn needs a speaker and a text: left out"


def read_chats(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: what is of another form is a problem, and the rest is kept."""
    if is_log(lines):
        return read_log(lines, name)
    reader = _Reader(name)
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    whole = _whole(filled)
    if whole is None and filled and filled[0][1].strip() in ("[", "{", "[{"):
        whole = reader.before_the_fault("\n".join(lines))
    if whole is None:
        for number, line in filled:
            reader.line(line, number)
    else:
        reader.value(whole)
    reader.table.finish()
    return reader.builder.finish()


def _whole(filled: Sequence[tuple[int, str]]) -> object:
    """The value that all lines together are; None if each line is one."""
    if not filled or filled[0][1].lstrip()[0] not in "[{":
        return None
    if len(filled) > 1 and _loads(filled[0][1]) is not None:
        return None
    value = _loads("\n".join(line for _, line in filled))
    return None if len(filled) == 1 and (not isinstance(value, Mapping) or read_turn(value, 1)) else value


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class _Reader:
    def __init__(self, name: str) -> None:
        self.builder = ScriptBuilder(name, "chats")
        self.table = TurnTable(self.builder)
        self._turns = 0  # of one value, which are numbered in place of lines
        self._conversations = 0

    def line(self, text: str, number: int) -> None:
        """A line of JSON Lines."""
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.builder.problem(number, f"not JSON ({str(error)[:80]}): left out")
            return
        if not isinstance(row, dict):
            self.builder.problem(number, "not a JSON object: left out")
        elif not self._object(row, number) and keys_of(row).keys().isdisjoint(_HEADERS):
            self.builder.problem(number, _NO_TURN)

    def before_the_fault(self, text: str) -> list[object]:
        """The entries of an array that can be read; the fault is a problem."""
        found: list[object] = []
        decoder = json.JSONDecoder()
        position = text.index("[") + 1 if text.lstrip()[0] == "[" else 0
        while True:
            position = re.compile(r"[\s,]*").match(text, position).end()  # type: ignore[union-attr]
            try:
                value, position = decoder.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                line = text.count("\n", 0, getattr(error, "pos", position)) + 1
                self.builder.problem(line, f"not JSON ({str(error)[:80]}): this and what follows is left out")
                return found
            found.append(value)

    def value(self, value: object) -> None:
        """A file that is one JSON value."""
        before = self._turns
        self._search(value, 0)
        if self._turns == before:
            self.builder.problem(0, "holds no conversation whose turns have a speaker and a text")

    def _search(self, value: object, depth: int) -> None:
        if depth > _DEEPEST:
            return
        if has_turns(value):
            self._conversation("", value, None)  # type: ignore[arg-type]
        elif isinstance(value, list):
            for entry in value:
                self._search(entry, depth + 1)
        elif isinstance(value, Mapping) and not self._object(value, None):
            for entry in value.values():
                if isinstance(entry, (list, Mapping)):
                    self._search(entry, depth + 1)

    def _object(self, row: Mapping[str, Any], line: int | None) -> bool:
        """Read a conversation or a turn, if that is what the object is."""
        keys = keys_of(row)
        tree = _tree(keys)
        if tree is not None:
            self._conversation(_heading(keys), tree, line)
            return True
        listed = _lists(keys)
        if listed is not None:
            self._conversation(_heading(keys), listed, line)
            return True
        pair = _pair(keys)
        if pair:
            self._conversation(_heading(keys), pair, line)
            return True
        turn = turn_of(keys, self._number(line))
        if turn is not None:
            self.table.row(turn)
        return turn is not None

    def _conversation(self, heading: str, rows: Sequence[object], line: int | None) -> None:
        self._conversations += 1
        start = line or self._turns + 1
        turns: list[TurnRow] = []
        for row in rows:
            number = self._number(line)
            turn = read_turn(row, number)
            if _silent(row) and (turn is None or not turn.text):
                continue
            pair = _pair(keys_of(row)) if turn is None and isinstance(row, Mapping) else []
            if turn is not None:
                turns.append(turn)
            elif pair:
                turns += [said for part in pair if (said := read_turn(part, number)) is not None]
            else:
                self.builder.problem(number, _NO_TURN)
        self.table.conversation(heading or f"conversation {line or self._conversations}", turns, start)

    def _number(self, line: int | None) -> int:
        self._turns += 1
        return line or self._turns


def _silent(row: object) -> bool:
    """Whether a row is known to hold nobody's words: a call of a tool without a content."""
    return isinstance(row, Mapping) and not row.keys().isdisjoint(("tool_calls", "function_call"))


def _is_conversation(value: object) -> bool:
    return has_turns(value) or (
        isinstance(value, list) and any(isinstance(row, Mapping) and _pair(keys_of(row)) for row in value)
    )


def _lists(keys: Mapping[str, Any]) -> list[object] | None:
    if not any(isinstance(value, list) for value in keys.values()):
        return None
    found = next((keys[key] for key in _LISTS if _is_conversation(keys.get(key))), None)
    if found is None:
        found = next((keys[key] for key in _ALWAYS if isinstance(keys.get(key), list) and keys[key]), None)
    return found


def _heading(keys: Mapping[str, Any]) -> str:
    for key in _HEADING:
        value = keys.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return whole_text(str(value).strip())
    return ""


def _pair(keys: Mapping[str, Any]) -> list[object]:
    """Turns of user and assistant in an object that has a prompt and an answer."""
    for asked, answered in _PAIRS:
        if asked in keys and answered in keys:
            question = [keys[asked], *(keys[key] for key in _BETWEEN if keys.get(key))]
            return [*_as_turns("user", *question), *_as_turns("assistant", keys[answered])]
    return []


def _as_turns(role: str, *values: object) -> Iterator[object]:
    texts = []
    for value in values:
        if has_turns(value):
            yield from value  # type: ignore[misc]
        else:
            texts.append(message_text(value) or "")
    if any(texts):
        yield {"role": role, "content": "\n".join(filter(None, texts))}


def _tree(keys: Mapping[str, Any]) -> list[object] | None:
    """The messages of ChatGPT's export, from the root to the current node."""
    nodes = keys.get("mapping")
    if not isinstance(nodes, Mapping) or not nodes:
        return None
    current = keys.get("currentnode")
    if current not in nodes:
        current = next(reversed(nodes))
    found: list[object] = []
    seen: set[str] = set()
    while isinstance(current, str) and current in nodes and current not in seen:
        seen.add(current)
        node = nodes[current] if isinstance(nodes[current], Mapping) else {}
        message = node.get("message")
        if isinstance(message, Mapping):
            content = message.get("content")
            kind = content.get("content_type") if isinstance(content, Mapping) else None
            if kind in (None, "text", "multimodal_text"):
                found.append(message)
        current = node.get("parent")
    return found[::-1]
