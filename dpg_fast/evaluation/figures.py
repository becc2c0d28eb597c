"""The figures of an evaluation: NPTI's means and variances, correlations with the level asked for, cross-trait responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.protocol import Results
from dpg_fast.personality.scores import Trait
from dpg_fast.text.fluency import Likelihood, perplexity
from dpg_fast.util.stats import Interval, bootstrap, mean_interval, mean_of, spearman, variance_of
from dpg_fast.util.store import Row

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]


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


def method_figures(results: Results, method: str, *, resamples: int = 1000, seed: int = 0) -> MethodFigures:
    """Compute everything about one method; ``resamples`` and ``seed`` are those of each bootstrap."""
    draw = {"resamples": resamples, "seed": seed}
    plan = results.plan
    ends = [row for trait in plan.traits for level in plan.ends for row in results.cell(method, trait, level)]
    cross = None
    if plan.cross:
        cross = {
            moved: {judged: _difference(results, method, moved, judged, draw) for judged in plan.traits}
            for moved in plan.traits
        }
    return MethodFigures(
        method,
        results.descriptions[method],
        {trait: _trait(results, method, trait, draw) for trait in plan.traits},
        cross,
        _perplexity(ends),
        float(np.mean([row["repetition"] for row in ends])),
        float(np.mean([row["empty"] for row in ends])),
        _fluency(ends),
    )


def mean_spearman(
    results: Results, method: str, *, minus: str | None = None, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean over traits of Spearman between level and judged score over answers; each trait's questions resampled.

    Args:
        results: of the evaluation.
        method: whose correlations.
        minus: another method, whose correlations are subtracted; the same questions are drawn for both (paired bootstrap).
        resamples, seed: of the bootstrap.
    """
    levels = np.asarray(results.plan.levels, dtype=np.float64)
    tables = [[score_table(results, name, trait) for name in (method, minus) if name] for trait in results.plan.traits]

    def statistic(*draws: Rows) -> float:
        found = [[pooled_spearman(levels, t[:, rows]) for t in own] for own, rows in zip(tables, draws, strict=True)]
        return mean_of(row[0] - sum(row[1:]) for row in found)

    return bootstrap(statistic, *(own[0].shape[1] for own in tables), resamples=resamples, seed=seed)


def score_table(results: Results, method: str, trait: Trait) -> Scores:
    """[levels, questions]; nan where nothing was judged."""
    return np.array([_scores(results.cell(method, trait, level), trait) for level in results.plan.levels])


def pooled_spearman(levels: Scores, table: Scores) -> float:
    """Between levels [n] and all the scores [n, questions] given there; nan stands for no score."""
    return spearman(np.broadcast_to(levels[:, None], table.shape), table)


def _trait(results: Results, method: str, trait: Trait, draw: dict[str, int]) -> TraitFigures:
    plan = results.plan
    table = score_table(results, method, trait)
    levels = np.asarray(plan.levels, dtype=np.float64)
    lowest, highest = (table[i][~np.isnan(table[i])] / 2.5 + 3.0 for i in (0, -1))  # on the paper's scale from 1 to 5
    return TraitFigures(
        tuple(_level(results.cell(method, trait, level), trait, level) for level in plan.levels),
        bootstrap(lambda rows: pooled_spearman(levels, table[:, rows]), table.shape[1], **draw),
        spearman(levels, [mean_of(row) for row in table]),
        _difference(results, method, trait, trait, draw),
        mean_of(highest),
        mean_of(lowest),
        variance_of(highest),
        variance_of(lowest),
    )


def _difference(results: Results, method: str, moved: Trait, judged: Trait, draw: dict[str, int]) -> Interval:
    low, high = (_scores(results.cell(method, moved, level), judged) for level in results.plan.ends)
    change = high - low
    return mean_interval(change[~np.isnan(change)], **draw)


def _level(rows: Sequence[Row], trait: Trait, level: float) -> LevelFigures:
    scores = _scores(rows, trait)
    judged = scores[~np.isnan(scores)]
    return LevelFigures(
        float(level),
        mean_of(judged),
        judged.size,
        len(rows),
        _perplexity(rows),
        float(np.mean([row["repetition"] for row in rows])),
        float(np.mean([row["empty"] for row in rows])),
        _fluency(rows),
    )


def _scores(rows: Sequence[Row], trait: Trait) -> Scores:
    return np.array([row["scores"].get(trait.value, np.nan) for row in rows], dtype=np.float64)


def _perplexity(rows: Sequence[Row]) -> float:
    return perplexity([Likelihood(row["log_likelihood"], row["tokens"]) for row in rows])


def _fluency(rows: Sequence[Row]) -> float | None:
    ratings = [row["rated_fluency"] for row in rows if row["rated_fluency"] is not None]
    return float(np.mean(ratings)) if ratings else None
