"""Rules that a user turn and an answer must pass. They are this project's own, but for the 0.95 of near-duplicates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from dpg_fast.data.questions.rules import Limits, Rejection
from dpg_fast.data.similarity import ngrams
from dpg_fast.personified.data.prompts import GoldenAnswer, instructions
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.record import ANALYSIS, RESPONSE, ItemKind, join_reply, split_reply
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

QUESTION_LIMITS = Limits(3, 120)
RESPONSE_LIMITS = Limits(2, 250)
ANALYSIS_LIMITS = Limits(5, 250)
_LANGUAGE_WORDS = 10  # below, a guess of the language is too often wrong
_COPIED_RUN, _COPIED = 5, 0.7  # words in a row, and the share of such runs that a text may have from its source
_RUN = 8  # words in a row shared with the prompt
_LEAKS = re.compile(
    r"\bas an ai\b|\b(?:large )?language model\b|\bsystem prompt\b|\bchat ?bot\b|\bmy (?:prompt|training data)\b"
    r"|\b(?:the|my|these|provided) (?:materials?|samples?)\b(?= (?:say|state|show|mention|do not|don't|are|contain|provided))"
    r"|\baccording to (?:the|my) (?:materials?|samples?|text|passage|excerpt)\b|\brole-?play|\bstay(?:ing)? in character\b"
    r"|\bimitat(?:e|ing) the style|</?[a-z_]+-[0-9a-f]{16}>|<\|",
    re.IGNORECASE,
)
_SOURCE_TALK = re.compile(
    r"\b(?:the|this|that) (?:text|paragraph|excerpt)\b|\bdoes (?:the|this) passage\b"
    r"|\b(?:the|this) passage (?:says|mentions|states)\b|\baccording to the (?:text|material)|</?[a-z_]+-[0-9a-f]{16}>",
    re.IGNORECASE,
)


class Checks:
    """The rules for one character.

    Args:
        name: the character's.
        language: two-letter code.
        guidance: what the user added to the prompts, which answers must not repeat either.

    Raises:
        ValueError: the language is not among those that can be recognised.
        ImportError: py3langid is missing.
    """

    def __init__(self, name: str, language: str, guidance: str = "") -> None:
        self.language = language
        self._secret = frozenset(
            gram
            for line in (*instructions(name).split("\n"), guidance)
            for gram in ngrams(line, _RUN)
            if len(gram) == _RUN
        )
        self._languages = _identifier()
        if language not in self._languages.labels:
            known = ", ".join(sorted(self._languages.labels))
            raise DPGError(f"language {language!r} cannot be recognised; known: {known}")

    def question(self, text: str, source: str = "") -> Rejection | None:
        """Why ``text``, written from the paragraph ``source``, cannot be a user turn."""
        if ANALYSIS.lower() in text.lower() or RESPONSE.lower() in text.lower():
            return Rejection("marker in the user turn")
        found = _SOURCE_TALK.search(text) or _LEAKS.search(text)
        if found:
            return Rejection("speaks of its source", found.group())
        return _length(text, QUESTION_LIMITS) or _copied(text, [source]) or self._other_language(text)

    def answer(
        self, answer: GoldenAnswer, kind: ItemKind, own_question: bool = True, materials: Sequence[str] = ()
    ) -> Rejection | None:
        """Why ``answer`` is refused.

        Args:
            answer: as the model gave it.
            kind: of user turn.
            own_question: whether the question was written for this stage; only such a one must be answerable.
            materials: what the answer was written from, and must not merely copy.
        """
        try:
            split_reply(join_reply(answer.analysis, answer.response))
        except ValueError:
            return Rejection("marker missing or repeated")
        if not answer.analysis.strip() or not answer.response.strip():
            return Rejection("marker missing or repeated", "an empty part")
        for text, limits in ((answer.analysis, ANALYSIS_LIMITS), (answer.response, RESPONSE_LIMITS)):
            rejection = self._leak(text) or _length(text, limits)
            if rejection is not None:
                return rejection
        rejection = _copied(answer.response, materials) or self._other_language(answer.response)
        if rejection is not None or not own_question or kind == "general":
            return rejection
        if kind == "error" and answer.stance not in ("corrects", "disagrees", "does not know"):
            return Rejection("premise not corrected", answer.stance)
        if kind == "ordinary" and not answer.answerable:
            return Rejection("not answerable")
        return None

    def fault(self, answer: GoldenAnswer) -> str | None:
        """What a repair should change, in words for the model; depends on the answer alone."""
        rejection = self.answer(answer, "general")
        if rejection is None:
            return None
        detail = f": {rejection.detail}" if rejection.detail else ""
        return f"That answer cannot be used ({rejection.reason}{detail}). Correct it."

    def _leak(self, text: str) -> Rejection | None:
        found = _LEAKS.search(text)
        if found:
            return Rejection("speaks of its instructions", found.group())
        shared = ngrams(text, _RUN) & self._secret
        return Rejection("repeats its instructions", " ".join(min(shared))) if shared else None

    def _other_language(self, text: str) -> Rejection | None:
        if count_words(text) < _LANGUAGE_WORDS:
            return None
        ranked: Sequence[tuple[str, float]] = self._languages.rank(text)
        probable = dict(ranked)
        best = ranked[0][0]
        if best != self.language and probable[best] > 0.95 and probable[self.language] < 0.01:
            return Rejection("another language", best)
        return None


def _copied(text: str, sources: Sequence[str]) -> Rejection | None:
    grams = ngrams(text, _COPIED_RUN)
    if min(map(len, grams), default=0) < _COPIED_RUN:
        return None
    share = len(grams & {gram for source in sources for gram in ngrams(source, _COPIED_RUN)}) / len(grams)
    return Rejection("copies its source", f"{share:.0%}") if share > _COPIED else None


def _length(text: str, limits: Limits) -> Rejection | None:
    count = count_words(text)
    if count < limits.shortest:
        return Rejection("too short", counted(count, "word"))
    return Rejection("too long", counted(count, "word")) if count > limits.longest else None


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ImportError("checking the language needs py3langid: pip install 'dpg-fast[data]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
