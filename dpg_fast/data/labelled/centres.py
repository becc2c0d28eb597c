"""A character's centre, spread and outliers.

DPG draws a centre for each trait of a character; its formula is not public. Here it is the mean of the segments that are no
outliers. A segment is an outlier if in any trait it lies more than 3.5 robust standard deviations (1.4826 x the median
absolute deviation, at least half a level) from the median, and the character has five segments or more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...personality import Personality

Scores = tuple[float, float, float, float, float]
OUTLIER_LIMIT = 3.5
MIN_DEVIATION = 0.5  # of a level; below, a judge's noise decides
MIN_COUNT = 5


@dataclass(frozen=True)
class Centre:
    """Where a character lies.

    Attributes:
        mean: of the segments that are no outliers, -5..5, OCEAN order.
        spread: standard deviation of each trait over them; 0 with one segment.
        radius: root mean square distance of them from the mean, at least that of half a level in each trait.
        count: how many they are.
        median, deviation: what outliers are told by.
    """

    mean: Scores
    spread: Scores
    radius: float
    count: int
    median: Scores
    deviation: Scores
    judged: int

    @classmethod
    def of(cls, rows: Sequence[Scores]) -> Centre:
        """The centre of one or more judged segments.

        Raises:
            ValueError: there are none.
        """
        if not rows:
            raise ValueError("the centre of no segments is undefined")
        columns = list(zip(*rows, strict=True))
        median = _five(statistics.median(column) for column in columns)
        spread_of = [statistics.median(abs(x - m) for x in column) for column, m in zip(columns, median, strict=True)]
        deviation = _five(max(1.4826 * value, MIN_DEVIATION) for value in spread_of)
        inside = [row for row in rows if not _is_outlier(row, median, deviation, len(rows))] or list(rows)
        mean = _five(Personality.mean(Personality(row) for row in inside).scores)
        spread = _five(statistics.pstdev(column) for column in zip(*inside, strict=True))
        square = statistics.fmean(math.dist(row, mean) ** 2 for row in inside)
        floor = MIN_DEVIATION * math.sqrt(len(mean))
        return cls(mean, spread, max(math.sqrt(square), floor), len(inside), median, deviation, len(rows))

    def is_outlier(self, row: Scores) -> bool:
        """Whether a segment with these scores is one."""
        return _is_outlier(row, self.median, self.deviation, self.judged)

    def distance(self, row: Scores) -> float:
        """Euclidean distance from the mean, 0 to 10 sqrt(5)."""
        return math.dist(row, self.mean)


def _is_outlier(row: Scores, median: Scores, deviation: Scores, count: int) -> bool:
    if count < MIN_COUNT:
        return False
    return any(abs(x - m) > OUTLIER_LIMIT * d for x, m, d in zip(row, median, deviation, strict=True))


def _five(values: Iterable[float]) -> Scores:
    first, second, third, fourth, fifth = values
    return (float(first), float(second), float(third), float(fourth), float(fifth))
