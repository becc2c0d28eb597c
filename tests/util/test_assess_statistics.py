from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dpg_fast.util.stats import auc, bootstrap_interval, cohens_d, mean_difference


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 13), (40, 3)])
def test_auc_is_the_mann_whitney_u_with_ties(n: int, m: int) -> None:
    rng = np.random.default_rng(n * 100 + m)
    a, b = rng.integers(0, 5, n).astype(float), rng.integers(0, 4, m).astype(float)
    assert auc(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / (n * m), abs=1e-12)
    assert auc(a, b) + auc(b, a) == pytest.approx(1.0)


def test_auc_by_hand() -> None:
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [3, 4]) == 0.0
    assert auc([2], [2, 2, 2]) == 0.5
    assert auc([1, 3], [2, 3]) == pytest.approx((0 + 0 + 1 + 0.5) / 4)


def test_differences() -> None:
    assert mean_difference([1, 2, 6], [1, 1]) == 2.0
    # Means 2 and 5, both variances 1.
    assert cohens_d([1, 2, 3], [4, 5, 6]) == pytest.approx(-3.0)
    with pytest.raises(ValueError, match="spread"):
        cohens_d([1, 1], [2, 2])
    with pytest.raises(ValueError, match="two values"):
        cohens_d([1], [2, 3])


def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    x = np.random.default_rng(5).normal(2.0, 3.0, 61)
    ours = bootstrap_interval(np.mean, x, resamples=4000, seed=1)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert ours.estimate == pytest.approx(x.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.08)
    assert ours.high == pytest.approx(theirs.high, abs=0.08)
    assert ours == bootstrap_interval(np.mean, x, resamples=4000, seed=1)
    assert ours != bootstrap_interval(np.mean, x, resamples=4000, seed=2)


def test_pairing_removes_shared_variance() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 10.0, 50)
    a, b = base + 1.0 + rng.normal(0.0, 0.1, 50), base
    paired = bootstrap_interval(mean_difference, a, b, paired=True)
    free = bootstrap_interval(mean_difference, a, b)
    assert paired.high - paired.low < 0.1 < 4.0 < free.high - free.low
    assert paired.low < 1.0 < paired.high


def test_coverage_is_close_to_what_was_asked_for() -> None:
    rng = np.random.default_rng(9)
    hits = 0
    for seed in range(200):
        interval = bootstrap_interval(np.mean, rng.normal(1.0, 1.0, 40), confidence=0.8, resamples=200, seed=seed)
        hits += interval.low <= 1.0 <= interval.high
    assert 140 <= hits <= 178


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([], [1]), "empty"),
        (lambda: auc([float("nan")], [1]), "finite"),
        (lambda: bootstrap_interval(np.mean), "at least one"),
        (lambda: bootstrap_interval(np.mean, [1.0], confidence=1.0), "confidence"),
        (lambda: bootstrap_interval(mean_difference, [1, 2], [1, 2, 3], paired=True), "one size"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
