"""Headings: where a scene of a screenplay or of a play begins."""

from __future__ import annotations

import re
from typing import NamedTuple


class Heading(NamedTuple):
    """A scene's heading.

    Attributes:
        text: without the scene's number.
        label: the number ("12A"), if there is one.
    """

    text: str
    label: str | None = None


_PLACE = r"(?:INT|EXT|EST|INT\.?\s?/\s?EXT|EXT\.?\s?/\s?INT|I/E|I\./E\.?|(?-i:INTERIOR|EXTERIOR))"
_NUMBER = r"(?:[A-Z]{0,2}\d{1,4}[A-Z]{0,3}(?:[.\-]\d{1,3}[A-Z]?)?)"
_SCREENPLAY = re.compile(
    rf"(?:(?P<number>{_NUMBER})[.):]?\s*(?=[^\w\s]*(?:INT|EXT|I/E|I\./E)))?(?P<text>{_PLACE}[. :\-].*)", re.IGNORECASE
)
_BOTH_SIDES = re.compile(rf"(?P<number>{_NUMBER})[.)]?\s+(?P<text>\S.*?)\s+(?P=number)[.)]?[\s*]*$")
_TRAILING = re.compile(rf"(?:\s{{2,}}|\s(?=[A-Z]*\d+[A-Z]?[.)]?[\s*]*$)){_NUMBER}[.)]?[\s*]*$")
_FOUNTAIN_NUMBER = re.compile(r"\s*#([\w.\- ]+)#\s*$")
_NO_SCENE = re.compile(r"\(?(?:CONTINUED|CONT'?D?|OMIT(?:TED)?|SCENES? (?:OMITTED|DELETED))\b", re.IGNORECASE)


def screenplay_heading(text: str) -> Heading | None:
    """``INT. KITCHEN - DAY``, with or without the scene's number before it, behind it (``#12#`` too) or on both sides.

    A line in capitals between two equal numbers is one whatever it says ("1  OLD HARBOUR - EVENING  1").
    """
    if len(text) > 300:
        return None
    both = _BOTH_SIDES.match(text)
    if both and both["text"].upper() == both["text"] and any(letter.isalpha() for letter in both["text"]):
        return None if _NO_SCENE.match(both["text"]) else Heading(" ".join(both["text"].split()), both["number"])
    found = _SCREENPLAY.match(text)
    if found is None:
        return None
    heading, label = found["text"].rstrip("* "), found["number"]
    if hashed := _FOUNTAIN_NUMBER.search(heading):
        heading, label = heading[: hashed.start()].rstrip(" -"), hashed[1]
    elif label and (trailing := _TRAILING.search(heading)) and label in trailing.group():
        heading = heading[: trailing.start()]
    return Heading(" ".join(heading.split()), label)
