"""A witness that counts words: no model, no template, nothing that an adapter could have learnt to please.

The share p of an answer's words in a class is taken as arcsin(sqrt(p)), whose variance does not depend on how common the class
is. A trait's composite is the mean over the classes that speak for it minus the mean over those that speak against it. Classes,
composites and the studies that they follow: ``assets/lexical_witness.toml``. Short answers hold few such words, so single
scores mean little; groups of answers differ.

`valence` is how pleasant a text is (VADER, Hutto & Gilbert 2014), which evaluations take out of any witness's scores: most
poles differ in it, and a witness may see nothing else.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest
from dpg_fast.util.progress import Count

WIDTH = 0.2  # of a composite, for scores in -5..5; ranks do not depend on it
_FILE = "lexical_witness.toml"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class LexicalVerdict:
    """Composites of one answer as scores; none for an answer without words."""

    scores: dict[Trait, float]
    reason: str | None = None
    composites: dict[Trait, float] = field(default_factory=dict)


class LexicalJudge:
    """Scores answers by the words in them; the question is not read."""

    def judge(
        self, question: str, answers: Sequence[str], *, traits: Sequence[Trait] | None = None
    ) -> list[LexicalVerdict]:
        """One verdict for each answer."""
        return [self._verdict(answer, tuple(Trait) if traits is None else traits) for answer in answers]

    def judge_all(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[LexicalVerdict]:
        """One verdict for each (question, answer), in order."""
        found = self.judge("", [answer for _, answer in pairs], traits=traits)
        if progress is not None:
            progress(len(found), len(found))
        return found

    def describe(self) -> str:
        """What this judge is, with a digest of its word lists."""
        return (
            f"Lexical judge ({digest(_table(), 8)}): shares of words in classes that studies of people's language found with the "
            "traits, combined as written down beforehand. It knows nothing of the model, of sentences or of negation; use it for "
            "groups of answers."
        )

    def _verdict(self, answer: str, traits: Sequence[Trait]) -> LexicalVerdict:
        words = [word.lower().replace("’", "'") for word in _WORD.findall(answer)]
        if not words:
            return LexicalVerdict({}, "the answer has no words")
        shares = {name: _share(words, pattern) for name, pattern in _classes().items()}
        found = {}
        for trait in traits:
            sides = _table()["composites"][trait.value]
            plus, minus = ([shares[name] for name in sides[side]] for side in ("plus", "minus"))
            found[trait] = sum(plus) / len(plus) - sum(minus) / len(minus)
        scores = {trait: MAX_SCORE * math.tanh(value / WIDTH) for trait, value in found.items()}
        return LexicalVerdict(scores, composites=found)


def valence(text: str) -> float:
    """VADER's compound score, from -1 (unpleasant) to 1.

    Raises:
        ImportError: vaderSentiment is missing; see `has_valence`.
    """
    return float(_analyser().polarity_scores(text)["compound"])


def has_valence() -> bool:
    """Whether `valence` can be had."""
    try:
        _analyser()
    except ImportError:
        return False
    return True


@cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ImportError("valence needs vaderSentiment: pip install 'dpg-fast[lexical]'") from None
    return SentimentIntensityAnalyzer()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("dpg_fast").joinpath("assets", _FILE).read_text(encoding="utf-8"))


@cache
def _classes() -> dict[str, re.Pattern[str]]:
    return {name: word_class(text) for name, text in _table()["classes"].items()}


def word_class(text: str) -> re.Pattern[str]:
    """A pattern for the words of a list with spaces; "worr*" stands for every word with that beginning.

    Raises:
        ValueError: an empty list.
    """
    if not text.split():
        raise DPGError("a class of words needs at least one word")
    return re.compile(
        "|".join(re.escape(word[:-1]) + r".*" if word.endswith("*") else re.escape(word) for word in text.split())
    )


def _share(words: Sequence[str], pattern: re.Pattern[str]) -> float:
    """arcsin(sqrt(share of words in the class))."""
    return math.asin(math.sqrt(sum(pattern.fullmatch(word) is not None for word in words) / len(words)))
