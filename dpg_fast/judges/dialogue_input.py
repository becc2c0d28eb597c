"""Dialogues to judge, as people have them: our records, OpenAI's messages, ShareGPT's conversations, and what
``data scripts read --out`` writes.

Of messages the words of users, assistants and systems are kept; tools' turns and turns without words are nobody's speech. Keys of
training sets beside the messages are allowed, and an "id" is carried into the judgements.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpg_fast.text.messages import UNSPOKEN_ROLES, message_text
from dpg_fast.text.records import DialogueRecord
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import checked, json_lines

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_FIELDS = frozenset(DialogueRecord.model_fields) - {"messages"}
_SCRIPT = frozenset(("script", "scene", "kind"))  # keys of a row of `data scripts read --out`
_ALIKE = 0.8
_FORM = (
    'expected {"messages": [{"role": "user", "content": "..."}, ...]}, {"conversations": [{"from": "human", "value": "..."}, '
    "...]}, or rows of `dpg-fast data scripts read --out`"
)


class JudgedRecord(DialogueRecord):
    """A dialogue to judge.

    Attributes:
        id: the user's own name of it.
    """

    source: str = ""
    id: str | int | None = None


def read_dialogues(path: Path | str, target: str | None = None) -> Iterator[JudgedRecord]:
    """The dialogues of a JSON Lines file, one at a time.

    Args:
        path: of the file.
        target: name of who is judged; of a file of scripts, only scenes in which that person speaks are dialogues.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line holds no dialogue, the file is empty, or scripts come without a target who speaks.
    """
    path = Path(path)
    rows = json_lines(path)
    first = next(rows, None)
    if first is None:
        raise DPGError(f"{path.name} is empty: there is nothing to judge")
    rows = itertools.chain([first], rows)
    if isinstance(first[1], dict) and first[1].keys() >= _SCRIPT:
        yield from _scenes(rows, path.name, target)
        return
    for where, row in rows:
        yield _record(row, where)


def _record(row: object, where: str) -> JudgedRecord:
    turns = row.get("messages", row.get("conversations")) if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise DPGError(f"{where}: messages are missing or empty; {_FORM}")
    assert isinstance(row, dict)
    for key in row.keys() - _FIELDS:
        meant = difflib.get_close_matches(str(key), _FIELDS, 1, _ALIKE)
        if meant:
            raise DPGError(f"{where}: unknown key {key!r}; is {meant[0]!r} meant?")
    messages = [
        message for number, turn in enumerate(turns) for message in _message(turn, f"{where}: messages.{number}")
    ]
    if not messages:
        raise DPGError(f"{where}: no message holds words")
    found = {key: value for key, value in row.items() if key in _FIELDS or key == "id"}
    record: JudgedRecord = checked(JudgedRecord, found | {"messages": messages}, where)
    return record


def _message(turn: object, where: str) -> Iterator[dict[str, Any]]:
    """The turn as a message, if anybody speaks in it."""
    if not isinstance(turn, Mapping):
        raise DPGError(f"{where}: a message is an object, not {turn!r:.60}")
    role = turn.get("role", turn.get("from"))
    content = next((turn[key] for key in ("content", "value") if key in turn), None)
    if role in UNSPOKEN_ROLES - _ROLES.keys():
        return
    if role not in _ROLES:
        raise DPGError(f"{where}.role: {role!r} is unknown; accepted: {', '.join(_ROLES)}")
    text = message_text(content)
    if text is None:
        raise DPGError(f"{where}.content: neither a text nor a list of parts")
    if text or isinstance(content, str):  # a silence is a turn, a call of a tool is not
        name = turn.get("name")
        yield {"role": _ROLES[str(role)], "content": text} | ({"name": name} if name else {})


def _scenes(rows: Iterator[tuple[str, Any]], name: str, target: str | None) -> Iterator[JudgedRecord]:
    if target is None:
        raise DPGError(
            f"{name} holds scenes of scripts, in which nobody is the assistant: name who is judged with --target"
        )
    speakers: dict[str, None] = {}
    found = False
    for (script, scene), group in itertools.groupby(rows, key=lambda row: _scene_of(row[1], row[0])):
        messages = []
        for _, row in group:
            if row.get("kind") == "speech" and row.get("speaker") and row.get("words"):
                messages.append({"role": "user", "content": row["words"], "name": row["speaker"]})
                speakers.setdefault(str(row["speaker"]))
        if any(str(message["name"]).casefold() == target.strip().casefold() for message in messages):
            found = True
            place = f"{script}, scene {scene}"
            yield checked(JudgedRecord, {"messages": messages, "source": str(script), "id": place}, f"{name}: {place}")
    if not found:
        raise DPGError(f"{name}: nobody named {target!r} speaks; speakers: {', '.join(itertools.islice(speakers, 20))}")


def _scene_of(row: object, where: str) -> tuple[Any, Any]:
    if not isinstance(row, dict) or not row.keys() >= _SCRIPT:
        raise DPGError(f"{where}: not a row of `dpg-fast data scripts read --out`, as those before it")
    return row["script"], row["scene"]
