"""The figures of an evaluation: NPTI's means and variances, correlations with the level asked for, cross-trait responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.protocol import Results
from dpg_fast.personality.scores import Trait
from dpg_fast.text.fluency import Likelihood, perplexity
from dpg_fast.util.stats import Interval
from dpg_fast.util.store import Row

Scores = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class LevelFigures:
    """Answers at one requested level.

    Attributes:
        level: asked for.
        score: mean judged score, -5..5; nan if none could be judged.
        judged, asked: answers with a score, and all.
        perplexity: under the bare model.
        repetition, empty: shares.
        fluency: the judge's mean rating, 1 to 5, if it gives one.
    """

    level: float
    score: float
    judged: int
    asked: int
    perplexity: float
    repetition: float
    empty: float
    fluency: float | None


@dataclass(frozen=True)
class TraitFigures:
    """How one method moves one trait.

    Attributes:
        levels: ascending.
        spearman: between requested level and judged score over all answers; questions resampled.
        spearman_means: the same between levels and mean scores.
        difference: judged score at the highest level minus that at the lowest, over questions; questions resampled.
        high, low: mean ratings on the 1 to 5 scale at the two ends.
        variance_high, variance_low: of the ratings there, over the test questions.
    """

    levels: tuple[LevelFigures, ...]
    spearman: Interval
    spearman_means: float
    difference: Interval
    high: float
    low: float
    variance_high: float
    variance_low: float

    @property
    def trait_score(self) -> float:
        """High pole's rating plus (6 - low pole's), 2 to 10: the published scale as reconstructed, not as documented."""
        return self.high + 6.0 - self.low


@dataclass(frozen=True)
class MethodFigures:
    """All figures of one method.

    Attributes:
        traits: of the plan.
        cross: [i][j] change of judged trait j when trait i goes from the lowest to the highest level; None if not judged.
        perplexity, repetition, empty, fluency: over the answers at the two ends of all traits.
    """

    name: str
    description: str
    traits: dict[Trait, TraitFigures]
    cross: dict[Trait, dict[Trait, Interval]] | None
    perplexity: float
    repetition: float
    empty: float
    fluency: float | None

    @property
    def trait_score(self) -> float:
        """Mean over traits of the reconstructed 2 to 10 score."""
        return float(np.mean([figures.trait_score for figures in self.traits.values()]))

    @property
    def variance(self) -> float:
        """Mean over traits and poles of the variance over test questions, in squared rating points."""
        return float(np.mean([(f.variance_high + f.variance_low) / 2 for f in self.traits.values()]))


def method_figures(results: Results, method: str, *, seed: int = 0) -> MethodFigures:
    """Compute everything about one method."""
    plan = results.plan
    ends = [row for trait in plan.traits for level in plan.ends for row in results.cell(method, trait, level)]
    cross = None
    if plan.cross:
        cross = {
            moved: {judged: _difference(results, method, moved, judged, seed) for judged in plan.traits}
            for moved in plan.traits
        }
    return MethodFigures(
        method,
        results.descriptions[method],
        {trait: _trait(results, method, trait, seed) for trait in plan.traits},
        cross,
        _perplexity(ends),
        float(np.mean([row["repetition"] for row in ends])),
        float(np.mean([row["empty"] for row in ends])),
        _fluency(ends),
    )


def spearman(levels: Scores, scores: Scores) -> float:
    """Rank correlation, ties sharing their mean rank; 0 where either does not vary at all.

    Raises:
        ImportError: scipy is missing.
    """
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise ImportError("evaluations need scipy: pip install 'dpg-fast[eval]'") from None
    if levels.size < 2 or np.ptp(levels) == 0 or np.ptp(scores) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(levels), rankdata(scores))[0, 1])


def mean_spearman(results: Results, method: str, *, seed: int = 0) -> Interval:
    """Mean over traits of Spearman between level and judged score over answers; each trait's questions resampled."""
    return _over_traits(results, [method], seed)


def mean_difference(results: Results, first: str, second: str, *, seed: int = 0) -> Interval:
    """Mean Spearman of the first method minus that of the second, the same questions drawn for both (paired bootstrap)."""
    return _over_traits(results, [first, second], seed)


def _over_traits(results: Results, methods: Sequence[str], seed: int) -> Interval:
    """Mean over traits of the first method's correlation, minus the second's if there is one."""
    levels = np.asarray(results.plan.levels, dtype=np.float64)
    tables = [[_table(results, method, trait) for method in methods] for trait in results.plan.traits]

    def statistic(draws: Sequence[NDArray[np.int64]]) -> float:
        values = [
            [pooled_spearman(levels, table[:, rows]) for table in own] for own, rows in zip(tables, draws, strict=True)
        ]
        return float(np.mean([row[0] - (row[1] if len(row) > 1 else 0.0) for row in values]))

    sizes = [own[0].shape[1] for own in tables]
    generator = np.random.default_rng(seed)
    drawn = [statistic([generator.integers(size, size=size) for size in sizes]) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(statistic([np.arange(size) for size in sizes]), float(low), float(high), 0.95, RESAMPLES)


def _table(results: Results, method: str, trait: Trait) -> Scores:
    """[levels, questions]; nan where nothing was judged."""
    return np.array([_scores(results.cell(method, trait, level), trait) for level in results.plan.levels])


def pooled_spearman(levels: Scores, table: Scores) -> float:
    """Between levels [n] and all the scores [n, questions] given there; nan stands for no score."""
    there = ~np.isnan(table)
    return spearman(np.broadcast_to(levels[:, None], table.shape)[there], table[there])


def _trait(results: Results, method: str, trait: Trait, seed: int) -> TraitFigures:
    plan = results.plan
    table = _table(results, method, trait)
    levels = np.asarray(plan.levels, dtype=np.float64)

    def pooled(questions: NDArray[np.int64]) -> float:
        return pooled_spearman(levels, table[:, questions])

    means = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in table])
    seen = ~np.isnan(means)
    lowest, highest = (_ratings(table[i]) for i in (0, -1))
    return TraitFigures(
        tuple(_level(results.cell(method, trait, level), trait, level) for level in plan.levels),
        _resample(pooled, table.shape[1], seed),
        spearman(levels[seen], means[seen]),
        _difference(results, method, trait, trait, seed),
        _mean(highest),
        _mean(lowest),
        _variance(highest),
        _variance(lowest),
    )


def _difference(results: Results, method: str, moved: Trait, judged: Trait, seed: int) -> Interval:
    low, high = (_scores(results.cell(method, moved, level), judged) for level in results.plan.ends)
    change = high - low
    change = change[~np.isnan(change)]
    if change.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0.95, 0)
    return _resample(lambda drawn: float(change[drawn].mean()), change.size, seed)


def _resample(statistic: Callable[[NDArray[np.int64]], float], questions: int, seed: int) -> Interval:
    """A statistic of all questions, and its 95% percentile interval over questions drawn with replacement."""
    generator = np.random.default_rng(seed)
    draws = [statistic(generator.integers(questions, size=questions)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(statistic(np.arange(questions)), float(low), float(high), 0.95, RESAMPLES)


def _level(rows: Sequence[Row], trait: Trait, level: float) -> LevelFigures:
    scores = _scores(rows, trait)
    judged = scores[~np.isnan(scores)]
    return LevelFigures(
        float(level),
        _mean(judged),
        judged.size,
        len(rows),
        _perplexity(rows),
        float(np.mean([row["repetition"] for row in rows])),
        float(np.mean([row["empty"] for row in rows])),
        _fluency(rows),
    )


def _scores(rows: Sequence[Row], trait: Trait) -> Scores:
    return np.array([row["scores"].get(trait.value, np.nan) for row in rows], dtype=np.float64)


def _ratings(scores: Scores) -> Scores:
    """Scores in -5..5 on the paper's scale from 1 to 5; those that are there."""
    return scores[~np.isnan(scores)] / 2.5 + 3.0


def _mean(values: Scores) -> float:
    return float(values.mean()) if values.size else math.nan


def _variance(values: Scores) -> float:
    return float(values.var(ddof=1)) if values.size > 1 else math.nan


def _perplexity(rows: Sequence[Row]) -> float:
    return perplexity([Likelihood(row["log_likelihood"], row["tokens"]) for row in rows])


def _fluency(rows: Sequence[Row]) -> float | None:
    ratings = [row["rated_fluency"] for row in rows if row["rated_fluency"] is not None]
    return float(np.mean(ratings)) if ratings else None
