"""One reader for rows that say who speaks and what: lines of JSON, messages of an export, rows of a table.

What a key means is told by its name, without regard to case and signs ("conversationId", "Conversation ID"); of several that fit,
the first of the vocabulary is taken. Rows that name a conversation are brought together under it, in the order of their replies
or times; a change of season, episode or scene opens a scene.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dpg_fast.data.scripts.names import plain_name
from dpg_fast.data.scripts.script import Direction, Part, ScriptBuilder, Speech
from dpg_fast.text.messages import UNSPOKEN_ROLES, message_text, whole_text


def vocabulary(words: str) -> tuple[str, ...]:
    """Keys in the form in which they are compared."""
    return tuple(plain_key(word) for word in words.split())


@lru_cache(maxsize=4096)
def plain_key(key: str) -> str:
    """A key without case and signs: "Conversation ID" is "conversationid"."""
    return re.sub(r"[\W_]+", "", key.casefold())


SPEAKER = vocabulary(
    "speaker speaker_name character character_name raw_character_text sender_name sender name author nickname from "
    "user_profile user username user_name creator who person participant actor src role speaker_id character_id user_id "
    "author_id sender_id"
)
TEXT = vocabulary(
    "text content value utterance message mes msg dialogue dialog line line_text sentence spoken_words character_words body "
    "words quote speech full_text raw_text"
)
CONVERSATION = vocabulary(
    "conversation_id conversation dialogue_id dialog_id conv_id chat_id thread_id session_id root channel_id"
)
PLACE = vocabulary("season season_no episode episode_no episode_id scene scene_id")
_ID = vocabulary("id utterance_id message_id")
_REPLY = vocabulary("reply_to")
_TIME = vocabulary("timestamp_ms timestamp ts date create_time created_at time")
_NAMES = vocabulary("nickname global_name display_name real_name name username id role")  # of an object
_KIND = vocabulary("type subtype")
_UNSPOKEN_KINDS = re.compile(
    r"service|system|guild|channel|group_|recipient|thread|call$|event|notification|user ?premium|bot_|"
    r"(?:un)?subscribe$|pinned",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TurnRow:
    """What a row says.

    Attributes:
        speaker: as the row has it.
        text: "" where there are no words: a picture, a call of a tool.
        line: of the file, or the number of the turn where the file is one JSON value.
        spoken: not a system's or a tool's text.
        conversation: the conversation's own name.
        place: (what, which), such as ("scene", "12").
        id, reply_to: of rows that answer others.
        time: number or ISO date.
    """

    speaker: str
    text: str
    line: int
    spoken: bool = True
    conversation: str | None = None
    place: tuple[tuple[str, str], ...] = ()
    id: str | None = None
    reply_to: str | None = None
    time: float | str | None = None


def keys_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The row with its keys in the form in which they are compared; the first of equal ones."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        found.setdefault(plain_key(str(key)), value)
    return found


def read_turn(row: object, line: int) -> TurnRow | None:
    """The turn in a row; None if it does not say who speaks, or what."""
    return turn_of(keys_of(row), line) if isinstance(row, Mapping) else None


def turn_of(keys: Mapping[str, Any], line: int) -> TurnRow | None:
    """As `read_turn`, of a row's `keys_of`."""
    speaker = next((name for key in SPEAKER if key in keys and (name := _name(keys[key]))), None)
    told = [keys[key] for key in TEXT if key in keys and not has_turns(keys[key])]
    texts = [text for value in told if (text := message_text(value)) is not None]
    if speaker is None or not texts or not plain_name(speaker):
        return None
    text = next(filter(None, texts), "")
    if "sendername" in keys and "timestampms" in keys:  # Meta writes the bytes of UTF-8 as if they were letters
        speaker, text = _letters(speaker), _letters(text)
    kinds = [str(keys[key]) for key in _KIND if key in keys]
    spoken = speaker.casefold() not in UNSPOKEN_ROLES and speaker.casefold() != "system"
    spoken = spoken and keys.get("issystem") is not True and not any(map(_UNSPOKEN_KINDS.match, kinds))
    return TurnRow(
        speaker,
        text,
        line,
        spoken,
        _short(keys, CONVERSATION),
        tuple((key, value) for key in PLACE if (value := _value(keys.get(key))) is not None),
        _short(keys, _ID),
        _short(keys, _REPLY),
        next((time for key in _TIME if key in keys and (time := _time(keys[key])) is not None), None),
    )


def has_turns(value: object) -> bool:
    """Whether a value is a list in which some row is a turn."""
    return isinstance(value, list) and any(read_turn(row, 0) is not None for row in value)


class TurnTable:
    """Turns on their way into a script."""

    def __init__(self, builder: ScriptBuilder) -> None:
        self.builder = builder
        self._rows: list[TurnRow] = []
        self._wordless = 0

    def row(self, turn: TurnRow) -> None:
        """Add a turn that stands by itself; the next ones may belong to its conversation."""
        self._rows.append(turn)

    def conversation(self, heading: str, turns: Sequence[TurnRow], line: int) -> None:
        """Add a whole conversation: a scene."""
        self._flush()
        self.builder.open_scene(heading, line)
        for turn in in_order(turns):
            self._add(turn)

    def finish(self) -> None:
        """Add what is left, and say how many turns hold no words."""
        self._flush()
        if self._wordless:
            self.builder.problem(0, f"turns without words (pictures, empty cells) that were left out: {self._wordless}")

    def _flush(self) -> None:
        groups: dict[str | None, list[TurnRow]] = defaultdict(list)
        current: str | None = None
        for turn in self._rows:
            current = turn.conversation if turn.conversation is not None else current
            groups[current].append(turn)
        self._rows = []
        for name, turns in groups.items():
            place: tuple[tuple[str, str], ...] = ()
            if name is not None:
                self.builder.open_scene(name, turns[0].line)
                place = turns[0].place
            for turn in in_order(turns):
                if turn.place and turn.place != place:
                    place = turn.place
                    self.builder.open_scene(_heading(name, place), turn.line)
                self._add(turn)

    def _add(self, turn: TurnRow) -> None:
        if not turn.text:
            self._wordless += 1
        elif turn.spoken:
            part = Part("words", turn.text, turn.line)
            self.builder.add(Speech(turn.speaker, (), [part], turn.line, plain_name(turn.speaker)))
        else:
            self.builder.add(Direction("note", turn.text, turn.line))


def in_order(turns: Sequence[TurnRow]) -> list[TurnRow]:
    """The turns of one conversation as they were said: answers after what they answer, and the newest last.

    The file's order stands unless some answer comes before its question there, or all times run backwards.
    """
    places: dict[str | None, int] = {turn.id: n for n, turn in enumerate(turns) if turn.id is not None}
    if any(places.get(turn.reply_to, -1) > number for number, turn in enumerate(turns) if turn.reply_to is not None):
        return _by_replies(turns, places)
    times = [turn.time for turn in turns]
    if any(all(isinstance(time, kind) for time in times) for kind in (float, str)):
        pairs = list(itertools.pairwise(times))
        if all(a >= b for a, b in pairs) and any(a > b for a, b in pairs):  # type: ignore[operator]
            return list(reversed(turns))
    return list(turns)


def _by_replies(turns: Sequence[TurnRow], places: Mapping[str | None, int]) -> list[TurnRow]:
    answers: dict[int, list[int]] = defaultdict(list)
    first: list[int] = []
    for number, turn in enumerate(turns):
        asked = places.get(turn.reply_to) if turn.reply_to is not None else None
        (first if asked is None or asked == number else answers[asked]).append(number)
    found: dict[int, None] = {}
    waiting = list(reversed(first))
    while waiting:
        number = waiting.pop()
        if number not in found:
            found[number] = None
            waiting += reversed(answers[number])
    rest = [number for number in range(len(turns)) if number not in found]  # answers in a circle
    return [turns[number] for number in (*found, *rest)]


def _heading(conversation: str | None, place: Sequence[tuple[str, str]]) -> str:
    if conversation is None and len(place) == 1:
        return place[0][1]
    parts = [f"{what} {which}" for what, which in place]
    return ", ".join(parts if conversation is None else [conversation, *parts])


def _name(value: object) -> str | None:
    return _short(keys_of(value), _NAMES) if isinstance(value, Mapping) else _value(value)


def _value(value: object) -> str | None:
    """A text or number as text; None if it is neither, or empty."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return whole_text(str(value)).strip() or None


def _short(keys: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := _value(keys.get(name))) is not None), None)


def _time(value: object) -> float | str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if re.fullmatch(r"\d{6,}(?:\.\d+)?", value):
            return float(value)
        if re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", value):
            return value
    return None


def _letters(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
