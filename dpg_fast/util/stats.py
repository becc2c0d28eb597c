"""Statistics of scores: one bootstrap, correlations, ROC AUC, consistency of items, agreement of raters.

Everything is float64 and seeded. A statistic that is not defined (a column that does not vary) is nan, never a guess; reports
show it as "-". What the bootstrap calls thousands of times is a formula over numpy and `scipy.stats.rankdata`: the checks in
`sklearn.metrics` make one AUC or kappa 20 to 150 times slower. Tests compare with scikit-learn and published examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.util.errors import DPGError
from dpg_fast.util.results import json_ready

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]
ICC = Literal["1,1", "2,1", "3,1", "1,k", "2,k", "3,k"]
ICC_KINDS: tuple[ICC, ...] = ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")
Weights = Literal["none", "linear", "quadratic"]
_TINY = 1e-12  # a spread below this share of the values is rounding


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval [low, high] at `confidence`; nan where undefined.

    Attributes:
        resamples: bootstrap draws in which the statistic was defined.
    """

    estimate: float
    low: float = math.nan
    high: float = math.nan
    confidence: float = 0.95
    resamples: int = 0

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below 0; else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def scaled(self, factor: float) -> Interval:
        """The same in other units."""
        return replace(self, estimate=factor * self.estimate, low=factor * self.low, high=factor * self.high)

    def to_dict(self) -> dict[str, float | None]:
        """Estimate and bounds in plain JSON types; what is undefined is None."""
        found: dict[str, float | None] = json_ready({"estimate": self.estimate, "low": self.low, "high": self.high})
        return found


# ------------------------------------------------------------------ bootstrap


def bootstrap(statistic: Callable[..., float], *units: int | Sequence[Any], **options: Any) -> Interval:
    """`bootstrap_all` of a statistic that is one number."""
    return bootstrap_all(lambda *rows: [statistic(*rows)], *units, **options)[0]


def bootstrap_all(
    statistic: Callable[..., ArrayLike],
    *units: int | Sequence[Any],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Percentile bootstrap intervals (Efron 1979) of statistics that share their draws.

    Args:
        statistic: takes an int64 array of row numbers for each of ``units``, and gives [n] values.
        units: the samples, each drawn with replacement at its own size: how many rows there are, each by itself, or the label of
            every row. Rows with the same label (answers of one person, traits of one text) are drawn together.
        confidence: coverage asked for, between 0 and 1.
        resamples: bootstrap draws. Draws in which a value is undefined are left out of that value's interval.
        seed: the same seed gives the same intervals.

    Returns:
        n intervals; low and high are nan where no draw is defined.

    Raises:
        ValueError: no sample, an empty one, or settings out of range.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise DPGError(f"confidence lies between 0 and 1 and resamples are positive, not {confidence}, {resamples}")
    groups = [_groups(rows) for rows in units]
    if not groups or not all(map(len, groups)):
        raise DPGError("a bootstrap needs at least one sample, and units in each")
    rng = np.random.default_rng(seed)
    estimates = np.asarray(statistic(*map(_joined, groups)), dtype=np.float64)
    draws = np.empty((resamples, estimates.size))
    for draw in draws:
        draw[:] = statistic(*(_joined(own, rng.integers(len(own), size=len(own))) for own in groups))
    found, tail = [], (1 - confidence) / 2
    for estimate, column in zip(estimates, draws.T, strict=True):
        kept = column[np.isfinite(column)]
        low, high = np.quantile(kept, [tail, 1 - tail]) if kept.size else (math.nan, math.nan)
        found.append(Interval(float(estimate), float(low), float(high), confidence, int(kept.size)))
    return found


def mean_interval(values: ArrayLike, **options: Any) -> Interval:
    """The mean of values, one for each unit, with its bootstrap interval; nan without any value."""
    x = np.asarray(values, dtype=np.float64).ravel()
    return bootstrap(lambda rows: float(x[rows].mean()), x.size, **options) if x.size else Interval(math.nan)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (scipy)."""
    bounds = _scipy().binomtest(successes, trials).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)


def _groups(units: int | Sequence[Any]) -> Any:
    """Rows of each unit, in the order in which labels first occur; plain row numbers where each row is one."""
    if isinstance(units, (int, np.integer)):
        return np.arange(units)
    rows: dict[Any, list[int]] = {}
    for row, label in enumerate(units):
        rows.setdefault(label, []).append(row)
    return list(map(np.array, rows.values()))


def _joined(groups: Any, drawn: Rows | None = None) -> Rows:
    if isinstance(groups, np.ndarray):
        return groups if drawn is None else drawn
    return np.concatenate(groups if drawn is None else [groups[i] for i in drawn])


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise ImportError("statistics need scipy: pip install 'dpg-fast[assess]'") from None
    return stats


# ------------------------------------------------------------------ two samples


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are defined; nan without any."""
    kept = [value for value in values if math.isfinite(value)]
    return float(np.mean(kept)) if kept else math.nan


def variance_of(values: Scores) -> float:
    """Variance (n - 1 denominator); nan of fewer than two values."""
    return float(values.var(ddof=1)) if values.size > 1 else math.nan


def ranks(values: ArrayLike) -> Scores:
    """Ranks from 1, lowest first, down the first axis; equal values share their mean rank (scipy)."""
    found: Scores = _scipy().rankdata(values, axis=0)
    return found


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(a random positive value > a random negative one), ties counting half: the area under the ROC curve.

    Args:
        positive: n values.
        negative: m values.

    Returns:
        0..1; 0.5 means no separation.

    Raises:
        ValueError: an empty sample, or a value that is not finite.
    """
    above, below = (np.asarray(side, dtype=np.float64).ravel() for side in (positive, negative))
    if not (above.size and below.size) or not np.isfinite([above.sum(), below.sum()]).all():
        raise DPGError("an AUC needs two samples of finite values; one is empty, or holds values that are not finite")
    rank_sum = ranks(np.concatenate([above, below]))[: above.size].sum()
    return float((rank_sum - above.size * (above.size + 1) / 2) / (above.size * below.size))


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in units of the pooled standard deviation (n - 1); nan without spread or with one value on a side."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(x.size, y.size) < 2:
        return math.nan
    pooled = ((x.size - 1) * x.var(ddof=1) + (y.size - 1) * y.var(ddof=1)) / (x.size + y.size - 2)
    return float((x.mean() - y.mean()) / math.sqrt(pooled)) if pooled > 0 else math.nan


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation of the pairs in which both values are finite; nan of fewer than two, or if a side does not vary.

    Raises:
        ValueError: unequal sizes.
    """
    pairs = _pairs(a, b)
    return _correlation(pairs) if len(pairs) > 1 else math.nan


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; pairs and nan as in `pearson`."""
    pairs = _pairs(a, b)
    return _correlation(ranks(pairs)) if len(pairs) > 1 else math.nan


def _pairs(a: ArrayLike, b: ArrayLike) -> Scores:
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if x.size != y.size:
        raise DPGError(f"correlations need pairs: {x.size} and {y.size} values")
    pairs = np.stack([x, y], axis=1)
    return pairs[np.isfinite(pairs).all(axis=1)]


def _correlation(pairs: Scores) -> float:
    centred = pairs - pairs.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=0))
    if (spread <= _TINY * (1 + np.abs(pairs).max(axis=0))).any():
        return math.nan
    return float(np.clip((centred[:, 0] @ centred[:, 1]) / spread.prod(), -1, 1))


# ------------------------------------------------------------------ people by items, targets by raters


def matrix_of(values: ArrayLike, *, rows: int = 2, columns: int = 2) -> Scores:
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


def cronbach_alpha(scores: ArrayLike) -> float:
    """Cronbach's alpha (1951) of [people, items], items already in the direction of the trait.

    k / (k - 1) (1 - sum of item variances / variance of the sum). nan if the sum has no variance.

    Raises:
        ValueError: fewer than two people or items, or missing values.
    """
    matrix = matrix_of(scores)
    k = matrix.shape[1]
    total = matrix.sum(axis=1).var(ddof=1)
    if total <= _TINY * (1 + np.abs(matrix).max() ** 2):
        return math.nan
    return float(k / (k - 1) * (1 - matrix.var(axis=0, ddof=1).sum() / total))


def retest(scores: ArrayLike) -> float:
    """Mean Pearson correlation over all pairs of columns of [people, occasions]; nan if a pair has none.

    Raises:
        ValueError: fewer than two people or occasions, or missing values.
    """
    matrix = matrix_of(scores)
    return float(np.mean([pearson(a, b) for a, b in combinations(matrix.T, 2)]))


def icc(ratings: ArrayLike, *kinds: ICC) -> list[float]:
    """Intraclass correlations of [targets, raters] after Shrout and Fleiss (1979), one for each of ``kinds``.

    1: each target has raters of its own; 2: the raters are a sample, and agreement is absolute; 3: these raters are the only
    ones, and agreement is consistency. "1": of a single rating; "k": of the mean of all. Negative where raters disagree more
    than by chance; nan if nothing varies, or if the estimated variance that it is a share of is not positive.

    Raises:
        ValueError: an unknown kind, fewer than two targets or raters, or missing values.
    """
    x = matrix_of(ratings)
    n, k = x.shape
    grand = x.mean()
    between = k * ((x.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    raters_sum = n * ((x.mean(axis=0) - grand) ** 2).sum()
    within_sum = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum()
    within = within_sum / (n * (k - 1))
    raters = raters_sum / (k - 1)
    error = max(0.0, within_sum - raters_sum) / ((n - 1) * (k - 1))
    shares = {  # numerator, denominator
        "1,1": (between - within, between + (k - 1) * within),
        "2,1": (between - error, between + (k - 1) * error + k * (raters - error) / n),
        "3,1": (between - error, between + (k - 1) * error),
        "1,k": (between - within, between),
        "2,k": (between - error, between + (raters - error) / n),
        "3,k": (between - error, between),
    }
    unknown = [kind for kind in kinds if kind not in shares]
    if unknown:
        raise DPGError(f"unknown kind of ICC {unknown[0]!r}; accepted: {', '.join(shares)}")
    least = _TINY * (1 + grand**2)
    return [float(shares[kind][0] / shares[kind][1]) if shares[kind][1] > least else math.nan for kind in kinds]


def weighted_kappa(a: ArrayLike, b: ArrayLike, *, categories: Sequence[Any], weights: Weights = "quadratic") -> float:
    """Cohen's kappa (1960; weighted 1968) of two raters' ratings of the same targets.

    Disagreement weighs by the distance between the categories' places: not at all ("none": any disagreement is one), linearly
    or squared. nan if no disagreement is possible.

    Args:
        a, b: one rating each of every target.
        categories: all that could be given, in order.
        weights: see above.

    Raises:
        ValueError: unequal numbers of ratings, none at all, a rating that is not a category, or other weights.
    """
    x, y = np.asarray(a).ravel(), np.asarray(b).ravel()
    if x.size != y.size or x.size == 0:
        raise DPGError(f"both raters rate the same targets, at least one: {x.size} and {y.size} ratings")
    known = np.asarray(categories)
    equal = np.concatenate([x, y])[:, None] == known
    if not equal.any(axis=1).all():
        raise DPGError(f"a rating is none of the categories {known.tolist()}")
    place = equal.argmax(axis=1)
    table = np.zeros((known.size, known.size))
    np.add.at(table, (place[: x.size], place[x.size :]), 1)
    distance = np.abs(np.subtract.outer(np.arange(known.size), np.arange(known.size))).astype(np.float64)
    costs = {"none": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}
    if weights not in costs:
        raise DPGError(f"weights are none, linear or quadratic, not {weights!r}")
    expected = (costs[weights] * np.outer(table.sum(axis=1), table.sum(axis=0))).sum() / x.size
    return float(1 - (costs[weights] * table).sum() / expected) if expected > 0 else math.nan


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
    chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return float((agreement.mean() - chance) / (1 - chance)) if chance < 1 - _TINY else math.nan
