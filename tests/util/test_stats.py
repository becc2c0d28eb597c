"""Statistics against scikit-learn, scipy and published worked examples; intervals against simulations of known coverage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn import metrics

from dpg_fast.util.stats import (
    ICC_KINDS,
    auc,
    bootstrap,
    bootstrap_all,
    cohens_d,
    cronbach_alpha,
    fleiss_kappa,
    icc,
    mean_interval,
    mean_of,
    pearson,
    ranks,
    retest,
    spearman,
    variance_of,
    weighted_kappa,
    wilson,
)

# Shrout and Fleiss (1979), table 2: six targets, four judges.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
# Real-statistics.com's wines; pingouin 0.7, checked against R's psych, documents these values.
WINES = [[1, 1, 3, 6, 6, 7, 8, 9], [2, 3, 8, 4, 5, 5, 7, 9], [0, 3, 1, 3, 5, 6, 7, 9], [1, 2, 4, 3, 6, 2, 9, 8]]
# Ten subjects, fourteen raters, five categories: the worked example of Wikipedia's article on Fleiss' kappa.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
RATINGS = arrays(np.float64, (6, 4), elements=st.integers(1, 5).map(float))
VALUES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30)
PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20)


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    x = np.random.default_rng(5).normal(2.0, 3.0, 61)
    ours = mean_interval(x, resamples=4000, seed=1)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert ours.estimate == pytest.approx(x.mean()) and ours.resamples == 4000
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.08)
    assert ours == mean_interval(x, resamples=4000, seed=1) != mean_interval(x, resamples=4000, seed=2)


def test_samples_are_drawn_apart_and_pairs_together() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 10.0, 50)
    moved = base + 1.0 + rng.normal(0.0, 0.1, 50)
    paired = bootstrap(lambda rows: moved[rows].mean() - base[rows].mean(), 50)
    apart = bootstrap(lambda a, b: moved[a].mean() - base[b].mean(), 50, 50)
    assert paired.high - paired.low < 0.1 < 4.0 < apart.high - apart.low
    assert paired.sign == 1 and apart.sign == 0


def _coverage(draw: Callable[[np.random.Generator, int], Any], truth: float) -> float:
    rng = np.random.default_rng(9)
    found = [draw(rng, seed) for seed in range(120)]
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


def test_coverage_of_a_mean() -> None:
    options = {"confidence": 0.8, "resamples": 120}
    covered = _coverage(lambda rng, seed: mean_interval(rng.normal(1.0, 1.0, 40), seed=seed, **options), 1.0)
    assert 0.68 <= covered <= 0.91


def test_coverage_of_a_correlation() -> None:
    def draw(rng: np.random.Generator, seed: int) -> Any:
        x = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60)
        return bootstrap(lambda rows: pearson(*x[rows].T), len(x), confidence=0.8, resamples=120, seed=seed)

    assert 0.68 <= _coverage(draw, 0.6) <= 0.91


def test_units_of_several_rows_are_drawn_whole() -> None:
    """Five values of a text share most of their deviation: only drawing whole texts covers the mean as often as it says."""
    labels = np.repeat(np.arange(30), 5)

    def draw(rng: np.random.Generator, seed: int, units: Any) -> Any:
        x = np.repeat(rng.normal(size=30), 5) + 0.3 * rng.normal(size=150)
        return bootstrap(lambda rows: float(x[rows].mean()), units, confidence=0.8, resamples=120, seed=seed)

    assert 0.68 <= _coverage(lambda rng, seed: draw(rng, seed, labels.tolist()), 0.0) <= 0.91
    assert _coverage(lambda rng, seed: draw(rng, seed, len(labels)), 0.0) < 0.55
    seen: list[np.ndarray] = []
    bootstrap(lambda rows: float(seen.append(rows) or 0), ["a", "b", "a"], resamples=20)
    assert seen[0].tolist() == [0, 2, 1]  # the estimate is of all rows
    assert all((rows == 0).sum() == (rows == 2).sum() for rows in seen)


def test_undefined_draws_are_left_out() -> None:
    x = np.array([0.0, 1.0])
    first, second = bootstrap_all(lambda rows: [pearson(x[rows], x[rows]), x[rows].sum()], 2, resamples=100)
    assert first.low == pytest.approx(1) and 20 < first.resamples < 80 and second.resamples == 100
    never = bootstrap(lambda rows: math.nan, 4)
    assert math.isnan(never.low) and never.to_dict() == {"estimate": None, "low": None, "high": None}
    assert math.isnan(mean_interval([]).estimate) and mean_interval([]).sign == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(lambda: 0.0), "at least one sample"),
        (lambda: bootstrap(lambda rows: 0.0, 0), "units in each"),
        (lambda: mean_interval([1.0], confidence=1.0), "confidence"),
        (lambda: mean_interval([1.0], resamples=0), "resamples"),
        (lambda: auc([], [1]), "empty"),
        (lambda: auc([math.nan], [1]), "finite"),
        (lambda: pearson([1, 2], [1]), "2 and 1 values"),
        (lambda: cronbach_alpha(np.ones((4, 1))), "at least 2 rows and 2 columns"),
        (lambda: cronbach_alpha([[1, 2], [3, math.nan]]), "not finite"),
        (lambda: icc(SHROUT_FLEISS, "4,1"), "unknown kind of ICC"),  # type: ignore[arg-type]
        (lambda: weighted_kappa([1, 7], [1, 2], categories=[1, 2]), "none of the categories"),
        (lambda: weighted_kappa([1, 2], [1], categories=[1, 2]), "2 and 1 ratings"),
        (lambda: weighted_kappa([1], [1], categories=[1, 2], weights="cubic"), "not 'cubic'"),  # type: ignore[arg-type]
        (lambda: fleiss_kappa([[2, 1], [2, 2]]), "same number of raters"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------ two samples


def test_wilson_of_a_published_example() -> None:
    """Newcombe (1998), table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


@given(VALUES, VALUES)
def test_auc_equals_scikit_learn(high: list[float], low: list[float]) -> None:
    theirs = metrics.roc_auc_score([1] * len(high) + [0] * len(low), high + low)
    assert auc(high, low) == pytest.approx(theirs) and auc(high, low) + auc(low, high) == pytest.approx(1)


@given(PAIRS)
def test_correlations_equal_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    assert ranks(a) == pytest.approx(stats.rankdata(a))
    if np.ptp(a) and np.ptp(b):
        assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-9)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
        gaps = np.append(a, math.nan), np.append(b, 1.0)
        assert spearman(*gaps) == pytest.approx(spearman(a, b))  # a pair without both values is none
    else:
        assert math.isnan(pearson(a, b)) and math.isnan(spearman(a, b))


def test_means_and_differences_by_hand() -> None:
    assert mean_of([1.0, math.nan, 3.0]) == 2 and math.isnan(mean_of([math.nan])) and math.isnan(mean_of([]))
    assert variance_of(np.array([1.0, 3.0])) == 2 and math.isnan(variance_of(np.array([1.0])))
    assert cohens_d([1, 2, 3], [4, 5, 6]) == pytest.approx(-3.0)  # means 2 and 5, both variances 1
    assert math.isnan(cohens_d([1, 1], [2, 2])) and math.isnan(cohens_d([1], [2, 3]))
    forms = np.random.default_rng(0).normal(size=(60, 1)) + 0.5 * np.random.default_rng(1).normal(size=(60, 3))
    assert retest(forms) == pytest.approx(np.corrcoef(forms.T)[np.triu_indices(3, 1)].mean())


# ------------------------------------------------------------------ items and raters


def test_icc_of_published_examples() -> None:
    assert np.round(icc(SHROUT_FLEISS, *ICC_KINDS), 2).tolist() == [0.17, 0.29, 0.71, 0.44, 0.62, 0.91]
    assert np.round(icc(np.array(WINES).T, *ICC_KINDS), 3).tolist() == [0.728, 0.728, 0.729, 0.914, 0.914, 0.915]


@given(RATINGS)
def test_alpha_is_the_consistency_of_the_mean(x: np.ndarray) -> None:
    """Hoyt (1941): alpha of people by items is ICC(3,k)."""
    alpha, (consistency,) = cronbach_alpha(x), icc(x, "3,k")
    if math.isfinite(alpha) and math.isfinite(consistency):
        assert alpha == pytest.approx(consistency, abs=1e-9)


def test_alpha_of_a_published_example() -> None:
    """Eleven questions, the nine people without gaps; pingouin and R's psych document .8016949152542373."""
    people = (
        "11111111111 11111111010 11101101100 11111000100 11110010000 11111000000 01011000010 11100000000 10010000000"
    )
    x = np.array([[int(answer) for answer in person] for person in people.split()], dtype=float)
    assert cronbach_alpha(x) == pytest.approx(0.8016949152542373, abs=1e-12)
    assert math.isnan(cronbach_alpha(np.ones((4, 3))))
    assert cronbach_alpha(np.repeat(np.arange(5.0)[:, None], 4, axis=1)) == pytest.approx(1)


@given(PAIRS)
def test_kappa_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    levels = range(-5, 6)
    for ours, theirs in (("none", None), ("linear", "linear"), ("quadratic", "quadratic")):
        found = weighted_kappa(a, b, categories=levels, weights=ours)  # type: ignore[arg-type]
        if len(set(a) | set(b)) > 1:
            assert found == pytest.approx(metrics.cohen_kappa_score(a, b, labels=list(levels), weights=theirs))
        else:
            assert math.isnan(found)


def test_weighted_kappa_of_the_anxiety_ratings() -> None:
    """R's irr, data set anxiety: kappa2(anxiety[, 2:3]), with "equal" and "squared" weights. Nobody gave a 5."""
    a = [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4]
    b = [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2]
    known = sorted(set(a) | set(b))
    for weights, published in (("none", -0.006289308), ("linear", 0.1459075), ("quadratic", 0.2520325)):
        assert weighted_kappa(a, b, categories=known, weights=weights) == pytest.approx(published, abs=1e-7)  # type: ignore[arg-type]


def test_fleiss_kappa_of_the_published_example() -> None:
    assert round(fleiss_kappa(FLEISS), 3) == 0.210
    assert fleiss_kappa([[4, 0], [0, 4], [4, 0]]) == pytest.approx(1)
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))
