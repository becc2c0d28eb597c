"""Novels: what stands in quotation marks, and who says it according to a language model.

Quotations are found here, by rule and with their lines; the model sees a stretch of text in which they are numbered, and names
the speaker of each number. It can neither change nor invent words. A quotation without a known speaker becomes a direction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from dpg_fast.data.scripts.names import plain_name
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech
from dpg_fast.llm import Call, Fence
from dpg_fast.llm.results import Run

PROMPT_VERSION = "speakers-1"
CHUNK = 6_000  # characters that the model sees at once
_LONGEST = 3_000  # characters of one quotation
_CHAPTER = re.compile(r"(?:CHAPTER|Chapter|PART|BOOK|PROLOGUE|EPILOGUE)\b.{0,60}$|(?:[*#~]\s*){3,}$")
_MARKS = (("\u201c", "\u201d"), ("\u00ab", "\u00bb"), ("\u201e", "\u201c"), ('"', '"'))
_UNKNOWN = "unknown"
_SYSTEM = """You read fiction and say who speaks. In the text, each quotation is preceded by its number in double brackets.
For each number give the speaker's name as the narration has it, always the same form for the same person, or "{unknown}" if \
the text does not settle it or the quotation is not speech.
{notice}"""


class Attribution(BaseModel):
    """Who says one quotation."""

    quotation: int
    speaker: str = Field(description='a name, or "unknown"')


class Attributions(BaseModel):
    """The model's reply."""

    speakers: list[Attribution]


@dataclass(frozen=True)
class Quotation:
    """Words in quotation marks.

    Attributes:
        number: from 1 in the file.
        start, end: where they stand in the joined text, marks included.
        text: without the marks, on one line.
        line: from 1.
    """

    number: int
    start: int
    end: int
    text: str
    line: int


@dataclass
class Novel:
    """A novel before attribution: its text, quotations and the calls that name their speakers."""

    name: str
    text: str
    quotations: list[Quotation]
    calls: list[Call[Attributions]] = field(default_factory=list)


def prepare_novel(lines: Sequence[str], name: str) -> Novel:
    """Find the quotations and make the calls; nothing is sent."""
    text = "\n".join(lines)
    novel = Novel(name, text, _quotations(text))
    chunk: list[Quotation] = []
    for quotation in novel.quotations:
        if chunk and quotation.end - chunk[0].start > CHUNK:
            novel.calls.append(_call(novel, chunk))
            chunk = []
        chunk.append(quotation)
    if chunk:
        novel.calls.append(_call(novel, chunk))
    return novel


def attribute(novel: Novel, run: Run) -> Script:
    """The script that ``run``, the results of the novel's calls, makes of it; chapters are scenes."""
    speakers: dict[int, str] = {}
    builder = ScriptBuilder(novel.name, "novel")
    for result in run.results:
        if result.failure is not None:
            builder.problem(0, f"{result.item}: {result.failure.kind}: {result.failure.detail}; nobody says these")
            continue
        for row in result.value.speakers if result.value is not None else ():
            speakers.setdefault(row.quotation, row.speaker.strip())
    position = line = 0
    unknown = 0
    for quotation in novel.quotations:
        line += novel.text.count("\n", position, quotation.start)
        for row_number, row in enumerate(novel.text[position : quotation.start].split("\n")):
            if _CHAPTER.match(row.strip()):
                builder.open_scene(
                    row.strip(), quotation.line - novel.text.count("\n", position, quotation.start) + row_number
                )
        position = quotation.end
        speaker = speakers.get(quotation.number, _UNKNOWN)
        if speaker.lower() == _UNKNOWN or not plain_name(speaker):
            unknown += 1
            builder.add(Direction("action", quotation.text, quotation.line))
        else:
            part = Part("words", quotation.text, quotation.line)
            builder.add(Speech(speaker, (), [part], quotation.line, plain_name(speaker)))
    if unknown:
        builder.problem(0, f"{unknown} of {len(novel.quotations)} quotations have no speaker: taken as directions")
    return builder.finish()


def _quotations(text: str) -> list[Quotation]:
    """Quotations in the kind of marks that the text uses most; one that is not closed ends with its paragraph."""
    opening, closing = max(_MARKS, key=lambda pair: min(text.count(pair[0]), text.count(pair[1])))
    found: list[Quotation] = []
    position = counted = 0
    line = 1
    while (start := text.find(opening, position)) >= 0:
        limit = text.find("\n\n", start)
        limit = min(len(text) if limit < 0 else limit, start + _LONGEST)
        end = text.find(closing, start + 1, limit)
        stop = limit if end < 0 else end
        inside = " ".join(text[start + 1 : stop].split())
        line += text.count("\n", counted, start)
        counted = start
        position = stop + (end >= 0)
        if inside:
            found.append(Quotation(len(found) + 1, start, position, inside, line))
    return found


def _call(novel: Novel, chunk: Sequence[Quotation]) -> Call[Attributions]:
    start = max(0, chunk[0].start - CHUNK // 6)
    end = min(len(novel.text), chunk[-1].end + CHUNK // 12)
    pieces, position = [], start
    for quotation in chunk:
        pieces += [novel.text[position : quotation.start], f"[[{quotation.number}]]"]
        position = quotation.start
    body = "".join(pieces) + novel.text[position:end]
    fence = Fence.around([body])
    system = _SYSTEM.format(unknown=_UNKNOWN, notice=fence.notice())
    user = f"{fence.wrap('text', body)}\n\nWho says the quotations {chunk[0].number} to {chunk[-1].number}?"
    item = f"{novel.name}: quotations {chunk[0].number}-{chunk[-1].number}"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return Call(item, messages, Attributions, PROMPT_VERSION, {"temperature": 0})
