"""Timed cues out of subtitle files: SubRip, WebVTT, SubViewer's .sbv, SubStation, TTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpg_fast.data.scripts.markup import ID, parse_xml, tag_of
from dpg_fast.data.scripts.script import ScriptBuilder

_TIME = re.compile(r"(?<![\d:])(?:(\d{1,4}):)?(\d{1,2}):(\d{2})(?:(?:[.,]|:(?=\d{3}\b))(\d{1,3}))?(?![\d:])")
_SBV = re.compile(rf"\s*{_TIME.pattern}\s*,\s*{_TIME.pattern}\s*$")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|</?\d[\d:.]*>|\{[^{}]*\}")
_COMMENT = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_OFFSET = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|f|t)$")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_FRAMES = 30.0  # a second, where TTML does not say


@dataclass(frozen=True)
class Cue:
    """A subtitle; the lines of `text` are joined by a line feed."""

    line: int
    start: float
    end: float
    speaker: str | None
    text: str


def read_cues(lines: Sequence[str], name: str, builder: ScriptBuilder) -> Iterator[Cue]:
    """The cues of a file of any of the formats; what cannot be read is a problem.

    Raises:
        ValueError: TTML that is not XML.
        ImportError: TTML needs lxml.
    """
    if any(re.match(r"\[(?:script info|events)\]", line.strip(), re.IGNORECASE) for line in lines[:2000]):
        return _substation(lines, builder)
    if any(re.search(r"<(?:\w+:)?tt[\s>]", line) for line in lines[:50]):
        return _ttml(lines, name, builder)
    return _timed(lines, builder)


def plain_text(text: str) -> str:
    """A cue's text on one line, without tags."""
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _seconds(found: re.Match[str]) -> float:
    hours, minutes, seconds, fraction = found.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _is_time(line: str) -> bool:
    return "-->" in line or _SBV.match(line) is not None


def _timed(lines: Sequence[str], builder: ScriptBuilder) -> Iterator[Cue]:
    """A line with two times, and the text up to the next: an empty line inside a cue ends nothing, as players show it."""
    position = next((i for i, line in enumerate(lines) if _is_time(line)), len(lines))
    while position < len(lines):
        number = position + 1
        times = list(_TIME.finditer(lines[position]))[:2]
        following = next((i for i in range(number, len(lines)) if _is_time(lines[i])), len(lines))
        texts = _texts([line.strip() for line in lines[number:following]], last=following == len(lines))
        if len(times) < 2:
            what = f"times cannot be read ({lines[position].strip()[:40]!r}): the subtitle is left out"
            builder.problem(number, what)
        elif not texts:
            builder.problem(number, "the subtitle is empty")
        else:
            yield Cue(number, _seconds(times[0]), _seconds(times[1]), None, "\n".join(texts))
        position = following


def _texts(lines: Sequence[str], last: bool) -> list[str]:
    """A cue's lines, without the next one's number or name, stray numbers and comments."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1] or len(paragraphs) == 1:
            paragraphs.append([])
    first, *rest = paragraphs
    if not last and lines and lines[-1]:  # the line before a time
        tail = paragraphs[-1]
        if len(paragraphs) > 1 and len(tail) == 1:
            rest.pop()
        elif tail and tail[-1].isdigit():
            tail.pop()
    kept = [p for p in rest if p and not (len(p) == 1 and p[0].isdigit()) and not _COMMENT.match(p[0])]
    return [line for paragraph in (first, *kept) for line in paragraph]


def _substation(lines: Sequence[str], builder: ScriptBuilder) -> Iterator[Cue]:
    fields = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
    for number, line in enumerate(lines, 1):
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "format" and "text" in value.lower():
            fields = [field.strip().lower() for field in value.split(",")]
        if key != "dialogue":
            continue
        values = [part.strip() for part in value.split(",", len(fields) - 1)]
        row = dict(zip(fields, values, strict=False))
        start, end = _TIME.match(row.get("start", "")), _TIME.match(row.get("end", ""))
        if len(values) < len(fields) or start is None or end is None:
            builder.problem(number, "a Dialogue line cannot be read: left out")
            continue
        text = re.sub(r"\\[Nn]", "\n", row.get("text", "")).replace("\\h", " ")
        if plain_text(text):
            yield Cue(number, _seconds(start), _seconds(end), row.get("name") or row.get("actor") or None, text)


def _ttml(lines: Sequence[str], name: str, builder: ScriptBuilder) -> Iterator[Cue]:
    """Paragraphs with times; an agent's name is the speaker."""
    root = parse_xml(lines, name)
    agents = {}
    for agent in root.iterfind(".//{*}agent"):
        named = agent.find("{*}name")
        agents[agent.get(ID)] = "" if named is None else " ".join("".join(named.itertext()).split())
    rates = {key.rpartition("}")[2]: value for key, value in root.attrib.items()}
    frames, ticks = _rate(rates.get("frameRate"), _FRAMES), _rate(rates.get("tickRate"), 1.0)
    for paragraph in root.iterfind(".//{*}body//{*}p"):
        line = int(paragraph.sourceline or 0)
        start = _moment(paragraph.get("begin"), frames, ticks)
        end = _moment(paragraph.get("end"), frames, ticks)
        length = _moment(paragraph.get("dur"), frames, ticks)
        if start is None or (end is None and length is None):
            builder.problem(line, "times cannot be read: the subtitle is left out")
            continue
        for breaking in paragraph.iterfind(".//{*}br"):
            breaking.tail = "\n" + (breaking.tail or "")
        text = "\n".join(" ".join(part.split()) for part in "".join(paragraph.itertext()).split("\n")).strip()
        parts = [paragraph, *paragraph.iterfind(".//{*}span")]
        agent = next((a for p in parts for key, a in p.attrib.items() if tag_of(key) == "agent"), None)
        if text:
            yield Cue(
                line,
                start,
                start + (length or 0.0) if end is None else end,
                agents.get(agent) or None,
                html.escape(text),
            )
        else:
            builder.problem(line, "the subtitle is empty")


def _rate(text: str | None, default: float) -> float:
    return float(text) if text and text.isdigit() and int(text) else default


def _moment(text: str | None, frames: float, ticks: float) -> float | None:
    text = (text or "").strip()
    offset = _OFFSET.match(text)
    if offset:
        scale = _SECONDS | {"f": 1 / frames, "t": 1 / ticks}
        return float(offset[1]) * scale[offset[2]]
    if re.fullmatch(r"\d+:\d\d:\d\d:\d+", text):
        text, _, frame = text.rpartition(":")
        found = _TIME.fullmatch(text)
        return None if found is None else _seconds(found) + int(frame) / frames
    found = _TIME.fullmatch(text)
    return None if found is None else _seconds(found)
