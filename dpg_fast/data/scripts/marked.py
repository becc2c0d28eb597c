"""Plays and transcripts whose names are marked by type: ``_Halla (smiling)._`` in italics, ``**Ann Lee:**`` in bold.

Marked names leave no doubt about where a speech begins, so it goes on past empty lines. Such names are set between NUL
characters, which no decoded text holds, and the reader of plays goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpg_fast.data.scripts.names import word_set

MARKED = re.compile("\0(?P<name>[^\0]+)\0(?P<aside>(?:\\s*\\([^()]*\\))?)\\s*(?P<rest>.*)")
FILLER = "\0"  # a line whose text was moved to the one before
_WORD = r"[^\W\d_a-z][^\W_]*(?:['’.\-][^\W_]+)*"
_NAME = rf"(?:M(?:rs?|iss|me)\.? )?{_WORD}(?: (?:{_WORD}|of|the|and|de|voice|\d{{1,2}})){{0,4}}"
_ITALIC = re.compile(
    rf"_(?P<name>{_NAME})(?:\._|_\.|(?:_\s*|\s+)\((?P<aside>[^()]*)\)(?:\._|_?\.|_|(?<=\._\))))(?:\s+|$)(?P<rest>.*)"
)
_BOLD = re.compile(
    r"\*\*(?P<name>[^\W\d_][^*:()\[\]]{0,39}?)\s*(?P<aside>\([^()]*\))?\s*(?::\s*\*\*|\*\*\s*:)(?:\s+|$)(?P<rest>.*)"
)
_ANY_COLON = re.compile(r"\*{0,2}[^\W\d_a-z][\w .'’\-]{0,39}(?:\([^()]*\)\s*)?:")
_DIRECTIONS = word_set(
    "CURTAIN EXIT EXEUNT ENTER PAUSE SILENCE DARKNESS MUSIC BLACKOUT LAUGHTER APPLAUSE TABLEAU END FINIS"
)
_LEAST = 3
_LONGEST_ASIDE = 5  # lines
_MOST = 0.8


def mark_cues(lines: Sequence[str]) -> list[str] | None:
    """As many lines with the names marked, directions in italics in brackets; None if the names are not set off by type."""
    italic = _mark_italic(lines)
    if italic is not None:
        return italic
    bold = [_BOLD.match(line.strip()) for line in lines]
    count = sum(found is not None for found in bold)
    if count < _LEAST or count < _MOST * sum(_ANY_COLON.match(line.strip()) is not None for line in lines):
        return None
    return [_unescaped(line if found is None else _marked(found)) for line, found in zip(lines, bold, strict=True)]


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
    aside = (found.group("aside") or "").strip("()_ ")
    text = f"\0{found.group('name').strip()}\0" + (f" ({aside})" if aside else "")
    return f"{text} {found.group('rest')}".rstrip() if with_rest else text


def _unescaped(line: str) -> str:
    """Markdown's ``\\\\[laughs\\\\]`` without the backslashes."""
    return re.sub(r"\\([\[\]])", r"\1", line)
