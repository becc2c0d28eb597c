"""The papers' figures on cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.judges.validation.metrics import (
    accuracy,
    compare_prompted,
    nearest_level,
    rank_systems,
)
from dpg_fast.personality.scores import Trait


def test_prompted_against_assessed_by_hand() -> None:
    prompted = np.zeros((4, 5))
    prompted[:, 2] = [-5, -2, 2, 5]
    assessed = np.full((4, 5), 0.4)
    assessed[:, 2] = [-5, -0.6, 3.4, 2]
    assessed[3, 0] = math.nan
    found = compare_prompted(prompted, assessed)
    e = found.traits[Trait.EXTRAVERSION]
    assert e.mae == pytest.approx((0 + 1.4 + 1.4 + 3) / 4)
    assert (e.exact, e.within_one, e.n) == (0.25, 0.75, 4)  # -5; -0.6 counts as -1, 3.4 as 3
    assert e.pearson == pytest.approx(np.corrcoef(prompted[:, 2], assessed[:, 2])[0, 1])
    assert e.spearman == pytest.approx(0.8)
    counts = found.confusion[Trait.EXTRAVERSION]
    assert counts.shape == (11, 11) and counts.sum() == 4
    assert [counts[0, 0], counts[3, 4], counts[7, 8], counts[10, 7]] == [1, 1, 1, 1]
    o = found.traits[Trait.OPENNESS]
    assert o.n == 3 and o.exact == 1 and math.isnan(o.pearson)
    assert found.mean.pearson == e.pearson  # the only trait that has one
    assert found.mean.mae == pytest.approx((e.mae + 4 * 0.4) / 5)
    assert found.to_dict()["traits"]["openness"]["pearson"] is None
    with pytest.raises(ValueError, match=r"\[people, 5\]"):
        compare_prompted(prompted[:, :4], assessed[:, :4])
    with pytest.raises(ValueError, match=r"-5..5"):
        compare_prompted(prompted, assessed + 6)


@given(st.lists(st.lists(st.integers(-5, 5), min_size=5, max_size=5), min_size=2, max_size=8))
def test_a_faithful_model_is_exact(rows: list[list[int]]) -> None:
    found = compare_prompted(rows, rows)
    for trait, fidelity in found.traits.items():
        assert (fidelity.mae, fidelity.exact, fidelity.within_one) == (0, 1, 1)
        assert math.isnan(fidelity.pearson) or fidelity.pearson == pytest.approx(1)
        counts = found.confusion[trait]
        assert counts.sum() == np.trace(counts) == len(rows)


def test_levels_round_halves_away_from_zero() -> None:
    assert nearest_level([-0.5, 0.5, 2.49, -4.5, 5]).tolist() == [-1, 1, 2, -5, 5]


def test_accuracy_weighs_kinds_by_their_items() -> None:
    found = accuracy([("Knowledge", 5), ("knowledge", 4), ("Attitude", 0), ("Neither", 5)])
    assert found.by_kind == {"knowledge": 4.5, "attitude": 0} and found.counts == {"knowledge": 2, "attitude": 1}
    assert found.weighted == 3 and found.share == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"ratings in 0..5"):
        accuracy([("Knowledge", 6)])
    with pytest.raises(ValueError, match="at least one"):
        accuracy([("Neither", 3)])


def test_rankings_with_ties() -> None:
    rows: list[dict[str, float]] = [{"A": 1, "B": 1, "C": 2}, {"A": 1, "B": 2, "C": 3}]
    found = rank_systems(rows, resamples=50)
    means = {name: interval.estimate for name, interval in found.mean_rank.items()}
    assert means == {"A": 1.25, "B": 1.75, "C": 3}
    assert found.first == {"A": 1, "B": 0.5, "C": 0}
    assert found.wins["A", "B"] == 0.75 and found.wins["B", "A"] == 0.25 and found.wins["A", "C"] == 1
    broken: list[Any] = [{"A": 1, "B": 1}, {"A": 1, "C": 2}]
    with pytest.raises(ValueError, match="ranking 2 is of"):
        rank_systems(broken)


@given(st.lists(st.lists(st.integers(1, 4), min_size=4, max_size=4), min_size=1, max_size=6))
def test_ranks_add_up(rows: list[list[int]]) -> None:
    found = rank_systems([dict(zip("ABCD", row, strict=True)) for row in rows], resamples=5)
    assert sum(v.estimate for v in found.mean_rank.values()) == pytest.approx(10)
    for (a, b), share in found.wins.items():
        assert share + found.wins[b, a] == pytest.approx(1)
