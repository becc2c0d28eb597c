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


_UNITS = (  # act, scene, picture
    "ACTE?|ACTO|ATTO|ATO|AKT|AUFZUG|BEDRIJF|JORNADA|ДЕЙСТВИЕ|АКТ|"
    "SCENE|SC[ÈE]NE|SCENA|SZENE|AUFTRITT|BILD|TABLEAU|ESCENA|CENA|CUADRO|QUADRO|TAFEREEL|TONEEL|SCEN|ЯВЛЕНИЕ|СЦЕНА|КАРТИНА"
)
_ORDINALS = (  # their beginnings, which inflection leaves alone
    "ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN|FIRST|SECOND|THIRD|FOURTH|FIFTH|LAST|"
    "ERST|ZWEIT|DRITT|VIERT|FÜNFT|SECHST|SIEB|ACHT|NEUNT|ZEHNT|LETZT|EINS|ZWEI|DREI|VIER|FÜNF|"
    "PREMI|DEUX|TROIS|QUATR|CINQ|SIXI|SEPTI|HUITI|NEUVI|DIXI|DERNI|UNIQUE|"
    "PRIM|SEGUND|SECOND|TER[CZ]|CUART|QUART|QUINT|SEXT|SEST|S[ÉE]PTIM|SETTIM|O[CT]TAV|NOVEN|NON|D[ÉE]CIM|[ÚU]LTIM|[ÚU]NIC|"
    "ПЕРВ|ВТОР|ТРЕТ|ЧЕТВ[ЕЁ]РТ|ПЯТ|ШЕСТ|СЕДЬМ|ВОСЬМ|ДЕВЯТ|ДЕСЯТ|ПОСЛЕДН|"
    "EERST|TWEED|DERD|VIERD|VIJFD|FÖRST|FØRST|ANDR|ANDEN|TREDJ|FJÄRD|FJERD|FEMT"
)
_NUMERAL = rf"(?:[IVXLC]+|\d{{1,3}}|(?:{_ORDINALS})[^\W\d_]{{0,5}})"
_UNIT_FIRST = re.compile(rf"(?:{_UNITS})\s+(?:THE\s+)?{_NUMERAL}(?=$|[\s.:,\-—–])", re.IGNORECASE)
_NUMERAL_FIRST = re.compile(
    rf"(?:(?:THE|DIE|DER|DAS|LA|LE|IL|EL)\s+)?{_NUMERAL}\.?\s+(?:{_UNITS})(?P<more>\b.*)", re.IGNORECASE
)
_CHINESE = re.compile(r"第[一二三四五六七八九十百\d]+[幕场場景回]")
_NAMED_SCENE = re.compile(
    r"(?:new\s+scene|scene|setting|location)\s*[:.]\s*(?P<text>\S.*)|(?P<bare>new\s+scene)$", re.IGNORECASE
)


def play_heading(text: str) -> Heading | None:
    """``ACT I``, ``Zweiter Auftritt``, ``ESCENA PRIMERA``, ``第一幕``; what follows on the line is part of it.

    A numeral that comes first must have nothing behind the unit but in capitals: "Second act; what of it?" is speech.
    """
    if len(text) > 120 or text[:1].islower():
        return None
    first = _NUMERAL_FIRST.match(text)
    if first and (text.upper() == text or not first["more"].strip(" .")):
        return Heading(text)
    if _UNIT_FIRST.match(text) or _CHINESE.match(text):
        return Heading(text)
    return None


def named_scene(text: str) -> Heading | None:
    """``Scene: The yard.``, ``New scene. The yard``, ``Setting: ...``: the place."""
    found = _NAMED_SCENE.match(text) if len(text) < 1000 else None
    return Heading(found["text"] or found["bare"]) if found else None
