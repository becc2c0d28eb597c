"""Is a judge's quotation really in the text? A quotation that is not supports nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from dpg_fast.llm.fence import defuse

_SAME = str.maketrans({c: "'" for c in '‘’‚‛`´′"“”„‟«»‹›″'} | {c: "-" for c in "‐‑‒–—―−"})
_OMITTED = re.compile(r"\[\s*(?:\.{3}|…)\s*\]|\.{3,}|…")
_ALONE = 4  # letters of a script without spaces that count as a quotation


class QuotedText:
    """Texts in which quotations are looked up.

    Case, spacing, kinds of quotation marks and dashes, and punctuation at the ends do not matter; "..." stands for anything left
    out. A quotation needs two words (four letters in scripts without spaces), or must be one of the texts as a whole: a single
    "I" is found everywhere and shows nothing.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        self._texts = [_plain(text) for text in texts]
        shown = [defuse(text) for text in texts]  # as the judge saw it
        self._texts += [_plain(new) for new, text in zip(shown, texts, strict=True) if new != text]
        self._wholes = {_trimmed(text) for text in self._texts}

    def holds(self, quote: str) -> bool:
        """Whether the quotation is in one of the texts."""
        plain = _trimmed(_plain(quote))
        if plain in self._wholes:
            return bool(plain)
        parts = [_trimmed(_plain(part)) for part in _OMITTED.split(quote)]
        parts = [part for part in parts if part]
        if not parts or not _long_enough(" ".join(parts)):
            return False
        pattern = re.compile(".*?".join(map(_bounded, parts)), re.DOTALL)
        return any(pattern.search(text) for text in self._texts)


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", _OMITTED.sub(" … ", text)).casefold().translate(_SAME)
    if not folded.isascii():
        folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(folded.split())


def _trimmed(text: str) -> str:
    """Without what is neither letter nor digit at the ends."""
    kept = [i for i, c in enumerate(text) if c.isalnum()]
    return text[kept[0] : kept[-1] + 1] if kept else ""


def _long_enough(text: str) -> bool:
    return len(text.split()) >= 2 or sum(c.isalnum() and ord(c) > 0x2E7F for c in text) >= _ALONE


def _bounded(part: str) -> str:
    """A pattern of the part that does not begin or end inside a word of a script with spaces."""
    before = r"(?<![^\W_])" if ord(part[0]) <= 0x2E7F else ""
    after = r"(?![^\W_])" if ord(part[-1]) <= 0x2E7F else ""
    return before + re.escape(part) + after
