"""How a screenplay is laid out on the page, and the same text as Fountain with every cue, heading and direction marked.

Typed Fountain needs none of this. Text that was copied from a page is different: it is indented, its empty lines hold spaces,
stand between a name and the words, or are missing, and page numbers interrupt speeches. `lay_out` finds out which from the
file as a whole:

- "columns": names stand further to the right than words. The columns decide; empty lines do so only where words and action
  share a column.
- "spaced": nothing is indented, and an empty line stands between nearly every name and its words.
- "tight": nothing is indented and there are hardly any empty lines. A speech ends at the next name or heading.
- "plain": none of these; only empty lines that hold spaces are emptied, if most of the file's do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dpg_fast.data.scripts.headings import Heading, play_heading, screenplay_heading
from dpg_fast.data.scripts.names import LONGEST_CUE, plain_name, split_cue

Line = tuple[int, str]
Kind = Literal["plain", "columns", "spaced", "tight"]

SHOT = re.compile(
    r"(?:ANGLE|CLOSE|CLOSER|BACK|WIDE|WIDER|ECU|CU) (?:ON|TO|IN|SHOT|ANGLE)\b|CLOSE-?UP\b|(?:REVERSE|HIGH|LOW|NEW) ANGLE\b|"
    r"(?:SMASH |MATCH |JUMP |FLASH |TIME |HARD )?CUT (?:TO|BACK)\b|(?:JUMP|TIME|FLASH) CUT\b|(?:FADE|DISSOLVE|INTERCUT|WIPE) |"
    r"(?:INSERT|SUPER|SUPERIMPOSE|TITLE CARD|CHYRON|MONTAGE|SERIES OF SHOTS|FLASHBACK|TRACKING SHOT)\b|ON (?:THE|A|SCREEN)\b|"
    r"(?:MOMENTS |A MOMENT |MINUTES |HOURS |DAYS )?LATER$|(?:CONTINUED|OMITTED|INTERCUT|THE END|END CREDITS)$|.*'S? POV\b"
)
SENTENCE_END = re.compile(r"(?:[!?:;,]|--|\u2014|\.\.\.|\u2026)$")
MOST_WORDS = 6  # of a cue
_ABBREVIATION = re.compile(r"(?:^|[ .])[A-Z]{1,3}\.$")
_CONTINUED = re.compile(
    r"(?:[A-Z]?\d+[A-Z]{0,2}\s+)?\(?(?:CONTINUED|MORE|CONT'?D)\)?\s*[:.]?\s*(?:\(\d+\))?\s*(?:[A-Z]?\d+[A-Z]{0,2}\.?)?[\s*]*$"
)
_PAGE_DOT = re.compile(r"(?:page\s+|-\s*)?\d{1,3}[A-Z]{0,2}\s*[.\-][\s*]*$", re.IGNORECASE)
_PAGE = re.compile(r"(?:page\s+)?\d{1,3}[A-Z]?[\s*]*$", re.IGNORECASE)
_RUNNING_HEAD = re.compile(r"(?P<head>\S.*?)\s{3,}(?:page\s+)?\d{1,3}[A-Z]?\.?[\s*]*$", re.IGNORECASE)
_STEP = 3  # columns between names and words, at least
_SURE = 0.6  # of the cues must follow a layout
_RARE = 0.04  # of the cues: what fewer have (a column of words, marks of Fountain) is an accident
_NEAR = 0.1
_MANY = 20  # names that leave no doubt where a text has no heading
_TYPED = re.compile(r"[@!]\w|\.[A-Z][A-Z ]+$|.*(?:\w\s*\^|#[\w.\-]+#)$")


@dataclass(frozen=True)
class Layout:
    """A screenplay's lines, ready for the reader of Fountain.

    Attributes:
        kind: see the module.
        lines: numbered as in the file. Unless plain, ``@``, ``!``, ``>`` and ``.`` mark all cues, directions, transitions and
            headings, and nothing else is a cue.
        expected: how many cues there seem to be, counted without reading the speeches.
        heading_of: what a line is the heading of: a screenplay's scene, or where there is none, an act or a scene of a play.
    """

    kind: Kind
    lines: list[Line]
    expected: int
    heading_of: Callable[[str], Heading | None] = screenplay_heading


def lay_out(lines: Sequence[Line]) -> Layout:
    """Find the layout and apply it."""
    page = _Page(lines)
    pairs = page.pairs()
    typed = sum(len(text) < LONGEST_CUE and _TYPED.match(text) is not None for text in page.texts)
    if typed > _RARE * len(pairs):
        return Layout(
            "plain", list(lines), sum(pair.gap == 0 for pair in pairs), page.heading_of
        )  # Fountain's own marks
    if gaps := Counter(pair.gap for pair in pairs if pair.known and pair.gap):
        page.gap = gaps.most_common(1)[0][0]
    right = [pair for pair in pairs if pair.step >= _STEP and pair.gap <= page.gap]
    flat = [pair for pair in pairs if abs(pair.step) < _STEP and pair.known]
    if len(right) >= 2 and len(right) >= _SURE * len(right + [pair for pair in flat if pair.gap == 0]):
        return Layout("columns", list(page.by_columns(right)), len(right), page.heading_of)
    apart = [pair for pair in flat if pair.gap == page.gap]
    under = [pair for pair in flat if pair.gap == 0]
    if len(apart) >= 4 and len(apart) > 5 * len(under) and (page.headings or len(apart) >= _MANY):
        return Layout("spaced", list(page.by_names(spaced=True)), len(apart), page.heading_of)
    filled = sum(bool(text) for text in page.texts)
    if len(under) >= 4 and page.headings and len(page.texts) - filled < _NEAR * filled:
        return Layout("tight", list(page.by_names(spaced=False)), len(under), page.heading_of)
    return Layout("plain", page.emptied(), len(under), page.heading_of)


def is_screenplay(lines: Sequence[str], *, named: int, colons: int) -> bool:
    """Whether a text without a telling ending is a screenplay.

    Args:
        lines: the file's.
        named: how many lines begin with a name as in plays, by `play_cues.cue_styles`.
        colons: how many of these end the name with a colon.
    """
    layout = lay_out(list(enumerate(lines, 1)))
    if layout.kind == "columns":  # their names may end with colons
        named //= 2
    headings = sum(
        (heading := screenplay_heading(text)) is not None and heading.text.upper() == heading.text
        for text in map(str.strip, lines)
    )
    filled = sum(bool(line.strip()) for line in lines)
    return 0.5 * colons < headings or layout.expected > max(3, named, 0.05 * filled)


def is_cue_like(text: str) -> bool:
    """Whether a line in capitals looks like a name rather than a sentence, a shot or a heading."""
    name, _ = split_cue(text.removesuffix("^"))
    if not name or not in_capitals(text) or len(name.split()) > MOST_WORDS or SHOT.match(name):
        return False
    if name.endswith(".") and not name.endswith("..."):
        return _ABBREVIATION.search(name) is not None
    return SENTENCE_END.search(name) is None


def in_capitals(text: str) -> bool:
    """Whether a line, extensions apart, is short and in capitals."""
    if len(text) > LONGEST_CUE or text[:1].islower() or text[1:2].islower():
        return False
    name, _ = split_cue(text.removesuffix("^"))
    return name.upper() == name and any(letter.isupper() for letter in name) and len(name) <= 80


@dataclass(frozen=True)
class _Pair:
    """A line that could be a cue, and the first line of words after it.

    Attributes:
        column: where the words begin.
        step: how much further to the right the name begins.
        gap: empty lines directly behind the name.
        known: the name occurs more than once.
    """

    column: int
    step: int
    gap: int
    known: bool


class _Page:
    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        expanded = [_without_revision(text.expandtabs(8).rstrip()) for _, text in lines]
        self.texts = [text.strip() for text in expanded]
        self.indents = [len(text) - len(text.lstrip()) for text in expanded]
        self.is_heading = [bool(text) and screenplay_heading(text) is not None for text in self.texts]
        self.heading_of = screenplay_heading
        if not any(self.is_heading):  # a play
            self.heading_of = play_heading
            self.is_heading = [bool(text) and play_heading(text) is not None for text in self.texts]
        self.headings = sum(self.is_heading)
        numbered = [found["head"] if (found := _RUNNING_HEAD.match(text[:200])) else "" for text in self.texts]
        heads = {head for head, count in Counter(numbered).items() if head and count >= 4}
        self.gap = 1  # the most empty lines between a name and its words
        self.furniture = [
            bool(_CONTINUED.match(text) or _PAGE_DOT.match(text) or (head in heads and not heading))
            for text, head, heading in zip(self.texts, numbered, self.is_heading, strict=True)
        ]
        self.names = Counter(
            plain_name(split_cue(text)[0])
            for text, heading in zip(self.texts, self.is_heading, strict=True)
            if text and not heading and is_cue_like(text)
        )

    def _is_furniture(self, i: int, words: int | None = None) -> bool:
        """Whether a line belongs to the page: its number, a running head, CONTINUED; ``words``: the column of words."""
        if self.furniture[i]:
            return True
        return _PAGE.match(self.texts[i]) is not None and (words is None or abs(self.indents[i] - words) > 2)

    def _after(self, i: int) -> tuple[int, int]:
        """The next line that holds text of the script, and the empty lines before it; ``len(texts)`` if there is none."""
        j, gap, end = i + 1, 0, len(self.texts)
        while j < end and (not self.texts[j] or self._is_furniture(j)):
            gap += not self.texts[j]
            if not self.texts[j] and j - i > 12:
                return end, gap
            j += 1
        return j, gap

    def pairs(self) -> list[_Pair]:
        """All lines that could be cues and have words after them."""
        found = []
        for i, text in enumerate(self.texts):
            if not text or self.is_heading[i] or not is_cue_like(text) or text[0] == "(" or self._is_furniture(i):
                continue
            j, gap = self._after(i)
            for _ in range(3):  # parentheticals
                if j < len(self.texts) and self.texts[j].startswith("("):
                    j = next((k for k in range(j, min(j + 4, len(self.texts))) if ")" in self.texts[k]), j)
                    j, _ = self._after(j)
            if j < len(self.texts) and not self.is_heading[j] and self.texts[j] and not is_cue_like(self.texts[j]):
                known = self.names[self._plain(i)] > 1
                found.append(_Pair(self.indents[j], self.indents[i] - self.indents[j], gap, known))
        return found

    def by_columns(self, pairs: Sequence[_Pair]) -> Iterator[Line]:
        """The marked lines where columns tell names from words."""
        columns = Counter(pair.column for pair in pairs)
        first = min(column for column, count in columns.items() if count >= max(1, _RARE * len(pairs)))
        most = columns.most_common(1)[0][0]
        names = first + _STEP if most - first < _STEP else most
        known = {
            self._plain(i)
            for i, (text, indent) in enumerate(self._rows())
            if text and indent >= names and self._is_name(i, first)
        }
        outside = sum(bool(text) and indent < first - 1 and text.upper() != text for text, indent in self._rows())
        apart = outside >= _NEAR * len(pairs)  # action has a column of its own
        start = self.is_heading.index(True) if self.headings else -1  # before it, a title page may have lines like cues
        mark = _Marker(self)
        for i, text in enumerate(self.texts):
            indent = self.indents[i]
            if not text:
                mark.blank(i, ends=not apart)
            elif self._is_furniture(i, most):
                continue
            elif self.is_heading[i] and (mark.blanks or indent < first - 1 or not apart or not mark.speaking):
                mark.heading(i)
            elif indent >= names and self._is_name(i, first) and (i > start or self.names[self._plain(i)] > 1):
                mark.cue(i)
            elif mark.blanks and is_cue_like(text) and self._plain(i) in known and self._has_words(i, False):
                mark.cue(i)  # a page with columns of its own
                mark.off_column = True
            elif self._goes_on(mark, i, first, most):
                mark.words(i)
            else:
                mark.action(i)
        yield from mark.lines

    def _goes_on(self, mark: _Marker, i: int, first: int, most: int) -> bool:
        """Whether a line that is neither name nor heading belongs to the speech before it."""
        text, indent = self.texts[i], self.indents[i]
        if mark.off_column:
            return mark.speaking and not mark.blanks
        if indent < first - 1 or (mark.blanks and self._is_transition(text)):
            return False
        return mark.speaking or (mark.paused and indent > most + 1 and text[0] == "(")

    def _is_transition(self, text: str) -> bool:
        return text.upper() == text and (text.endswith("TO:") or SHOT.match(text) is not None)

    def _plain(self, i: int) -> str:
        return plain_name(split_cue(self.texts[i])[0])

    def _rows(self) -> Iterable[tuple[str, int]]:
        return zip(self.texts, self.indents, strict=True)

    def _is_name(self, i: int, first: int) -> bool:
        text = self.texts[i].removesuffix("^").rstrip(": ")
        name, _ = split_cue(text)
        letters = [letter for letter in name if letter.isalpha()]
        capital = sum(not letter.islower() for letter in letters) >= 0.7 * len(letters) if letters else False
        if (
            not capital
            or text[0] == "("
            or text.count(")") > text.count("(")
            or len(name.split()) > MOST_WORDS
            or SHOT.match(name)
            or self.is_heading[i]
        ):
            return False
        j, gap = self._after(i)
        return (
            j < len(self.texts)
            and gap <= self.gap
            and not self.is_heading[j]
            and (first - 1 <= self.indents[j] < self.indents[i] or self.texts[j][0] == "(")
        )

    def by_names(self, *, spaced: bool) -> Iterator[Line]:
        """The marked lines where nothing but the names tells: known ones, and short ones in capitals."""
        mark = _Marker(self)
        for i, text in enumerate(self.texts):
            if not text:
                mark.blank(i, ends=False)
                continue
            if self._is_furniture(i):
                continue
            name = self._plain(i)
            if self.is_heading[i] and text.upper() == text:
                mark.heading(i)
            elif is_cue_like(text) and (self.names[name] > 1 or len(name.split()) <= 2) and self._has_words(i, spaced):
                mark.cue(i)
            elif mark.speaking and (not spaced or mark.goes_on(text)):
                mark.words(i)
            else:
                mark.action(i)
        yield from mark.lines

    def _has_words(self, i: int, spaced: bool) -> bool:
        j, gap = self._after(i)
        return (
            j < len(self.texts)
            and gap == (self.gap if spaced else 0)
            and not self.is_heading[j]
            and not is_cue_like(self.texts[j])
        )

    def emptied(self) -> list[Line]:
        """The lines as they are; empty ones that hold spaces are emptied where most do."""
        empty = [text for _, text in self.lines if not text.strip()]
        if 2 * sum(len(text) > 1 for text in empty) <= len(empty):
            return list(self.lines)
        return [(number, text if text.strip() else "") for number, text in self.lines]


class _Marker:
    """Writes the marked lines of one page."""

    def __init__(self, page: _Page) -> None:
        self.page = page
        self.lines: list[Line] = []
        self.speaking = False  # the next line may belong to the speech
        self.paused = False  # an empty line ended the speech, but a parenthetical would take it up again
        self.off_column = False  # the speech stands in other columns than most: an empty line ends it
        self.blanks = 0
        self.spoken = ""  # the last line of the speech

    def blank(self, i: int, *, ends: bool) -> None:
        self.blanks += 1
        if not self.speaking:
            self.lines.append((self.page.lines[i][0], ""))
        elif self.spoken and (ends or self.off_column):
            self.speaking, self.paused = False, True

    def heading(self, i: int) -> None:
        heading = self.page.heading_of(self.page.texts[i])
        assert heading is not None
        label = f" #{heading.label}#" if heading.label else ""
        self._own(i, f".{heading.text}{label}")
        self.lines.append((self.page.lines[i][0], ""))

    def cue(self, i: int) -> None:
        self._own(i, "@" + self.page.texts[i].rstrip(": "))
        self.speaking, self.spoken = True, ""

    def words(self, i: int) -> None:
        if self.paused:
            while not self.lines[-1][1]:
                self.lines.pop()
        self.lines.append((self.page.lines[i][0], self.page.texts[i]))
        self.speaking, self.paused, self.blanks = True, False, 0
        self.spoken = self.page.texts[i]

    def goes_on(self, text: str) -> bool:
        """Whether a paragraph belongs to the speech before it, where an empty line stands between all lines."""
        if not self.blanks or not self.spoken or (self.spoken[0] == "(" and self.spoken[-1] == ")"):
            return True
        return text[0].islower() or self.spoken[-1].isalnum() or self.spoken[-1] == ","

    def action(self, i: int) -> None:
        text = self.page.texts[i]
        if self.speaking or self.paused:
            self.lines.append((self.page.lines[i][0], ""))
        if text.endswith("TO:") and text.upper() == text:
            self._own(i, f">{text}")
        else:
            self.lines.append((self.page.lines[i][0], f"!{text}"))
        self._rest()

    def _rest(self) -> None:
        self.speaking = self.paused = self.off_column = False
        self.blanks = 0

    def _own(self, i: int, text: str) -> None:
        """A line with an empty one before it."""
        number = self.page.lines[i][0]
        self.lines += [(number, ""), (number, text)]
        self._rest()


def _without_revision(text: str) -> str:
    """Without the stars that mark a changed line in its right margin."""
    bare = text.rstrip("*")
    return bare.rstrip() if len(bare) < len(text) and bare.endswith("  ") else text
