"""Stage plays and transcripts: ``NAME: words``, ``NAME. Words`` or a name alone on its line.

What is a speech:

- ``Name: words``, the name one to five words, each beginning with a capital (or "of", "the", "de", ...), not a label such as
  "Note" or "Setting";
- ``NAME. Words`` and ``NAME.`` alone, in capitals, where the file uses it at least as often as colons;
- ``Name [aside]: words`` and ``NAME (to Jack). Words``: what is in brackets is a parenthetical;
- ``_Name (aside)._`` and ``**Name:** words`` where the file marks its names in italics or in bold (see `marked`).

A speech goes on until an empty line, the next name or a heading; where the file sets names alone on their lines, or marks
them by type, also past one or two empty lines. Text that has no name before it is a direction. Brackets and parentheses inside a
speech are parentheticals: nobody says them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dpg_fast.data.scripts.encoding import without_licence
from dpg_fast.data.scripts.fountain import unstyled
from dpg_fast.data.scripts.marked import FILLER, MARKED, mark_cues
from dpg_fast.data.scripts.names import plain_name, split_cue, word_set
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech

_ASIDE = r"(?P<aside>(?:\s*(?:\([^()]*\)|\[[^\[\]]*\]))*)"
_SMALL = r"(?:of|the|and|de|du|des|la|le|van|von|der|den|zu|al|el|bin|in|with|a|an|to|y|&)"
_WORD = r"(?:[^\W\d_a-z][\w'’.\-]*|\#?\d{1,3})"
_COLON = re.compile(
    rf"\*{{0,2}}_?(?P<name>{_WORD}(?:[ \t]+(?:{_WORD}|{_SMALL})){{0,5}}){_ASIDE}\s*_?\*{{0,2}}\s*[:：]\*{{0,2}}(?!//)"
    r"(?:[ \t]+|(?=\S)|$)(?P<rest>.*)"
)
_CAPITALS = r"[^\W\d_a-z][^\W_a-z'’.\-]*(?:['’\-][^\W_a-z]+)*"
_DOT = re.compile(
    rf"_?(?P<name>(?:(?:MRS?|MISS|MS|DR|ST|SIR|LADY|LORD)\.? +)?{_CAPITALS}(?: +(?:{_CAPITALS}|\d{{1,2}})){{0,3}})_?"
    rf"{_ASIDE}\.(?:[ \t]+|$)(?P<rest>.*)"
)
_LABELS = word_set(
    "NOTE NOTES SCENE ACT TITLE AUTHOR SETTING TIME PLACE CHARACTERS CAST ENTER EXIT EXEUNT SOURCE EPISODE SEASON DATE CREDITS "
    "PROLOGUE EPILOGUE DIRECTED STORY TELEPLAY TRANSCRIBED TRANSCRIPT WARNING SUMMARY CHAPTER PART PAGE CUT FADE INT EXT "
    "HTTP HTTPS COPYRIGHT CONTENTS LOCATION SUBJECT FROM TO RE OPENING CLOSING END CURTAIN SYNOPSIS"
)
_LABEL_PHRASES = (
    "THE END",
    "WRITTEN BY",
    "DIRECTED BY",
    "STORY BY",
    "TRANSCRIBED BY",
    "PERSONS OF",
    "DRAMATIS",
    "TELEPLAY BY",
    "RELEASE DATE",
)
_COUNT = (
    r"(?:[IVXLC]+|\d+|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|THE (?:FIRST|SECOND|THIRD|FOURTH|FIFTH|LAST))"
)
_ORDINAL = r"(?:THE )?(?:FIRST|SECOND|THIRD|FOURTH|FIFTH|LAST) (?:ACT|SCENE)"
_HEADING = re.compile(rf"(?:ACT|SCENE)\s+{_COUNT}(?=$|[\s.:,\-—])|(?:INT|EXT|INT/EXT)[. ]|{_ORDINAL}\b", re.IGNORECASE)
_ORDINAL_ALONE = re.compile(rf"{_ORDINAL}\.?$", re.IGNORECASE)
_BRACKET_SCENE = re.compile(r"[\[(]\s*Scene\s*:?\s*(.+?)[\])]?\s*$", re.IGNORECASE)
_END = re.compile(r"[\[(_]*(?:THE END|CURTAIN|FINIS|END OF (?:THE )?PLAY)[\])_.]*$", re.IGNORECASE)
_SECTION = re.compile(r"#{1,6}\s+(.+)")
_RULE = re.compile(r"(?:[*\-=_~#]\s*){3,}$")
_INSIDE = re.compile(r"\[([^\[\]]*)\]|\(([^()]*)\)")
_NEARLY_ALL = 0.8
_GAP = 3  # empty lines that end any speech: what follows is another play's title page, or the publisher's list
_ROMAN_DOT = re.compile(r"(?:[IVXLC]+|[A-Z])$")


def cue_styles(lines: Sequence[str]) -> Counter[str]:
    """How often each way of naming a speaker seems to occur: "colon", "dot", "marked" (then none of the others)."""
    marked = mark_cues(lines)
    if marked is not None:
        return Counter(marked=sum(MARKED.match(line) is not None for line in marked))
    found: Counter[str] = Counter()
    for line in lines:
        text = line.strip()
        if _cue(_COLON, text):
            found["colon"] += 1
        elif _cue(_DOT, text):
            found["dot"] += 1
    return found


def read_play(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: what no name stands before is a direction."""
    return _Reader(lines, name).read()


class _Reader:
    def __init__(self, lines: Sequence[str], name: str) -> None:
        lines = without_licence(lines)
        marked = mark_cues(lines)
        self.lines = lines = lines if marked is None else marked
        self.builder = ScriptBuilder(name, "play")
        styles = cue_styles(lines) if marked is None else Counter()
        self.patterns = [_COLON] if marked is None else [MARKED]
        if styles["dot"] >= max(3, styles["colon"]):
            self.patterns = [_DOT] if styles["dot"] > 4 * styles["colon"] else [_DOT, _COLON]
        self.alone = self.apart = self.only_alone = False
        cues = [(i, found) for i, line in enumerate(lines) if (found := self._cue(line.strip(), True))]
        alone = sum(not found.group("rest").strip() for _, found in cues)
        apart = sum(i == 0 or not lines[i - 1].strip() for i, _ in cues)
        self.alone = marked is not None or 2 * alone > len(cues)  # most names stand alone on their lines
        self.only_alone = marked is None and alone > _NEARLY_ALL * len(cues)
        self.apart = apart > _NEARLY_ALL * len(cues)  # names have an empty line before them
        self.speech: Speech | None = None
        self.open = ""  # the bracket that a parenthetical over several lines began with
        self.unspoken = 0
        self.skip = 0  # lines up to this one have been read

    def read(self) -> Script:
        blank_before = True
        empty = 0
        for number, raw in enumerate(self.lines, 1):
            if number <= self.skip or raw == FILLER:
                continue
            text = raw.strip()
            empty = 0 if text else empty + 1
            if not text:
                self.open = ""
                if empty >= _GAP and self.speech and self.speech.parts:
                    self.speech = None
                if not (self.alone or (self.speech and not self.speech.parts)):
                    self.speech = None  # a name alone may stand off from its words
                blank_before = True
                continue
            self._line(text, number, blank_before)
            blank_before = False
        if self.unspoken:
            self.builder.problem(0, f"{self.unspoken} lines of text have no name before them: taken as directions")
        for speech in list(self.builder.script.speeches()) + [
            e for e in self.builder.elements if isinstance(e, Speech)
        ]:
            if not speech.words:
                self.builder.problem(speech.line, f"{speech.cue} says nothing")
        return self.builder.finish()

    def _line(self, text: str, number: int, blank_before: bool) -> None:
        if self.speech and self.open:
            self._words(text, number)
            return
        scene = _BRACKET_SCENE.match(text)
        if scene or self._is_heading(text, blank_before):
            self.speech = None
            self.builder.open_scene(unstyled(scene.group(1) if scene else text), number)
            return
        if _RULE.match(text):
            self.speech = None
            self.builder.open_scene("", number)
            return
        if blank_before and _END.match(text):
            self.speech = None
            self.builder.add(Direction("action", unstyled(text.strip("[]()")), number))
            return
        if self.patterns == [MARKED] and (section := _SECTION.match(text)):
            self.speech = None
            self.builder.open_scene(unstyled(section.group(1)), number)
            return
        found = self._cue(text, blank_before)
        if found:
            self._open_speech(found, number)
            return
        if blank_before and text[0] == "[" and "]" not in text:
            self._unclosed(text, number)
            return
        whole = text[0] in "[(" and text[-1:] in "])" and not _INSIDE.sub("", text).strip()
        if self.speech is None or (whole and blank_before and self.speech.parts):
            self.builder.add(Direction("action", unstyled(text.strip("[]()") if whole else text), number))
            self.unspoken += not whole and text[0] not in "[("
            return
        self._words(text, number)

    def _unclosed(self, text: str, number: int) -> None:
        """A paragraph that begins with a bracket is a direction, closed or not: older prints leave the closing one out."""
        end = number
        while end < len(self.lines) and self.lines[end].strip() and "]" not in self.lines[end - 1]:
            end += 1
        whole = " ".join(line.strip() for line in self.lines[number - 1 : end])
        inside, _, rest = whole.partition("]")
        self.builder.add(Direction("action", unstyled(inside[1:].strip("_ ")), number))
        self.skip = end
        if rest.strip() and self.speech is not None:
            self._words(rest.strip(), end)

    def _cue(self, text: str, blank_before: bool) -> re.Match[str] | None:
        if self.apart and not blank_before:
            return None
        found = next((found for pattern in self.patterns if (found := _cue(pattern, text))), None)
        return None if found and self.only_alone and found.group("rest").strip() else found

    def _is_heading(self, text: str, blank_before: bool) -> bool:
        if not blank_before or len(text) > 120:
            return False
        if _HEADING.match(text) is None:
            return False
        if text.upper() == text or _ORDINAL_ALONE.match(text):
            return True
        return text[0].isupper() and not re.match(_ORDINAL, text, re.IGNORECASE)  # "Second act; what of it?" is speech

    def _open_speech(self, found: re.Match[str], number: int) -> None:
        name, extensions = split_cue(found.group("name"))
        self.speech = Speech(name, extensions, [], number, plain_name(name))
        self.builder.add(self.speech)
        if found.group("aside").strip():
            self._words(found.group("aside"), number)
        if found.group("rest").strip():
            self._words(found.group("rest").strip(), number)

    def _words(self, text: str, number: int) -> None:
        """Add a line to the open speech, brackets apart."""
        assert self.speech is not None
        parts = self.speech.parts
        if self.open:
            closing = text.find("]" if self.open == "[" else ")")
            inside = text if closing < 0 else text[:closing]
            parts[-1] = Part(
                "parenthetical", f"{parts[-1].text} {unstyled(inside.strip())}".strip("_ "), parts[-1].line
            )
            if closing < 0:
                return
            self.open, text = "", text[closing + 1 :]
        position = 0
        for found in _INSIDE.finditer(text):
            self._spoken(text[position : found.start()], number)
            inside = found.group(1) if found.group(1) is not None else found.group(2)
            if inside.strip():
                parts.append(Part("parenthetical", unstyled(inside.strip().strip("_")), number))
            position = found.end()
        rest = text[position:]
        opening = min((i for i in (rest.find("["), rest.find("(")) if i >= 0), default=-1)
        if opening >= 0 and rest.startswith("[_", opening) and rest.endswith("_"):  # as old prints end a paragraph
            self._spoken(rest[:opening], number)
            parts.append(Part("parenthetical", unstyled(rest[opening + 1 :].strip("_")), number))
        elif opening >= 0 and (self._closes_italics(rest[opening:], number) or self._closes(rest[opening], number)):
            self._spoken(rest[:opening], number)
            self.open = rest[opening]
            parts.append(Part("parenthetical", unstyled(rest[opening + 1 :].strip()), number))
        else:
            self._spoken(rest, number)

    def _closes_italics(self, text: str, number: int) -> bool:
        """Whether a paragraph ends with the italics that ``[_`` began on this line, without a closing bracket."""
        if not text.startswith("[_") or "]" in text:
            return False
        for line in self.lines[number : number + 8]:
            if not line.strip() or "]" in line:
                return False
            if line.rstrip().endswith("_"):
                return True
        return False

    def _closes(self, bracket: str, number: int) -> bool:
        """Whether a bracket opened on this line is closed on one of the next eight, before an empty one."""
        closing = "]" if bracket == "[" else ")"
        for line in self.lines[number : number + 8]:
            if not line.strip():
                break
            if closing in line:
                return True
        self.builder.problem(number, f"{bracket} is not closed: taken as words")
        return False

    def _spoken(self, text: str, number: int) -> None:
        assert self.speech is not None
        text = unstyled(text.strip())
        if text.strip(" .,;:-_"):
            self.speech.parts.append(Part("words", text, number))


def find_cue(text: str) -> re.Match[str] | None:
    """``Name: words`` at the beginning of a line; groups "name", "aside" and "rest"."""
    return _cue(_COLON, text)


def _cue(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = pattern.match(text) if len(text) < 100_000 else None
    if found is None:
        return None
    name = plain_name(found.group("name"))
    words = name.split()
    if not words or len(name) > 40 or not any(letter.isalpha() for letter in name):
        return None
    if words[0].strip(".") in _LABELS or name.startswith(_LABEL_PHRASES):
        return None
    if pattern is _DOT and len(words) == 1 and _ROMAN_DOT.match(name):  # "I. The beginning"
        return None
    return found
