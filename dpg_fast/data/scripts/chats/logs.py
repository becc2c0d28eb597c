"""Logs of messengers and meetings: lines with a time and a name.

- ``[03/02/2025, 20:11:05] Ann: words`` (WhatsApp, Signal, exports of Discord), ``03/02/2025, 20:11 - Ann: words``;
- ``20:11 <ann> words`` and ``<ann> words`` (IRC);
- ``[00:01:02] Ann: words``, with a time or a range of times (Whisper's tools, Descript, Zoom);
- ``Ann Lee  12:45`` alone on its line, the words below (Otter, Teams, Rev).

What follows up to the next such line is the same person's, empty lines included. Another day is another scene. What an app says
itself, and pictures, are directions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dpg_fast.data.scripts.names import plain_name, split_cue
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech

_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")  # of the direction of writing
_FROM_APP = "\u200e"  # what WhatsApp puts before its own words
_HALF = r"(?:[apAP]\.?\s?[mM]\b\.?|[صم](?!\w))"
_CLOCK = rf"(?:(?:上午|下午|午前|午後|오전|오후)\s?)?\d{{1,3}}:\d{{2}}(?::\d{{2}})?(?:[.,]\d{{1,3}})?(?:\s?{_HALF})?"
_DOTTED = r"\d{1,2}\.\d{2}(?:\.\d{2})?"  # 20.11, as some countries write it; only behind a date
_DATE = (
    r"(?:\d{1,4}[./\-]\d{1,2}[./\-]\d{1,4}\.?|\d{4}年\d{1,2}月\d{1,2}日|\d{4}\. ?\d{1,2}\. ?\d{1,2}\.?"
    r"|\d{1,2}\.?[\- ][^\W\d_]{3,9}\.?[\- ]\d{2,4}|[^\W\d_]{3,9}\.? \d{1,2},? \d{4})"
)
_BETWEEN = r"(?:T|,?\s+(?:(?:at|um|à|alle|a las|às|kl\.?|klo)\s+)?)"
_DATED = rf"(?P<date>{_DATE}){_BETWEEN}(?P<clock>{_CLOCK}|{_DOTTED})(?:Z|\s?UTC|[+\-]\d\d:?\d\d)?"
_TIMED = rf"(?P<clock>{_CLOCK})(?:\s*(?:-->?|–|—|->|to)\s*{_CLOCK})?"
_STAMPS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\[\s*{_DATED}\s*\]\s*[:\-–]?\s*(?P<rest>.*)",
        rf"\(\s*{_DATED}\s*\)\s*[:\-–]?\s*(?P<rest>.*)",
        rf"{_DATED}\s*(?:[\-–,]\s+|:\s+|\t|\s+(?=<)|\s(?=[^\s:]))\s*(?P<rest>.*)",
        rf"\[\s*{_TIMED}\s*\]\s*[:\-–]?\s*(?P<rest>.*)",
        rf"\(\s*{_TIMED}\s*\)\s*[:\-–]?\s*(?P<rest>.*)",
        rf"{_TIMED}\s*(?:[\-–:]\s+|\t|\s)\s*(?P<rest>.*)",
    )
)
_NICK = re.compile(r"<\s*[@+%&~!]?\s*(?P<name>[^<>\s][^<>]{0,39}?)\s*>\s+(?P<words>.*)")
_ZOOM = re.compile(r"From\s+(?P<name>.{1,60}?)\s+to\s+.{1,60}?:\s*(?P<words>.*)", re.IGNORECASE)
_ZOOM_ALONE = re.compile(r"From\s+(?P<name>.{1,60}?)\s*:\s*(?P<words>.*)")
_NAMED = re.compile(r"\*{0,2}(?P<name>[^:：\s\"“”][^:：\"“”]{0,59}?)\s*\*{0,2}[:：](?:\s+|$)\*{0,2}\s*(?P<words>.*)")
_WORD = r"(?:[^\W\d_a-z][\w'’.\-]*|\d{1,3})"
_NAME = (
    rf"(?:{_WORD}(?:,?[ ]+(?:{_WORD}|of|the|and|de|van|von|der|la|le|du|bin|al|el)){{0,5}}|[\w.\-]{{2,30}}(?=\s\s|\t))"
)
_BEFORE = re.compile(  # "Ann Lee (Guest)  0:03": the name, the time, and nothing else or a colon and words
    rf"\*{{0,2}}(?P<name>{_NAME}(?:[ ]\([^()\d]{{1,30}}\))?)\*{{0,2}}"
    rf"(?:\s+|\s*[,|•·]\s*|\s+[\-–]\s+)[(\[]?(?P<clock>{_CLOCK})[)\]]?\s*(?P<colon>:?)\s*(?P<words>.*)"
)
_TAB = re.compile(r"(?P<name>[@+%&~!]?[\w.\-\[\]|^`]{1,30})\t(?P<words>.*)")  # WeeChat
_EVENT = re.compile(r"(?:-!-|\*{1,3}|-->?|<--?|={3,}|—)\s|\*\s*\S+ (?:has )?(?:joined|left|quit)")
_DAY = re.compile(
    r"-{2,}\s*(?:Day changed|Log opened|Log closed)\b.*|[\-–—=]{3,20} ?[^\W_].{0,60}\d{4} ?[\-–—=]{3,20}$",
    re.IGNORECASE,
)
_PICTURE = re.compile(
    r"<[^<>]{1,60}>$|\S+\.\w{2,4} \([^()]{1,40}\)$"
    r"|(?:image|video|audio|sticker|gif|document|contact card|media) omitted\.?$"
    r"|(?:this message was deleted|you deleted this message|waiting for this message.*|null)\.?$",
    re.IGNORECASE,
)
_EDITED = re.compile(r"(?:\u200e<[^<>]{1,60}>|<this message was edited>)$", re.IGNORECASE)
_SPACES = re.compile(r"[ \u00a0\u202f\u3000]{3,}")
_ENTRY = re.compile(r"\d[:.]\d\d|^[\s\u200e]*<")  # what every line that begins a message holds
_FOOT = re.compile(r"Transcribed by https?://\S+$", re.IGNORECASE)
_HEADING = re.compile(r"(?:INT|EXT|INT\.?/EXT|I/E|ACT|SCENE)[. ]", re.IGNORECASE)
_LEAST = 2


@dataclass(frozen=True)
class _Line:
    """A line that begins a message; `name` is None for an app's own words."""

    name: str | None
    words: str
    date: str | None
    clock: str | None


def is_log(lines: Sequence[str]) -> bool:
    """Whether the lines look like a log: two or more with a time and a name, or an IRC nick, from near the beginning on.

    Times without a date also stand in other texts: then there must be as many such lines as others that begin with a name and a
    colon, and no headings of a screenplay.
    """
    found = []
    others = headings = 0
    for line in lines:
        entry = _read(line)
        if entry is not None and entry.name is not None:
            found.append(entry)
        elif entry is None:
            text = line.strip()
            headings += _HEADING.match(text) is not None
            others += _NAMED.match(text) is not None
    if len(found) < _LEAST or headings >= len(found):
        return False
    filled = [line for line in lines if line.strip()][:200]
    if not any(_read(line) is not None for line in filled[: 5 + len(filled) // 20]):
        return False
    return sum(entry.date is not None for entry in found) >= _LEAST or len(found) >= max(_LEAST, others)


def read_log(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: what stands before the first time is a direction."""
    builder = ScriptBuilder(name, "chats")
    current: Speech | None = None
    day: str | None = None
    for number, raw in enumerate(lines, 1):
        text = _plain(raw)
        if not text:
            continue
        entry = _read(raw)
        if entry is None and (_DAY.match(text) or _FOOT.match(text)):
            current = None
            if _DAY.match(text):
                builder.open_scene("", number)
            builder.add(Direction("note", text.strip("-–—= "), number))
            continue
        if entry is None:
            if current is None:
                builder.add(Direction("note", text, number))
            else:
                current.parts.append(Part("words", text, number))
            continue
        if entry.date is not None and entry.date != day:
            if day is not None:
                builder.open_scene("", number)
            day = entry.date
        if entry.name is None:
            current = None
            builder.add(Direction("note", entry.words, number))
            continue
        if _is_picture(raw, entry.words):
            current = None
            builder.add(Direction("note", f"{entry.name}: {entry.words}", number))
            continue
        person, extensions = split_cue(entry.name)
        current = Speech(person, extensions, [], number, plain_name(person))
        builder.add(current)
        if entry.words:
            current.parts.append(Part("words", entry.words, number))
    for speech in builder.script.speeches():
        if not speech.words:
            builder.problem(speech.line, f"{speech.cue} says nothing")
    return builder.finish()


def _plain(raw: str) -> str:
    return _MARKS.sub("", _EDITED.sub("", raw.rstrip())).strip()


def _is_picture(raw: str, words: str) -> bool:
    behind = raw.rstrip().rpartition(": ")[2]
    return (behind.startswith(_FROM_APP) and not behind.startswith(f"{_FROM_APP}<")) or _PICTURE.match(
        words
    ) is not None


def _read(raw: str) -> _Line | None:
    if not _ENTRY.search(raw):
        return None
    text = _SPACES.sub("  ", _plain(raw))
    if not text or len(text) > 100_000:
        return None
    nick = _NICK.match(text)
    if nick:
        return _Line(nick["name"], nick["words"], None, None)
    before = _BEFORE.match(text)
    if before and not _HEADING.match(text) and plain_name(before["name"]) and (before["colon"] or not before["words"]):
        return _Line(before["name"].strip(), before["words"], None, before["clock"])
    for pattern in _STAMPS:
        found = pattern.match(text)
        if found:
            return _stamped(found)
    return None


def _stamped(found: re.Match[str]) -> _Line | None:
    groups = found.groupdict()
    date, clock, rest = groups.get("date"), groups["clock"], groups["rest"].strip()
    for pattern in (_NICK, _ZOOM, _ZOOM_ALONE, _TAB, _NAMED):
        named = pattern.match(rest)
        if named and plain_name(named["name"]):
            return _Line(named["name"].strip(), named["words"].strip(), date, clock)
    if _EVENT.match(rest):
        return _Line(None, rest, date, clock)
    if found.re.pattern.startswith((r"\[", r"\(")) and rest and re.fullmatch(_WORD + rf"(?: {_WORD}){{0,3}}", rest):
        return _Line(rest, "", date, clock)  # Discord's text export: the words are below
    return _Line(None, rest, date, clock) if date is not None and rest else None
