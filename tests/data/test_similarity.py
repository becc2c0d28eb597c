from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.data.similarity import Duplicate, near_duplicates, near_vectors, ngrams


def by_comparing_all(texts: list[str], threshold: float, n: int, keep: int) -> list[int]:
    sets, kept, found = [ngrams(t, n) for t in texts], [], []
    for i, grams in enumerate(sets):
        close = [j for j in kept if grams | sets[j] and len(grams & sets[j]) / len(grams | sets[j]) >= threshold]
        if i >= keep and close:
            found.append(i)
        else:
            kept.append(i)
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=8).map(" ".join), max_size=12),
    st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 1.0]),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_index_finds_what_comparing_all_finds(texts: list[str], threshold: float, n: int, keep: int) -> None:
    found = near_duplicates(texts, threshold=threshold, n=n, keep=keep)
    assert [d.index for d in found] == by_comparing_all(texts, threshold, n, keep)
    assert all(d.of < d.index and d.similarity >= threshold for d in found)


def test_punctuation_and_case_do_not_matter() -> None:
    texts = ["What do you do, when it rains?", "WHAT do you do when it rains", "Something else entirely is asked here."]
    assert near_duplicates(texts, threshold=0.9) == [Duplicate(1, 0, 1.0)]


def test_vectors() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    assert [(d.index, d.of) for d in near_vectors(vectors, threshold=0.79)] == [(2, 1), (3, 0)]
    assert [(d.index, d.of) for d in near_vectors(vectors, threshold=0.79, keep=3)] == [(3, 0)]
    assert near_vectors(vectors[:3], threshold=0.9) == []
    rng = np.random.default_rng(0)
    many = rng.standard_normal((1200, 8)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    kept: list[int] = []
    for i in range(len(many)):
        if not kept or (many[kept] @ many[i]).max() < 0.8:
            kept.append(i)
    dropped = {d.index for d in near_vectors(many, threshold=0.8)}
    assert len(dropped) > 100 and dropped == set(range(len(many))) - set(kept)
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError):
            near_vectors(vectors, threshold=bad)
        with pytest.raises(ValueError):
            near_duplicates(["a"], threshold=bad)
