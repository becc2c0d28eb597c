"""Near-duplicates among short texts: shared word n-grams, exactly, and embeddings."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpg_fast.util.errors import DPGError

Vectors = Any  # np.ndarray or a SciPy sparse matrix, [N, D]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_BLOCK = 512


@dataclass(frozen=True)
class Duplicate:
    """Text `index` resembles the earlier, kept text `of` this much (0 to 1)."""

    index: int
    of: int
    similarity: float


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def ngrams(text: str, n: int = 3) -> frozenset[tuple[str, ...]]:
    """The text's word n-grams; all its words as one if it has fewer than ``n``."""
    found = words(text)
    if len(found) < n:
        return frozenset([tuple(found)]) if found else frozenset()
    return frozenset(tuple(found[i : i + n]) for i in range(len(found) - n + 1))


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.5, n: int = 3, keep: int = 0) -> list[Duplicate]:
    """The texts whose n-gram Jaccard similarity to an earlier kept one is at least ``threshold``.

    Exact, not estimated: an inverted index over the rarest n-grams of each text finds every candidate (prefix filtering,
    Bayardo et al. 2007). The first ``keep`` texts are kept whatever they resemble.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise DPGError(f"the threshold must lie above 0 and not above 1, not {threshold}")
    sets = [ngrams(text, n) for text in texts]
    frequency = Counter(gram for grams in sets for gram in grams)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    same: dict[frozenset[tuple[str, ...]], int] = {}  # texts repeated word for word need no search
    found = []
    for i, grams in enumerate(sets):
        if i >= keep and grams in same:
            found.append(Duplicate(i, same[grams], 1.0))
            continue
        # Sets this similar share an n-gram among the rarest |x| - ceil(t |x|) + 1 of both.
        length = len(grams) - math.ceil(threshold * len(grams) - 1e-9) + 1 if grams else 0
        prefix = sorted(grams, key=lambda gram: (frequency[gram], gram))[:length]
        best: Duplicate | None = None
        for j in sorted({j for gram in prefix for j in index[gram]}) if i >= keep else ():
            shorter, longer = sorted((len(grams), len(sets[j])))
            if shorter < threshold * longer - 1e-9:  # they cannot share enough
                continue
            similarity = len(grams & sets[j]) / len(grams | sets[j])
            if similarity >= threshold and (best is None or similarity > best.similarity):
                best = Duplicate(i, j, similarity)
        if best is not None:
            found.append(best)
            continue
        if grams:
            same.setdefault(grams, i)
        for gram in prefix:
            index[gram].append(i)
    return found


def products(left: Vectors, right: Vectors) -> np.ndarray:
    """Dot products of the rows: [N, D] and [M, D] give [N, M], dense."""
    found = left @ right.T
    return np.asarray(found if isinstance(found, np.ndarray) else found.toarray())


def near_vectors(vectors: Vectors, *, threshold: float, keep: int = 0) -> list[Duplicate]:
    """The rows whose cosine with an earlier kept row is at least ``threshold``.

    Args:
        vectors: [N, D], rows of length 1, dense or sparse.
        threshold: in (0, 1].
        keep: the first ones, kept whatever they resemble.
    """
    if not 0 < threshold <= 1:
        raise DPGError(f"the threshold must lie above 0 and not above 1, not {threshold}")
    rows = vectors.shape[0]
    kept = np.zeros(rows, dtype=bool)
    found = []
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        similarity = products(vectors[start:stop], vectors[:stop])
        for row in range(stop - start):
            i = start + row
            values = np.where(kept[:i], similarity[row, :i], -np.inf)
            j = int(values.argmax()) if i else 0
            if i >= keep and i and values[j] >= threshold:
                found.append(Duplicate(i, j, float(values[j])))
            else:
                kept[i] = True
    return found
