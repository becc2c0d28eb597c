"""How plays and transcripts name a speaker before the words.

"colon" and "dot" are looked for in any text. The other styles need names that come back, in a good part of the text, for a line
alone does not tell them from prose:

- "gap": ``ANNA  Words``, two spaces or a tabulator;
- "dash": ``Anna - Words``, ``ANNA—Words``;
- "short": ``Ros. Words``, ``Q.  Words``;
- "quote": ``マルタ「...」``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dpg_fast.data.scripts.marked import MARKED, mark_cues
from dpg_fast.data.scripts.names import members, plain_name, word_set

_ASIDE = r"(?P<aside>(?:\s*(?:\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}))*)"
_SMALL = r"(?:of|the|and|de|du|des|la|le|van|von|der|den|zu|al|el|bin|in|with|a|an|to|y|&)"
_WORD = r"(?:[^\W\d_a-z][\w'’.\-]*|\#?\d{1,3})"
COLON = re.compile(
    rf"\*{{0,2}}_?(?P<name>{_WORD}(?:[ \t]+(?:{_WORD}|{_SMALL})){{0,5}}){_ASIDE}\s*_?\*{{0,2}}\s*[:：]\*{{0,2}}(?!//)"
    r"(?:[ \t]+|(?=\S)|$)(?P<rest>.*)"
)
_CAPITALS = r"[^\W\d_a-z][^\W_a-z'’.\-]*(?:['’\-][^\W_a-z]+)*"
_CAPITAL_NAME = rf"(?:(?:MRS?|MISS|MS|DR|ST|SIR|LADY|LORD)\.? +)?{_CAPITALS}(?: +(?:{_CAPITALS}|\d{{1,2}})){{0,3}}"
DOT = re.compile(rf"_?(?P<name>{_CAPITAL_NAME})_?{_ASIDE}\.(?:\s*[—–―]+\s*|-\s*|[ \t]+|$)(?P<rest>.*)")
MANNER = re.compile(  # "KARL, riant. Words"
    rf"(?P<name>{_CAPITAL_NAME}),\s+(?P<aside>[^\W\d_A-Z][^.:!?()\[\]]{{0,80}})\.(?:\s*[—–―]+\s*|-\s*|[ \t]+|$)(?P<rest>.*)"
)
LOOSE = re.compile(
    rf"@?(?P<name>[\"“'@]?[^\W\d_][^:：.!?()\[\]{{}}]{{0,39}}?){_ASIDE}\s*[:：](?!//)(?:\s+|$)(?P<rest>.*)"
)
_REPEATED = {
    "gap": re.compile(rf"(?P<name>{_CAPITAL_NAME})\.?{_ASIDE}(?:[ ]*\t\s*|[ ]{{2,}})(?P<rest>\S.*)"),
    "dash": re.compile(rf"(?P<name>{_WORD}(?: {_WORD}){{0,3}}){_ASIDE}(?:\s+[-–—]\s+|[–—])(?P<rest>\S.*)"),
    "short": re.compile(rf"(?P<name>[^\W\d_a-z][^\W\d_A-Z]{{1,6}}|Q|A){_ASIDE}\.(?:\s+)(?P<rest>\S.*)"),
    "quote": re.compile(r"(?P<name>[^\s「」『』:：。、()]{1,12})(?P<aside>\s*(?:\([^()]*\))?)\s*「(?P<rest>.*)"),
}
_LABELS = word_set(  # never a person
    "NOTE NOTES SCENE ACT SETTING ENTER EXIT EXEUNT EPISODE SEASON CREDITS DIRECTED TELEPLAY TRANSCRIBED TRANSCRIPT CUT FADE "
    "INT EXT HTTP HTTPS COPYRIGHT CONTENTS FROM TO RE OPENING CLOSING END CURTAIN SYNOPSIS"
)
_FIRST_LABELS = word_set(  # a person, once somebody has spoken
    "TITLE AUTHOR TIME PLACE CHARACTERS CAST SOURCE DATE PROLOGUE EPILOGUE STORY WARNING SUMMARY CHAPTER PART PAGE LOCATION "
    "SUBJECT"
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
    "DISSOLVE TO",
)
_ADDRESS = re.compile(r"(?:\[[^\[\]]*\]\()?<?(?:https?://|www\.)\S+$")  # "Slides: http://..."
_RULE = re.compile(r"-{3,}\s*$")
_ROMAN_DOT = re.compile(r"(?:[IVXLC]+|[A-Z])$")
_MOST_WORDS = 5  # of a name that is only known by its colon
_REGULAR = 0.9  # of the lines: then all have the form
_SHARE = 0.3  # of the lines or paragraphs that a style of repeated names must take


def cue_styles(lines: Sequence[str]) -> Counter[str]:
    """How often each way of naming a speaker seems to occur; "marked" stands alone, and the rarer ones do too."""
    lines = without_front_matter(lines)
    marked = mark_cues(lines)
    if marked is not None:
        return Counter(marked=sum(MARKED.match(line) is not None for line in marked))
    found: Counter[str] = Counter()
    for line in lines:
        text = line.strip()
        if find_cue(text, later=bool(found)):
            found["colon"] += 1
        elif find_cue(text, DOT, later=bool(found)):
            found["dot"] += 1
    return _repeated(lines, found.total()) or found


def without_front_matter(lines: Sequence[str]) -> list[str]:
    """YAML between two rules at the beginning, emptied; line numbers stay."""
    rules = [i for i, line in enumerate(lines[:200]) if _RULE.match(line)]
    end = rules[1] + 1 if len(rules) > 1 and rules[0] == 0 else 0
    return [""] * end + list(lines[end:])


def _repeated(lines: Sequence[str], others: int) -> Counter[str]:
    """The style of repeated names that takes more lines than the others, if any."""
    texts = [line.strip() for line in lines]
    filled = sum(bool(text) for text in texts)
    paragraphs = sum(bool(text) and (i == 0 or not texts[i - 1]) for i, text in enumerate(texts))
    best: Counter[str] = Counter()
    for style, pattern in _REPEATED.items():
        names = Counter(plain_name(found["name"]) for text in texts if (found := _match(pattern, text)))
        often = {name: count for name, count in names.items() if count > 1 and name not in _LABELS}
        least = 4
        if style == "quote":  # the mark itself tells it from prose
            often, least = names, 3
        count = sum(often.values())
        enough = max(least, 2 * others + 1, _SHARE * min(filled, 2 * paragraphs), best.total() + 1)
        if len(often) >= 2 and count >= enough:
            best = Counter({style: count})
    return best


def patterns_of(styles: Counter[str]) -> list[re.Pattern[str]]:
    """The patterns to read a text of these styles with, the most likely first."""
    for style, pattern in _REPEATED.items():
        if styles[style]:
            return [pattern, COLON]
    if styles["dot"] < max(3, styles["colon"]):
        return [COLON]
    return [DOT] if styles["dot"] > 4 * styles["colon"] else [DOT, COLON]


def find_cue(text: str, pattern: re.Pattern[str] = COLON, *, later: bool = False) -> re.Match[str] | None:
    """``Name: words`` at the beginning of a line; groups "name", "aside" and "rest".

    Args:
        later: somebody has spoken already, so that "Page" or "Time" may be a person.
    """
    found = _match(pattern, text)
    if found is None:
        return None
    name = plain_name(found["name"])
    words = name.split()
    if not words or len(name) > 40 or not any(letter.isalpha() for letter in name):
        return None
    first = words[0].strip(".")
    if first in _LABELS or name.startswith(_LABEL_PHRASES):
        return None
    if _ADDRESS.match(found["rest"]):
        return None
    if first in _FIRST_LABELS and (not later or _is_entry(found["rest"])):
        return None
    if found["name"][0].islower() and pattern not in (LOOSE, MARKED):
        return None
    if pattern in (DOT, MANNER):
        if any(letter.islower() and letter != "ß" for letter in found["name"]):  # not only ASCII has small letters
            return None
        if len(words) == 1 and _ROMAN_DOT.match(name):  # "I. The beginning"
            return None
    return found


def is_regular(lines: Sequence[str]) -> bool:
    """Whether nearly all lines, or the first ones of nearly all paragraphs, are ``name: words``, most names plain ones."""
    texts = [line.strip() for line in lines]
    first = [text for i, text in enumerate(texts) if text and (i == 0 or not texts[i - 1])]
    starts = first if 2 * len(first) > sum(map(bool, texts)) else [text for text in texts if text]
    plain = sum(find_cue(text, later=True) is not None for text in starts)
    loose = sum(loose_name(text) is not None or find_cue(text, later=True) is not None for text in starts)
    return len(starts) >= 4 and loose >= _REGULAR * len(starts) and 2 * plain >= len(starts)


def loose_name(text: str) -> re.Match[str] | None:
    """A line that begins with something short before a colon."""
    found = find_cue(text, LOOSE, later=True)
    return found if found and len(found["name"].split()) <= _MOST_WORDS else None


def joins(name: str, known: frozenset[str]) -> bool:
    """Whether a name joins names that are ``known``."""
    parts = [part for part in members(name) if part not in ("&C", "ETC", "C")]
    return len(members(name)) > 1 and bool(parts) and all(part in known for part in parts)


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return pattern.match(text) if len(text) < 100_000 else None


def _is_entry(rest: str) -> bool:
    """Whether what follows a label is a number, a date, an address or a credit rather than words."""
    return bool(re.match(r"\W*(?:\d|https?:|www\.|by\b)", rest, re.IGNORECASE))
