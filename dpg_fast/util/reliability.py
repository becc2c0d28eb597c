"""How far scores can be trusted: internal consistency, agreement between forms or raters, correlations.

Matrices are float64 [cases, columns]: people by items for alpha, targets by raters (forms, judges) for the intraclass
correlations. Intervals come from resampling the rows. Where a statistic is not defined (no spread) it is nan, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.util.errors import DPGError
from dpg_fast.util.stats import Interval

Matrix = NDArray[np.float64]
ICC = Literal["1,1", "2,1", "3,1", "1,k", "2,k", "3,k"]
ICC_KINDS: tuple[ICC, ...] = ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")


def matrix_of(values: ArrayLike, *, rows: int = 2, columns: int = 2) -> Matrix:
    """A checked float64 matrix.

    Raises:
        ValueError: not two-dimensional, too small, or with values that are not finite.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] < rows or matrix.shape[1] < columns:
        raise DPGError(f"needs a matrix of at least {rows} rows and {columns} columns, not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise DPGError("the matrix holds values that are not finite; leave incomplete rows out")
    return matrix


def bootstrap_rows(
    statistic: Callable[[Matrix], float],
    matrix: Matrix,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of a matrix whose rows are the cases.

    Draws in which the statistic is undefined (all drawn rows alike, say) are left out; `resamples` of the result counts the
    others. Without any, low and high are nan.

    Raises:
        ValueError: confidence not between 0 and 1, or no resamples.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise DPGError(f"confidence lies between 0 and 1 and resamples are positive, not {confidence}, {resamples}")
    rng = np.random.default_rng(seed)
    size = matrix.shape[0]
    draws = np.array([statistic(matrix[rng.integers(size, size=size)]) for _ in range(resamples)])
    draws = draws[np.isfinite(draws)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if draws.size else (math.nan, math.nan)
    return Interval(statistic(matrix), float(low), float(high), confidence, int(draws.size))


def cronbach_alpha(scores: ArrayLike) -> float:
    """Cronbach's alpha (1951) of [people, items], items already in the direction of the trait.

    k / (k - 1) (1 - sum of item variances / variance of the sum). nan if the sum has no variance.

    Raises:
        ValueError: fewer than two people or items, or missing values.
    """
    matrix = matrix_of(scores)
    k = matrix.shape[1]
    total = matrix.sum(axis=1).var(ddof=1)
    if total <= 1e-12 * (1 + np.abs(matrix).max() ** 2):
        return math.nan
    return float(k / (k - 1) * (1 - matrix.var(axis=0, ddof=1).sum() / total))


def alpha_interval(scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """`cronbach_alpha` with a bootstrap interval over people."""
    return bootstrap_rows(cronbach_alpha, matrix_of(scores), confidence=confidence, resamples=resamples, seed=seed)


def icc(ratings: ArrayLike, kind: ICC = "2,1") -> float:
    """Intraclass correlation of [targets, raters] after Shrout and Fleiss (1979).

    1: each target has raters of its own; 2: the raters are a sample, and agreement is absolute; 3: these raters are the only
    ones, and agreement is consistency. "1": of a single rating; "k": of the mean of all. Negative where raters disagree more
    than chance would have it; nan if nothing varies, or if the estimated variance that it is a share of is not positive.

    Raises:
        ValueError: an unknown kind, fewer than two targets or raters, or missing values.
    """
    if kind not in ICC_KINDS:
        raise DPGError(f"unknown kind of ICC {kind!r}; accepted: {', '.join(ICC_KINDS)}")
    x = matrix_of(ratings)
    n, k = x.shape
    grand = x.mean()
    between = k * ((x.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    judges_sum = n * ((x.mean(axis=0) - grand) ** 2).sum()
    within_sum = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum()
    within = within_sum / (n * (k - 1))
    judges = judges_sum / (k - 1)
    error = max(0.0, within_sum - judges_sum) / ((n - 1) * (k - 1))
    if kind[0] == "1":
        top, single, mean = between - within, between + (k - 1) * within, between
    elif kind[0] == "2":
        top = between - error
        single = between + (k - 1) * error + k * (judges - error) / n
        mean = between + (judges - error) / n
    else:
        top, single, mean = between - error, between + (k - 1) * error, between
    bottom = single if kind[-1] == "1" else mean
    return float(top / bottom) if bottom > 1e-12 * (1 + grand**2) else math.nan


def icc_interval(
    ratings: ArrayLike, kind: ICC = "2,1", *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """`icc` with a bootstrap interval over targets."""
    return bootstrap_rows(
        lambda rows: icc(rows, kind), matrix_of(ratings), confidence=confidence, resamples=resamples, seed=seed
    )


def weighted_kappa(
    a: ArrayLike,
    b: ArrayLike,
    *,
    categories: ArrayLike | None = None,
    weights: Literal["none", "linear", "quadratic"] = "quadratic",
) -> float:
    """Cohen's kappa (1960; weighted 1968) of two raters' ratings of the same targets.

    Disagreement weighs by the distance between the categories' places: not at all ("none": any disagreement is one), linearly
    or squared. nan if no disagreement is possible.

    Args:
        a, b: one rating each of every target.
        categories: all that could be given, in order; default: those that were.
        weights: see above.

    Raises:
        ValueError: unequal numbers of ratings, none at all, a rating that is not a category, or other weights.
    """
    if weights not in ("none", "linear", "quadratic"):
        raise DPGError(f"weights are none, linear or quadratic, not {weights!r}")
    x, y = np.asarray(a).ravel(), np.asarray(b).ravel()
    if x.size != y.size or x.size == 0:
        raise DPGError(f"both raters rate the same targets, at least one: {x.size} and {y.size} ratings")
    known = np.unique(np.concatenate([x, y])) if categories is None else np.asarray(categories)
    if not np.isin(np.concatenate([x, y]), known).all():
        raise DPGError(f"a rating is none of the categories {known.tolist()}")
    order = np.argsort(known, kind="stable")
    sorted_known = known[order]
    left, right = (order[np.searchsorted(sorted_known, side)] for side in (x, y))
    table = np.zeros((known.size, known.size))
    np.add.at(table, (left, right), 1)
    distance = np.abs(np.subtract.outer(np.arange(known.size), np.arange(known.size))).astype(np.float64)
    cost = {"none": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}[weights]
    expected = (cost * np.outer(table.sum(axis=1), table.sum(axis=0))).sum() / x.size
    return float(1 - (cost * table).sum() / expected) if expected > 0 else math.nan


def kappa_interval(
    ratings: ArrayLike,
    *,
    categories: ArrayLike,
    weights: Literal["none", "linear", "quadratic"] = "quadratic",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """`weighted_kappa` of [targets, 2] numeric ratings with a bootstrap interval over targets.

    Raises:
        ValueError: as `weighted_kappa`, or not two raters.
    """
    matrix = matrix_of(ratings, rows=1)
    if matrix.shape[1] != 2:
        raise DPGError(f"kappa is of two raters, not {matrix.shape[1]}")
    known = np.asarray(categories, dtype=np.float64)
    return bootstrap_rows(
        lambda rows: weighted_kappa(rows[:, 0], rows[:, 1], categories=known, weights=weights),
        matrix,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa (1971) of any number of raters: chance-corrected agreement on nominal categories.

    Args:
        counts: [targets, categories], how many raters put each target into each category; as many raters for every target.

    Returns:
        nan if all ratings are of one category.

    Raises:
        ValueError: fewer than two raters, another number of raters for some target, or negative counts.
    """
    table = matrix_of(counts, rows=1)
    raters = table.sum(axis=1)
    if (table < 0).any() or raters[0] < 2 or not np.allclose(raters, raters[0]):
        raise DPGError("every target is rated by the same number of raters, at least two")
    n = float(raters[0])
    agreement = ((table**2).sum(axis=1) - n) / (n * (n - 1))
    share = table.sum(axis=0) / table.sum()
    chance = float((share**2).sum())
    return float((agreement.mean() - chance) / (1 - chance)) if chance < 1 - 1e-12 else math.nan


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation; nan if either side has no spread.

    Raises:
        ValueError: unequal sizes, fewer than two values, or values that are not finite.
    """
    x = matrix_of(_pairs(a, b))
    centred = x - x.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    if (spread <= 1e-12 * (1 + np.abs(x).max(axis=0))).any():
        return math.nan
    return float(np.clip((centred[:, 0] @ centred[:, 1]) / spread.prod(), -1, 1))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; errors as `pearson`."""
    x = matrix_of(_pairs(a, b))
    return pearson(mean_ranks(x[:, 0]), mean_ranks(x[:, 1]))


def correlation_interval(
    a: ArrayLike,
    b: ArrayLike,
    kind: Literal["pearson", "spearman"] = "pearson",
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A correlation with a bootstrap interval over pairs.

    Raises:
        ValueError: as `pearson`, or another kind.
    """
    if kind not in ("pearson", "spearman"):
        raise DPGError(f"kind is pearson or spearman, not {kind!r}")
    chosen = pearson if kind == "pearson" else spearman
    return bootstrap_rows(
        lambda rows: chosen(rows[:, 0], rows[:, 1]),
        matrix_of(_pairs(a, b)),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def retest(scores: ArrayLike) -> float:
    """Mean Pearson correlation over all pairs of columns of [people, occasions]; nan if a pair has none.

    Raises:
        ValueError: fewer than two people or occasions, or missing values.
    """
    matrix = matrix_of(scores)
    return float(np.mean([pearson(matrix[:, i], matrix[:, j]) for i, j in combinations(range(matrix.shape[1]), 2)]))


def retest_interval(scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """`retest` with a bootstrap interval over people."""
    return bootstrap_rows(retest, matrix_of(scores), confidence=confidence, resamples=resamples, seed=seed)


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1, lowest first; equal values share their mean rank."""
    x = np.asarray(values, dtype=np.float64).ravel()
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    last = count.cumsum()
    return (last - (count - 1) / 2)[place]


def _pairs(a: ArrayLike, b: ArrayLike) -> Matrix:
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if x.size != y.size:
        raise DPGError(f"correlations need pairs: {x.size} and {y.size} values")
    return np.stack([x, y], axis=1)
