"""A character's centre, spread and outliers.

DPG draws a centre for each trait of a character; its formula is not public. Here it is the mean of the segments that are not
outliers. A segment is an outlier if in any trait it lies more than 3.5 robust standard deviations (1.4826 x the median
absolute deviation, at least half a level) from the median, and the trait was judged in five segments of the character or more.

A judge may find no evidence of a trait in a segment. Such a trait counts neither for the centre nor for outliers, and a distance
from the centre is that of the judged traits, scaled to five: sqrt(5 / k) times the distance over k traits.

Why: docs/decisions.md, "Traits without evidence take the character's centre".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dpg_fast.util.errors import DPGError

Scores = tuple[float, float, float, float, float]
Open = tuple[float | None, float | None, float | None, float | None, float | None]  # None: no evidence
OUTLIER_LIMIT = 3.5
MIN_DEVIATION = 0.5  # of a level; below, a judge's noise decides
MIN_COUNT = 5


@dataclass(frozen=True)
class Centre:
    """Where a character lies.

    Attributes:
        mean: of the segments that are not outliers, -5..5, OCEAN order.
        spread: standard deviation of each trait over them; 0 with one segment.
        radius: root of the summed variances, at least that of half a level in each trait. With all traits judged, the root mean
            square distance from the mean.
        count: how many they are.
        median, deviation: what outliers are told by.
        judged: segments in which each trait was judged, outliers included.
    """

    mean: Scores
    spread: Scores
    radius: float
    count: int
    median: Scores
    deviation: Scores
    judged: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Open]) -> Centre:
        """The centre of one or more judged segments.

        Raises:
            ValueError: there are none, or none in which some trait was judged.
        """
        columns = [_known(column) for column in zip(*rows, strict=True)]
        if not rows or not all(columns):
            raise DPGError("the centre of no segments is undefined, and so is that of a trait judged in none")
        judged = tuple(len(column) for column in columns)
        median = _five(statistics.median(column) for column in columns)
        spread_of = [statistics.median(abs(x - m) for x in column) for column, m in zip(columns, median, strict=True)]
        deviation = _five(max(1.4826 * value, MIN_DEVIATION) for value in spread_of)
        inside = [row for row in rows if not _is_outlier(row, median, deviation, judged)]
        kept = [_known(column) for column in zip(*inside, strict=True)]
        if not inside or not all(kept):  # nothing else is left of some trait
            inside, kept = list(rows), columns
        mean = _five(math.fsum(column) / len(column) for column in kept)
        spread = _five(statistics.pstdev(column) for column in kept)
        floor = MIN_DEVIATION * math.sqrt(len(mean))
        radius = max(math.hypot(*spread), floor)
        return cls(mean, spread, radius, len(inside), median, deviation, judged)

    def is_outlier(self, row: Open) -> bool:
        """Whether a segment with these scores is one."""
        return _is_outlier(row, self.median, self.deviation, self.judged)

    def distance(self, row: Open) -> float:
        """Euclidean distance from the mean, 0 to 10 sqrt(5), scaled to five traits; nan if none was judged."""
        apart = [x - m for x, m in zip(row, self.mean, strict=True) if x is not None]
        return math.sqrt(len(row) / len(apart)) * math.hypot(*apart) if apart else math.nan

    def filled(self, row: Open) -> Scores:
        """The scores, with the mean where there is no evidence."""
        return _five(m if x is None else x for x, m in zip(row, self.mean, strict=True))


def _is_outlier(row: Open, median: Scores, deviation: Scores, judged: Sequence[int]) -> bool:
    return any(
        x is not None and count >= MIN_COUNT and abs(x - m) > OUTLIER_LIMIT * d
        for x, m, d, count in zip(row, median, deviation, judged, strict=True)
    )


def _known(column: Iterable[float | None]) -> list[float]:
    return [value for value in column if value is not None]


def _five(values: Iterable[float]) -> Scores:
    first, second, third, fourth, fifth = values
    return (float(first), float(second), float(third), float(fourth), float(fifth))
