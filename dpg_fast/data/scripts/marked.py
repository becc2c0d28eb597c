"""Plays and transcripts whose names are marked by type: ``_Halla (smiling)._`` in italics, ``**Ann Lee:**`` in bold.

Marked names leave no doubt about where a speech begins, so it goes on past empty lines. Such names are set between NUL
characters, which no decoded text holds, and the reader of plays goes on from there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dpg_fast.data.scripts.fountain import unstyled
from dpg_fast.data.scripts.headings import play_heading, screenplay_heading
from dpg_fast.data.scripts.layout import SHOT
from dpg_fast.data.scripts.names import word_set

MARKED = re.compile("\0(?P<name>[^\0]+)\0(?P<aside>(?:\\s*\\([^()]*\\))?)\\s*(?P<rest>.*)")
FILLER = "\0"  # a line whose text was moved to the one before
_WORD = r"[^\W\d_a-z][^\W_]*(?:['’.\-][^\W_]+)*"
_NAME = rf"(?:M(?:rs?|iss|me)\.? )?{_WORD}(?: (?:{_WORD}|of|the|and|de|voice|\d{{1,2}})){{0,4}}"
_ITALIC = re.compile(
    rf"_(?P<name>{_NAME})(?:\._|_\.|(?:_\s*|\s+)\((?P<aside>[^()]*)\)(?:\._|_?\.|_|(?<=\._\))))(?:\s+|$)(?P<rest>.*)"
)
_ITEM = r"(?P<item>[-*+]\s+|\d{1,4}[.)]\s+)?"
_BOLD = re.compile(
    rf"{_ITEM}(?P<mark>\*\*|__)(?P<name>[^\W\d_][^*_:()\[\]]{{0,39}}?)\s*(?P<aside>\([^()]*\))?\s*"
    r"(?::\s*(?P=mark)|(?P=mark)\s*(?P<late>\([^()]*\))?\s*:)(?:\s+|$)(?P<rest>.*)"
)
_BOLD_CAPITALS = re.compile(  # **ROSA** alone, **ROSA.** words
    rf"{_ITEM}(?P<mark>\*\*|__)(?P<name>[^\W\d_a-z][^*_:()\[\]a-z]{{0,39}}?)\s*(?P<aside>\([^()]*\))?\s*"
    r"(?:\.\s*(?P=mark)(?:\s+|$)(?P<rest>.*)|(?P=mark)(?:\s*(?P<late>\([^()]*\)))?\s*$)"
)
_BOLD_LINE = re.compile(r"(\*\*|__)(?P<text>[^*_]+)\1$")
_STYLED_ASIDE = re.compile(r"(?<![*_])([*_]{1,3})(\([^()]*\)|\[[^\[\]]*\])\1")
_ANY_COLON = re.compile(r"\*{0,2}[^\W\d_a-z][\w .'’\-]{0,39}(?:\([^()]*\)\s*)?:")
_DIRECTIONS = word_set(
    "CURTAIN EXIT EXEUNT ENTER PAUSE SILENCE DARKNESS MUSIC BLACKOUT LAUGHTER APPLAUSE TABLEAU END FINIS FADE CUT"
)
_LEAST = 3
_LONGEST_ASIDE = 5  # lines
_MOST = 0.8


def mark_cues(lines: Sequence[str]) -> list[str] | None:
    """As many lines with the names marked, directions in italics in brackets; None if the names are not set off by type."""
    italic = _mark_italic(lines)
    if italic is not None:
        return italic
    found = [_bold_cue(line.strip()) for line in lines]
    names = Counter(cue["name"] for cue in found if cue)
    if 2 * sum(names[cue["name"]] == 1 for cue in found if cue and cue["item"]) > names.total():
        return None  # a list of terms
    count = sum(cue is not None for cue in found)
    colons = sum(
        cue is None and _ANY_COLON.match(line.strip()) is not None for cue, line in zip(found, lines, strict=True)
    )
    if count < _LEAST or count < _MOST * (count + colons):
        return None
    return [_plain(line) if cue is None else _marked(cue) for cue, line in zip(found, lines, strict=True)]


def _bold_cue(text: str) -> re.Match[str] | None:
    found = _BOLD.match(text) or _BOLD_CAPITALS.match(text)
    if found is None or found["name"].endswith((" TO", "!", "?", ",")) or SHOT.match(f"{found['name'].upper()} "):
        return None
    first = found["name"].split()[0].upper().rstrip(".")
    if (
        first in _DIRECTIONS
        or found["name"].upper().startswith("THE END")
        or screenplay_heading(found["name"])
        or play_heading(found["name"])
    ):
        return None
    return found


def _plain(line: str) -> str:
    """A line of Markdown without a name: a whole line in bold capitals is a heading or a direction."""
    bold = _BOLD_LINE.match(line.strip())
    if bold is None or bold["text"].upper() != bold["text"]:
        return _unescaped(line)
    text = unstyled(line.strip())
    return text if screenplay_heading(text) or play_heading(text) else f"[{text}]"


def _mark_italic(lines: Sequence[str]) -> list[str] | None:
    out = list(lines)
    count = start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
        paragraph = [line.strip() for line in lines[start:end]]
        found, used = _italic_cue(paragraph)
        whole = " ".join(paragraph)
        if found is not None:
            count += 1
            out[start] = _marked(found, with_rest=used == 1)
            if used > 1:
                out[start + 1 : start + used] = [FILLER] * (used - 1)
                out[start + used - 1] = found.group("rest") or FILLER
        elif paragraph[0][0] == "_" and whole[-1] == "_" and whole.count("_") == 2:
            out[start] = f"[{paragraph[0][1:]}"
            last = out[end - 1].rstrip()
            out[end - 1] = f"{last.removesuffix('_')}]"
        start = end
    colons = sum(_ANY_COLON.match(line.strip()) is not None for line in lines)
    return out if count >= _LEAST and count > colons else None


def _italic_cue(paragraph: Sequence[str]) -> tuple[re.Match[str] | None, int]:
    """The name that a paragraph begins with, and how many of its lines it takes with its aside."""
    if not paragraph[0].startswith("_"):
        return None, 0
    for used in range(1, min(len(paragraph), _LONGEST_ASIDE) + 1):
        found = _ITALIC.match(" ".join(paragraph[:used]))
        if found:
            first = found.group("name").split()[0].upper().rstrip(".")
            return (None, 0) if first in _DIRECTIONS else (found, used)
    return None, 0


def _marked(found: re.Match[str], with_rest: bool = True) -> str:
    groups = found.groupdict("")
    aside = (groups["aside"] or groups.get("late", "")).strip("()_* ")
    text = f"\0{groups['name'].strip()}\0" + (f" ({aside})" if aside else "")
    rest = _unescaped(groups["rest"]) if "mark" in groups else groups["rest"]
    return f"{text} {rest}".rstrip() if with_rest else text


def _unescaped(line: str) -> str:
    """Markdown's ``\\\\[laughs\\\\]`` without the backslashes, ``*(laughs)*`` without the stars."""
    return _STYLED_ASIDE.sub(r"\2", re.sub(r"\\([\[\]])", r"\1", line))
