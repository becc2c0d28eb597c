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
from dpg_fast.data.scripts.headings import named_scene, play_heading
from dpg_fast.data.scripts.marked import FILLER, MARKED, mark_cues
from dpg_fast.data.scripts.names import plain_name, split_cue, word_set
from dpg_fast.data.scripts.play_cues import (
    COLON,
    DOT,
    MANNER,
    cue_styles,
    find_cue,
    is_regular,
    joins,
    loose_name,
    patterns_of,
    without_front_matter,
)
from dpg_fast.data.scripts.script import Direction, Part, Script, ScriptBuilder, Speech

_SCREENPLAY = re.compile(r"(?:INT|EXT|INT/EXT)[. ]")
_END = re.compile(
    r"[\[(_]*(?:THE END|(?:(?:DER|EL|LA|LE|IL) )?(?:CURTAIN|VORHANG|RIDEAU|TEL[ÓO]N|SIPARIO|ЗАНАВЕС)(?: \w+)?|FINIS|FIN|FINE|"
    r"ENDE|END OF (?:THE )?PLAY|幕|剧终)[\])_.。]*$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\s{0,12}\d{1,3}\s+(?=\S)")
_PLACE = re.compile(r"\[(?P<text>[^\W\d_a-z][^\[\].?!:]{1,50})\]$")
_NO_PLACE = word_set(
    "LAUGHTER LAUGHS LAUGHING APPLAUSE MUSIC SILENCE PAUSE CROSSTALK INAUDIBLE UNINTELLIGIBLE CHEERS CHEERING SIGHS COUGHS END "
    "EXIT EXEUNT ENTER ENTERS CURTAIN BLACKOUT NOTE BREAK HE SHE THEY ELLE ELLES"
)
_WIDE = str.maketrans("（）［］【】｛｝\u3000", "()[][]{} ")
_SECTION = re.compile(r"#{1,6}\s+(.+)")
_RULE = re.compile(r"(?:[*\-=_~#]\s*){3,}$")
_INSIDE = re.compile(r"\[([^\[\]]*)\]|\(([^()]*)\)")
_NEARLY_ALL = 0.8
_FEW = 6  # lines that say nothing about all
_GAP = 3  # empty lines that end any speech: what follows is another play's title page, or the publisher's list


def read_play(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: what no name stands before is a direction."""
    return _Reader(lines, name).read()


class _Reader:
    def __init__(self, lines: Sequence[str], name: str) -> None:
        lines = _without_numbers([line.translate(_WIDE) for line in without_licence(without_front_matter(lines))])
        marked = mark_cues(lines)
        styles = cue_styles(lines) if marked is None else Counter()
        self.patterns = [MARKED] if marked is not None else patterns_of(styles)
        self.lines = lines = lines if marked is None else marked
        if styles["quote"]:
            self.lines = lines = [line.rstrip().removesuffix("」") for line in lines]
        self.builder = ScriptBuilder(name, "play")
        self.alone = self.apart = self.only_alone = False
        self.known: frozenset[str] = frozenset()
        self.regular = self.patterns == [COLON] and is_regular(lines)
        cues = [(i, found) for i, line in enumerate(lines) if (found := self._cue(line.strip(), True, True))]
        alone = sum(not found.group("rest").strip() for _, found in cues)
        apart = sum(i == 0 or not lines[i - 1].strip() for i, _ in cues)
        self.known = frozenset(plain_name(found.group("name")) for _, found in cues)
        self.places = self._places()
        self.alone = marked is not None or 2 * alone > len(cues)  # most names stand alone on their lines
        self.only_alone = marked is None and alone > _NEARLY_ALL * len(cues)
        self.apart = apart > _NEARLY_ALL * len(cues)  # names have an empty line before them
        self.speech: Speech | None = None
        self.open = ""  # the bracket that a parenthetical over several lines began with
        self.unspoken = 0
        self.swallowed: list[tuple[int, str]] = []  # lines inside speeches that begin like a name
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
        if self.swallowed:
            number, first = self.swallowed[0]
            what = f"{len(self.swallowed)} lines inside speeches begin with a colon's name ({first!r}): taken as words"
            self.builder.problem(number, what)
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
        if heading := self._heading(text, blank_before):
            self.speech = None
            self.builder.open_scene(unstyled(heading), number)
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
        found = self._cue(text, blank_before, self.speech is not None or bool(self.builder.script.scenes))
        if found:
            self._open_speech(found, number)
            return
        if blank_before and text[0] == "[" and "]" not in text:
            self._unclosed(text, number)
            return
        whole = text[0] in "[(" and text[-1:] in "])" and not _INSIDE.sub("", text).strip()
        if blank_before and text[0] == ">" and self.patterns == [MARKED]:  # a quotation in Markdown: directions, notes
            self.builder.add(Direction("action", unstyled(text.lstrip("> ").strip("[]()")), number))
            return
        if self.speech is None or (whole and blank_before and self.speech.parts):
            self.builder.add(Direction("action", unstyled(text.strip("[]()") if whole else text), number))
            self.unspoken += not whole and text[0] not in "[("
            return
        if not blank_before and COLON in self.patterns and (loose := loose_name(text)):
            self.swallowed.append((number, loose["name"]))
        self._words(text, number)

    def _unclosed(self, text: str, number: int) -> None:
        """A paragraph that begins with a bracket is a direction, closed or not: older prints leave the closing one out."""
        end = number
        while end < len(self.lines) and self.lines[end].strip() and "]" not in self.lines[end - 1]:
            end += 1
        whole = " ".join(line.strip() for line in self.lines[number - 1 : end])
        inside, _, rest = whole.partition("]")
        self.skip = end
        if place := named_scene(inside[1:].strip()):
            self.speech = None
            self.builder.open_scene(unstyled(place.text), number)
            return
        self.builder.add(Direction("action", unstyled(inside[1:].strip("_ ")), number))
        if rest.strip() and self.speech is not None:
            self._words(rest.strip(), end)

    def _cue(self, text: str, blank_before: bool, later: bool) -> re.Match[str] | None:
        if self.apart and not blank_before:
            return None
        found = next((found for pattern in self.patterns if (found := find_cue(text, pattern, later=later))), None)
        if found is None and COLON in self.patterns and (loose := loose_name(text)):
            name = plain_name(loose["name"])
            if self.regular or joins(loose["name"], self.known) or (name in self.known and text[0] == "@"):
                found = loose
        if found is None and DOT in self.patterns and (manner := find_cue(text, MANNER, later=later)):
            found = manner if plain_name(manner["name"]) in self.known else None
        return None if found and self.only_alone and found.group("rest").strip() else found

    def _heading(self, text: str, blank_before: bool) -> str:
        """The heading that a line is; "" if it is none."""
        if text[0] in "[(":
            if place := named_scene(text.strip("[]() ")):
                return place.text
            return text[1:-1] if blank_before and text in self.places else ""
        if not blank_before or len(text) > 120:
            return ""
        if play_heading(text) or (_SCREENPLAY.match(text.strip("*")) and text.upper() == text):
            return text
        place = named_scene(text)
        return place.text if place else ""

    def _places(self) -> frozenset[str]:
        """Lines such as ``[Bridge]`` that stand alone, where other directions have other brackets or are sentences."""
        texts = ["", *(line.strip() for line in self.lines), ""]
        found = Counter(
            text
            for before, text, after in zip(texts, texts[1:], texts[2:], strict=False)
            if not before
            and not after
            and (place := _PLACE.match(text))
            and len(place["text"].split()) <= 5
            and not set(words := place["text"].upper().split()) & _NO_PLACE
            and not (
                set(words[:-1]) & self.known and "'" not in place["text"].replace("’", "'")
            )  # somebody does something
        )
        others = sum(text[:1] == "[" and text[-1:] == "]" for text in texts) - found.total()
        return frozenset(found) if found.total() >= 2 and others <= found.total() else frozenset()

    def _open_speech(self, found: re.Match[str], number: int) -> None:
        name, extensions = split_cue(found.group("name"))
        self.speech = Speech(name, extensions, [], number, plain_name(name))
        self.builder.add(self.speech)
        aside = found.group("aside").strip()
        if aside and aside[0] not in "([":
            self.speech.parts.append(Part("parenthetical", aside.strip("{}"), number))
        elif aside:
            self._words(aside, number)
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


def _without_numbers(lines: Sequence[str]) -> list[str]:
    """Without the numbers of lines that court reports have before nearly all."""
    filled = sum(bool(line.strip()) for line in lines)
    numbered = sum(_NUMBERED.match(line) is not None for line in lines)
    if filled < _FEW or numbered < _NEARLY_ALL * filled:
        return list(lines)
    return [_NUMBERED.sub("", line, count=1) for line in lines]
