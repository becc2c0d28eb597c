"""Screenplays in Fountain (fountain.io, syntax 1.1).

Where files in use leave the syntax, the reader is stricter or more lenient than it, and says so in the script's problems:

- a line in capitals that ends like a sentence, has more than six words or begins like a shot ("ANGLE ON") is not a cue,
  although text follows it directly; ``@`` forces a cue;
- a cue known from elsewhere begins a speech also without an empty line before it;
- a short remark in parentheses at the beginning of a line of dialogue is a parenthetical;
- an unclosed note or comment is text.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence

from dpg_fast.data.scripts.headings import Heading, screenplay_heading
from dpg_fast.data.scripts.layout import Line, in_capitals, is_cue_like, lay_out
from dpg_fast.data.scripts.names import plain_name, split_cue
from dpg_fast.data.scripts.script import Direction, DirectionKind, Part, Problem, Script, ScriptBuilder, Speech

_FORCED_HEADING = re.compile(r"\.(?=\w)")
_SCENE_NUMBER = re.compile(r"\s*#([\w.\- ]+)#\s*$")
_TIGHT_KEY = re.compile(r"([^\W\d_][\w .\-]{0,40}?):(?!//)(\S.*)$")  # "image:/x.jpg", on a title page that has begun
_TITLE_KEY = re.compile(r"([^\W\d_][\w .\-]{0,40}?)\s*:(?:\s+(.*)|\s*)$")
_OPENING = re.compile(r"\(([^()]{1,60})\)\s*(?=\S)")
_STARS = re.compile(r"(\*{1,3})(?=[^\s*])(.+?)(?<=[^\s*])\1")
_UNDERLINE = re.compile(r"(?<!\w)_(?=\S)(.+?)(?<=\S)_(?!\w)")
_OPEN_STAR = re.compile(r"\*{1,3}([^\s*][^*]*)$")
_CLOSING_STAR = re.compile(r"([^*]*[^\s*])\*{1,3}$")
_CUT = "\0"  # stands where a comment or note was; decoding leaves none in a text
_LONGEST_LINE = 5_000  # characters that may hold emphasis
_LONGEST_PARENTHETICAL = 4  # lines
_NEARLY_ALL = 0.9
_SOME = 4  # names; fewer say nothing about a file


def read_fountain(lines: Sequence[str], name: str) -> Script:
    """The script in ``lines``. Never fails: what is not Fountain is action."""
    return _Reader(lines, name).read()


def unstyled(text: str) -> str:
    """The text without the marks of emphasis, escapes resolved."""
    if len(text) > _LONGEST_LINE or not any(mark in text for mark in "*_\\"):
        return text
    text = re.sub(r"\\([*_\\])", lambda found: chr(0xE000 + "*_\\".index(found.group(1))), text)
    for pattern, group in ((_STARS, 2), (_STARS, 2), (_UNDERLINE, 1), (_STARS, 2)):
        text = pattern.sub(lambda found, group=group: found.group(group), text)  # type: ignore[misc]
    return re.sub("[\ue000-\ue002]", lambda found: "*_\\"[ord(found.group()) - 0xE000], text)


class _Reader:
    def __init__(self, lines: Sequence[str], name: str) -> None:
        self.builder = ScriptBuilder(name, "fountain")
        self.emphasised: Speech | None = None
        self.notes: deque[Line] = deque()
        self.lines = self._uncommented(lines)
        self.known: frozenset[str] = frozenset()
        self.marked = False  # the layout marks all cues and headings
        self.heading_of: Callable[[str], Heading | None] = screenplay_heading

    # --- comments and notes, which may stand anywhere ---

    def _uncommented(self, lines: Sequence[str]) -> list[Line]:
        """The numbered lines without comments and notes; lines that held nothing else are gone."""
        text = "\n".join(line.replace(_CUT, "") for line in lines)
        text = self._without(text, "/*", "*/", blank_ends=False)
        text = self._without(text, "[[", "]]", blank_ends=True)
        kept = []
        for number, line in enumerate(text.split("\n"), 1):
            if _CUT not in line or (line := line.replace(_CUT, "").rstrip()):
                kept.append((number, line))
        return kept

    def _without(self, text: str, opening: str, closing: str, *, blank_ends: bool) -> str:
        """``text`` with `_CUT` on each line of what stands between the marks, these included."""
        out = []
        position = counted = line = 0
        end = -1
        while (start := text.find(opening, position)) >= 0:
            line += text.count("\n", counted, start)
            counted = start
            end = end if end >= start + 2 else text.find(closing, start + 2)
            blank = text.find("\n\n", start, end) if blank_ends and end >= 0 else -1
            if end < 0 or blank >= 0:
                self.builder.problem(line + 1, f"{opening} is not closed: taken as text")
                if end < 0:
                    break
                out.append(text[position : start + 2])
                position = start + 2
                continue
            inside = text[start + 2 : end]
            if blank_ends and inside.strip():
                self.notes.append((line + 1, " ".join(inside.split())))
            out.append(text[position:start] + _CUT + ("\n" + _CUT) * inside.count("\n"))
            position = end + 2
        return "".join(out) + text[position:]

    # --- the elements ---

    def read(self) -> Script:
        layout = lay_out(self.lines[self._title_page() :])
        self.lines = lines = layout.lines
        self.marked = layout.kind != "plain"
        self.heading_of = layout.heading_of
        self.known = frozenset() if self.marked else self._known_cues()
        position = 0
        blank_before = True
        while position < len(lines):
            number, raw = lines[position]
            text = raw.strip()
            self._flush_notes(number)
            if not text:
                blank_before = True
                position += 1
                continue
            blank_after = position + 1 >= len(lines) or not lines[position + 1][1].strip()
            position, blank_before = self._element(position, number, text, blank_before, blank_after)
        self._flush_notes(None)
        script = self.builder.finish()
        if layout.expected >= _SOME and (count := sum(1 for _ in script.speeches())) < _NEARLY_ALL * layout.expected:
            what = f"{layout.expected} lines look like names above their words, but only {count} speeches were found"
            script.problems.insert(0, Problem(0, what))
        return script

    def _element(self, position: int, number: int, text: str, before: bool, after: bool) -> tuple[int, bool]:
        """Read one element; where the next begins, and whether it may be a heading or cue."""
        builder = self.builder
        if re.fullmatch("={3,}", text):
            builder.add(Direction("page break", "", number))
            return position + 1, True
        for mark, kind in (("#", "section"), ("=", "synopsis")):
            if text.startswith(mark):
                self._direct(kind, text.lstrip(mark).strip(), number)  # type: ignore[arg-type]
                return position + 1, True
        if text.startswith(">"):
            if text.endswith("<") and len(text) > 1:
                self._direct("centred", text[1:-1].strip(), number)
            else:
                self._direct("transition", text[1:].strip(), number)
            return position + 1, after
        if text.startswith("~"):
            self._direct("lyrics", text[1:].strip(), number)
            return position + 1, False
        if before and self._heading(text, number, after):
            return position + 1, True
        if before and text.endswith("TO:") and text.upper() == text and (after or not self._is_cue(text)):
            self._direct("transition", text, number)
            return position + 1, True
        if before and not after and self._starts_speech(text, number):
            return self._speech(position), True
        if before and after and plain_name(split_cue(text)[0]) in self.known and text.upper() == text:
            builder.problem(number, f"{text!r} stands alone: no dialogue follows it")
        self._direct("action", text.removeprefix("!"), number, continues=not before)
        return position + 1, False

    def _heading(self, text: str, number: int, blank_after: bool) -> bool:
        if _FORCED_HEADING.match(text):
            label = _SCENE_NUMBER.search(text)
            heading = Heading(text[1 : label.start()].rstrip(" -"), label[1]) if label else Heading(text[1:])
        else:
            found = self.heading_of(text) if blank_after or text.upper() == text else None
            if found is None:
                return False
            heading = found
        self.builder.open_scene(unstyled(" ".join(heading.text.split())), number, heading.label)
        return True

    def _starts_speech(self, text: str, number: int) -> bool:
        if text.startswith("@"):
            return bool(split_cue(text[1:].rstrip("^ "))[0])
        if self.marked or text.startswith("!") or not in_capitals(text):
            return False
        if self._is_cue(text):
            return True
        self.builder.problem(number, f"{text[:60]!r} does not look like a name: taken as action (@ forces a cue)")
        return False

    def _is_cue(self, text: str) -> bool:
        """Whether a line in capitals looks like a name."""
        name, _ = split_cue(text.removesuffix("^"))
        return plain_name(name) in self.known or is_cue_like(text)

    def _known_cues(self) -> frozenset[str]:
        """Plain names that stand as cues at least twice."""
        counts: Counter[str] = Counter()
        for i in range(len(self.lines) - 1):
            text = self.lines[i][1].strip()
            if text and (i == 0 or not self.lines[i - 1][1].strip()) and self.lines[i + 1][1].strip():
                if text.startswith("@"):
                    counts[plain_name(split_cue(text[1:].rstrip("^ "))[0])] += 1
                elif in_capitals(text) and not self.heading_of(text) and self._is_cue(text):
                    counts[plain_name(split_cue(text.removesuffix("^"))[0])] += 1
        return frozenset(name for name, count in counts.items() if count > 1 and name)

    def _speech(self, position: int) -> int:
        """Read the speech whose cue is at ``position``; where the next element begins."""
        number, raw = self.lines[position]
        text = raw.strip()
        dual = text.endswith("^")
        name, extensions = split_cue(text.rstrip("^ ").removeprefix("@"))
        speech = Speech(unstyled(name), extensions, [], number, plain_name(unstyled(name)), dual)
        previous = self.builder.last
        if dual and isinstance(previous, Speech):
            previous.dual = True
        elif dual:
            self.builder.problem(number, "dual dialogue (^) without a speech before it: taken as a speech of its own")
        self.builder.add(speech)
        position += 1
        while position < len(self.lines):
            number, raw = self.lines[position]
            text = raw.strip()
            if not text:
                if len(raw) < 2 or self._heading_follows(position):  # two spaces keep a speech together
                    break
                position += 1
                continue
            if speech.parts and self._unspaced_cue(position):
                self.builder.problem(number, f"{text!r} has no empty line before it: taken as a cue")
                break
            position += self._add_part(speech, position)
        return position

    def _heading_follows(self, position: int) -> bool:
        text = next((text.strip() for _, text in self.lines[position : position + 3] if text.strip()), "")
        return text.upper() == text and self.heading_of(text) is not None

    def _unspaced_cue(self, position: int) -> bool:
        text = self.lines[position][1].strip()
        follows = position + 1 < len(self.lines) and bool(self.lines[position + 1][1].strip())
        name, _ = split_cue(text)
        return follows and in_capitals(text) and plain_name(name) == name.upper() and plain_name(name) in self.known

    def _add_part(self, speech: Speech, position: int) -> int:
        """Add the line at ``position`` to the speech; how many lines that took."""
        number, raw = self.lines[position]
        text = raw.strip()
        if text.startswith("~"):
            speech.parts.append(Part("lyrics", unstyled(text[1:].strip()), number))
            return 1
        if text.startswith("("):
            inside = [text]
            for other in self.lines[position + 1 : position + _LONGEST_PARENTHETICAL]:
                if ")" in inside[-1] or not other[1].strip():
                    break
                inside.append(other[1].strip())
            joined = " ".join(inside)
            if joined.endswith(")") and _matching(joined) == len(joined) - 1:
                speech.parts.append(Part("parenthetical", unstyled(joined[1:-1].strip()), number))
                return len(inside)
            opening = _OPENING.match(text)
            if opening and opening.group(1)[0].islower():
                speech.parts.append(Part("parenthetical", unstyled(opening.group(1).strip()), number))
                text = text[opening.end() :]
                self.builder.problem(number, f"({opening.group(1)}) stands before words: taken as a parenthetical")
            elif ")" not in text:
                self.builder.problem(number, "a parenthesis is not closed: taken as dialogue")
        speech.parts.append(Part("words", self._closed(unstyled(text), speech), number))
        return 1

    def _closed(self, text: str, speech: Speech) -> str:
        """Without the one mark of an emphasis that runs over several lines, which the syntax does not know."""
        if found := _OPEN_STAR.match(text):
            self.emphasised = speech
            return found.group(1)
        if self.emphasised is speech and (found := _CLOSING_STAR.match(text)):
            self.emphasised = None
            return found.group(1)
        return text

    def _direct(self, kind: DirectionKind, text: str, number: int, continues: bool = False) -> None:
        text = unstyled(text)
        last = self.builder.last
        if continues and isinstance(last, Direction) and last.kind == kind == "action":
            elements = self.builder.elements
            elements[-1] = Direction(kind, f"{last.text}\n{text}", last.line)
        else:
            self.builder.add(Direction(kind, text, number))

    def _flush_notes(self, before: int | None) -> None:
        while self.notes and (before is None or self.notes[0][0] < before):
            number, text = self.notes.popleft()
            self.builder.add(Direction("note", text, number))

    def _title_page(self) -> int:
        """Read the title page, if there is one; where the text begins."""
        position = 0
        while position < len(self.lines) and not self.lines[position][1].strip():
            position += 1
        start = position
        pages: dict[str, str] = {}
        key = ""
        while position < len(self.lines) and self.lines[position][1].strip():
            raw = self.lines[position][1]
            found = _TITLE_KEY.match(raw) or (_TIGHT_KEY.match(raw) if key else None)
            found = found if raw[0] not in " \t" else None
            if found and not raw.rstrip().endswith("TO:") and not screenplay_heading(raw):
                key = found.group(1)
                pages[key] = (found.group(2) or "").strip()
            elif key and raw[0] in " \t":
                pages[key] = f"{pages[key]}\n{raw.strip()}".strip()
            else:
                return start
            position += 1
        if not any(pages.values()):  # "FADE IN:" alone
            return start
        self.builder.script.title_page = {name: unstyled(value) for name, value in pages.items()}
        return position


def _matching(text: str) -> int:
    """Where the parenthesis that opens ``text`` is closed; -1 if it is not."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return -1
