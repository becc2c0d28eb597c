"""The few statistics that comparisons between groups of answers need. Everything is float64 and seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.util.errors import DPGError
from dpg_fast.util.results import json_ready

Sample = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval [low, high] at `confidence`."""

    estimate: float
    low: float
    high: float
    confidence: float
    resamples: int

    def to_dict(self) -> dict[str, float | None]:
        """Estimate and bounds in plain JSON types; what is undefined is None."""
        found: dict[str, float | None] = json_ready({"estimate": self.estimate, "low": self.low, "high": self.high})
        return found

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(a random positive value > a random negative one), ties counting half: the Mann-Whitney U over n m.

    Args:
        positive: n values. negative: m values.

    Returns:
        0..1; 0.5 means no separation.

    Raises:
        ValueError: an empty sample, or a value that is not finite.
    """
    above, below = _sample(positive, "positive"), np.sort(_sample(negative, "negative"))
    less = np.searchsorted(below, above, side="left")
    not_more = np.searchsorted(below, above, side="right")
    return float((less + not_more).sum() / (2.0 * above.size * below.size))


def mean_difference(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of `a` minus mean of `b`."""
    return float(_sample(a, "a").mean() - _sample(b, "b").mean())


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in units of the pooled standard deviation (n - 1 denominators).

    Raises:
        ValueError: fewer than two values in a sample, or no spread at all.
    """
    x, y = _sample(a, "a"), _sample(b, "b")
    if min(x.size, y.size) < 2:
        raise DPGError("Cohen's d needs at least two values in each sample")
    pooled = ((x.size - 1) * x.var(ddof=1) + (y.size - 1) * y.var(ddof=1)) / (x.size + y.size - 2)
    if pooled <= 0.0:
        raise DPGError("Cohen's d is undefined: neither sample has any spread")
    return float((x.mean() - y.mean()) / np.sqrt(pooled))


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(*samples)` (Efron 1979).

    Args:
        statistic: takes as many float64 arrays as there are samples.
        samples: one-dimensional; each is resampled with replacement at its own size.
        paired: draw the same positions from all samples (values at one position belong together).
        confidence: coverage asked for, between 0 and 1.
        resamples: bootstrap draws.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no or empty samples, unequal sizes when paired, or settings out of range.
    """
    if not samples:
        raise DPGError("bootstrap_interval needs at least one sample")
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise DPGError(f"confidence must lie between 0 and 1 and resamples be positive, not {confidence}, {resamples}")
    arrays = [_sample(sample, f"sample {number}") for number, sample in enumerate(samples, 1)]
    sizes = [array.size for array in arrays]
    if paired and len(set(sizes)) != 1:
        raise DPGError(f"paired samples must have one size, not {sizes}")
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for draw in range(resamples):
        rows = generator.integers(sizes[0], size=sizes[0]) if paired else None
        drawn = [a[generator.integers(a.size, size=a.size) if rows is None else rows] for a in arrays]
        draws[draw] = statistic(*drawn)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(float(statistic(*arrays)), float(low), float(high), confidence, resamples)


def _sample(values: ArrayLike | Sequence[float], name: str) -> Sample:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if array.size == 0:
        raise DPGError(f"{name} is empty")
    if not np.isfinite(array).all():
        raise DPGError(f"{name} holds values that are not finite")
    return array
