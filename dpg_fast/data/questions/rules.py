"""Rules that a generated question or description must pass. Every rejection has a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from dpg_fast.data.similarity import words
from dpg_fast.personality.scores import Trait
from dpg_fast.text.facets import FACETS, TEST_STEMS, TRAIT_STEMS
from dpg_fast.util.errors import DPGError

_ASKS = re.compile(r"\b(?:describe|tell|explain|share|talk about|walk (?:me|us) through)\b", re.IGNORECASE)
_YOU = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"\b(?:when|while|if|after|before|during|once|imagine|suppose|picture)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rejection:
    """Why a text is dropped: a rule's name, and what it found."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """Accepted lengths in words, ends included."""

    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise DPGError(f"lengths must satisfy 1 <= shortest <= longest, not {self.shortest}, {self.longest}")

    def check(self, text: str) -> Rejection | None:
        """A rejection if the text is too short or too long."""
        count = len(words(text))
        if count < self.shortest:
            return Rejection("too short", f"{count} words")
        return Rejection("too long", f"{count} words") if count > self.longest else None


QUESTION_LIMITS = Limits(10, 70)
DESCRIPTION_LIMITS = Limits(20, 120)


def check_question(text: str, trait: Trait, limits: Limits = QUESTION_LIMITS) -> Rejection | None:
    """Why ``text`` is not a good situational question about ``trait``; None if it is.

    Rules: it asks, speaks to "you", puts you into a situation, is of moderate length, and names neither a trait, the idea of
    a personality test, nor a facet of the trait. What counts as a situation is judged by its words, which is crude.
    """
    return _first(
        lambda: None if re.search("[?\uff1f]", text) or _ASKS.search(text) else Rejection("not a question"),
        lambda: None if _YOU.search(text) else Rejection("not second person"),
        lambda: limits.check(text),
        lambda: None if _is_situation(text) else Rejection("no situation"),
        lambda: _named("names a trait", text, _names()),
        lambda: _named("names a facet", text, [stem for facet in FACETS[trait] for stem in facet.stems]),
    )


def check_description(text: str, limits: Limits = DESCRIPTION_LIMITS) -> Rejection | None:
    """Why ``text`` is not a good second-person description of a person; None if it is. Facets may be named here."""
    return _first(
        lambda: None if _YOU.search(text) else Rejection("not second person"),
        lambda: Rejection("a question") if "?" in text else None,
        lambda: limits.check(text),
        lambda: _named("names a trait", text, _names()),
    )


def _is_situation(text: str) -> bool:
    """Something is said before the question: an earlier sentence or clause, or a subordinate one after it."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
    if len(sentences) > 1 and len(words(sentences[0])) >= 4:
        return True
    return _CLAUSE.search(text) is not None


def _first(*rules: Callable[[], Rejection | None]) -> Rejection | None:
    return next((found for rule in rules if (found := rule()) is not None), None)


@cache
def _names() -> tuple[str, ...]:
    return (*(stem for stems in TRAIT_STEMS.values() for stem in stems), *TEST_STEMS)


def _named(reason: str, text: str, stems: Iterable[str]) -> Rejection | None:
    plain = text.lower().replace("\u2019", "'")
    for stem in stems:
        found = re.search(r"\b" + stem.replace("-", "[- ]?") + r"\w*", plain)
        if found:
            return Rejection(reason, found.group())
    return None
