"""What every witness reports: how far it tells the two poles of a trait apart, and what else moves with them.

A cell of the table is an area under the ROC curve: P(a value that should be high exceeds one that should be low), 0.5 by chance.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.personality.scores import Trait
from dpg_fast.util.stats import Interval, auc, bootstrap_all, mean_of

Scores = NDArray[np.float64]
Pair = tuple[Trait, Trait]  # asked for, judged


@dataclass(frozen=True)
class Sample:
    """Values that should be high and values that should be low; nan where there is none.

    Attributes:
        high, low: one value for each unit.
        high_units, low_units: names of the units; samples whose units have one name are resampled together.
    """

    high: Scores
    low: Scores
    high_units: Hashable
    low_units: Hashable


@dataclass(frozen=True)
class Separation:
    """One method as one witness sees it.

    Attributes:
        cells: (trait asked for, trait judged) -> AUC; traits that were not judged are missing.
        diagonal: mean AUC of the traits asked for.
        bleed: mean |2 AUC - 1| of the others; nan if none was judged. Chance alone makes it positive.
    """

    cells: dict[Pair, Interval]
    diagonal: Interval
    bleed: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        table: dict[str, dict[str, Any]] = {}
        for (asked, judged), value in self.cells.items():
            table.setdefault(asked.value, {})[judged.value] = value.to_dict()
        return {"auc": table, "diagonal": self.diagonal.to_dict(), "bleed": self.bleed.to_dict()}


def points(samples: Mapping[Pair, Sample]) -> dict[Pair, float]:
    """The AUC of each cell; nan where a side has no value."""
    return {pair: separated(sample.high, sample.low) for pair, sample in samples.items()}


def separation(samples: Mapping[Pair, Sample], *, resamples: int = 1000, seed: int = 0) -> Separation:
    """AUC of each cell with its 95% bootstrap interval; units are resampled, those of several cells together.

    Raises:
        ValueError: no samples, or an empty one.
    """
    sizes: dict[Hashable, int] = {}
    for sample in samples.values():
        sizes[sample.high_units], sizes[sample.low_units] = sample.high.size, sample.low.size

    def statistics(*draws: Any) -> list[float]:
        rows = dict(zip(sizes, draws, strict=True))
        found = {
            pair: separated(sample.high[rows[sample.high_units]], sample.low[rows[sample.low_units]])
            for pair, sample in samples.items()
        }
        return [*found.values(), *summary(found)]

    *cells, diagonal, bleed = bootstrap_all(statistics, *sizes.values(), resamples=resamples, seed=seed)
    return Separation(dict(zip(samples, cells, strict=True)), diagonal, bleed)


def summary(cells: Mapping[Pair, float]) -> tuple[float, float]:
    """Mean AUC on the diagonal, and mean |2 AUC - 1| off it."""
    own = mean_of(value for (asked, judged), value in cells.items() if asked == judged)
    other = mean_of(abs(2 * value - 1) for (asked, judged), value in cells.items() if asked != judged)
    return own, other


def separated(high: Scores, low: Scores) -> float:
    """AUC of the values that are there; nan where a side has none."""
    high, low = high[~np.isnan(high)], low[~np.isnan(low)]
    return auc(high, low) if high.size and low.size else math.nan
