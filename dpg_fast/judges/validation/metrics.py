"""Figures of judged answers that papers report: DPG's prompted against assessed scores, PersLLM's accuracy and rankings.

PersLLM's distinction of characters (BLEU) is in `dpg_fast.personified.evaluate.bleu`, NPTI's means and variances are in
`dpg_fast.evaluation.figures`. Where a paper does not say how, the definition is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval, bootstrap_all, mean_of, pearson, ranks, spearman

LEVELS = tuple(range(int(MIN_SCORE), int(MAX_SCORE) + 1))

# ------------------------------------------------------------------ DPG: prompted against assessed


@dataclass(frozen=True)
class Fidelity:
    """How assessed scores follow the prompted ones, of one trait or (mean) over traits.

    Attributes:
        n: pairs of scores.
        mae: mean absolute difference.
        exact, within_one: shares whose difference, of the assessed score rounded to a whole level, is 0, or at most 1.
        pearson, spearman: nan where one side has no spread.
    """

    n: int
    mae: float
    exact: float
    within_one: float
    pearson: float
    spearman: float


@dataclass(frozen=True)
class PromptedAssessed:
    """DPG's comparison: each trait, the mean over traits, and per trait the counts [prompted level, assessed level].

    The counts are 11 x 11, both axes -5 to 5; scores between levels count at the nearest one (halves away from 0).
    """

    traits: dict[Trait, Fidelity]
    mean: Fidelity
    confusion: dict[Trait, NDArray[np.int64]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; undefined correlations are None."""
        found: dict[str, Any] = json_ready(self)
        return found


_LEAST = 3  # people: a correlation of two is 1 or -1, whatever they are


def compare_prompted(prompted: ArrayLike, assessed: ArrayLike) -> PromptedAssessed:
    """Compare scores in -5..5, both [people, 5] in OCEAN order; an assessed score may be nan (not judged).

    The mean is over the traits, correlations over those that have one.

    Raises:
        ValueError: other shapes, no people, a prompted score that is not finite, or one out of range.
    """
    asked, found = np.asarray(prompted, dtype=np.float64), np.asarray(assessed, dtype=np.float64)
    if asked.shape != found.shape or asked.ndim != 2 or asked.shape[1] != len(Trait) or not asked.shape[0]:
        raise DPGError(f"both are [people, 5]: {list(asked.shape)} and {list(found.shape)}")
    if not np.isfinite(asked).all():
        raise DPGError("every prompted score must be a number")
    if np.nanmax(np.abs(np.concatenate([asked, found]))) > MAX_SCORE + 1e-6:
        raise DPGError("scores lie in -5..5")
    traits, confusion = {}, {}
    for trait in Trait:
        x, y = asked[:, trait.position], found[:, trait.position]
        kept = np.isfinite(y)
        x, y = x[kept], y[kept]
        confusion[trait] = level_counts(x, y)
        if x.size:
            gap = np.abs(x - nearest_level(y))
            traits[trait] = Fidelity(
                int(x.size),
                float(np.abs(x - y).mean()),
                float((gap < 1e-9).mean()),
                float((gap <= 1 + 1e-9).mean()),
                *((pearson(x, y), spearman(x, y)) if x.size >= _LEAST else (math.nan, math.nan)),
            )
    if not traits:
        raise DPGError("nobody was assessed on any trait")
    rows = [[v.mae, v.exact, v.within_one, v.pearson, v.spearman] for v in traits.values()]
    means = map(mean_of, zip(*rows, strict=True))
    return PromptedAssessed(traits, Fidelity(sum(v.n for v in traits.values()), *means), confusion)


def level_counts(prompted: ArrayLike, assessed: ArrayLike) -> NDArray[np.int64]:
    """[11, 11] how often each prompted level was assessed as which level; pairs with nan are left out."""
    x, y = np.asarray(prompted, dtype=np.float64), np.asarray(assessed, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    counts = np.zeros((len(LEVELS), len(LEVELS)), dtype=np.int64)
    np.add.at(counts, (nearest_level(x[kept]) - LEVELS[0], nearest_level(y[kept]) - LEVELS[0]), 1)
    return counts


def nearest_level(scores: ArrayLike) -> NDArray[np.int64]:
    """Scores rounded to whole levels -5..5, halves away from 0."""
    x = np.asarray(scores, dtype=np.float64)
    rounded = np.sign(x) * np.floor(np.abs(x) + 0.5)
    return np.clip(rounded, MIN_SCORE, MAX_SCORE).astype(np.int64)


# ------------------------------------------------------------------ PersLLM: accuracy and ranking


@dataclass(frozen=True)
class Accuracy:
    """Mean agreement of answers with their references, 0..5, by kind of item.

    Attributes:
        by_kind: kind -> mean rating. counts: kind -> items.
        weighted: mean over all items, so that each kind weighs as many items as it has.
        share: weighted / 5.
    """

    by_kind: dict[str, float]
    counts: dict[str, int]
    weighted: float
    share: float


def accuracy(ratings: Iterable[tuple[str, float]], *, skip: Sequence[str] = ("neither",)) -> Accuracy:
    """Aggregate (kind, rating 0..5) pairs: PersLLM's knowledge and attitude accuracy.

    Args:
        ratings: kind in any case ("Knowledge", "Attitude", "Neither"), 0 (conflict) to 5 (identical).
        skip: kinds that are left out.

    Raises:
        ValueError: nothing is left, or a rating is out of range.
    """
    kinds: dict[str, list[float]] = {}
    for kind, rating in ratings:
        if kind.strip().lower() not in skip:
            kinds.setdefault(kind.strip().lower(), []).append(rating)
    every = [value for values in kinds.values() for value in values]
    if not every or not all(0 <= value <= 5 for value in every):
        raise DPGError("accuracy needs at least one rating, and ratings in 0..5")
    weighted = float(np.mean(every))
    return Accuracy(
        {kind: float(np.mean(values)) for kind, values in kinds.items()},
        {kind: len(values) for kind, values in kinds.items()},
        weighted,
        weighted / 5,
    )


@dataclass(frozen=True)
class Ranking:
    """How systems rank over many questions; 1 is best.

    Attributes:
        mean_rank: system -> mean rank with its 95 % bootstrap interval over questions; ties share their mean rank.
        first: system -> share of questions in which none is better (ties for the first place count for each).
        wins: (a, b) -> share of questions in which a is better than b, ties counting half.
        questions: how many.
    """

    mean_rank: dict[str, Interval]
    first: dict[str, float]
    wins: dict[tuple[str, str], float]
    questions: int


def rank_systems(rankings: Sequence[Mapping[str, float]], *, resamples: int = 1000, seed: int = 0) -> Ranking:
    """Aggregate rankings with ties, one of the same systems for each question: {"A": 1, "B": 1, "C": 2} ties A and B.

    Raises:
        ValueError: no rankings, fewer than two systems, or not always the same ones.
    """
    if not rankings or len(rankings[0]) < 2:
        raise DPGError("a ranking needs at least one question and two systems")
    systems = sorted(rankings[0])
    for number, row in enumerate(rankings, 1):
        if sorted(row) != systems:
            raise DPGError(f"ranking {number} is of {sorted(row)}, the first one of {systems}")
    given = np.array([[row[name] for name in systems] for row in rankings], dtype=np.float64)
    if not np.isfinite(given).all():
        raise DPGError("ranks must be numbers")
    places = ranks(given.T).T
    drawn = bootstrap_all(lambda rows: places[rows].mean(axis=0), len(places), resamples=resamples, seed=seed)
    means = dict(zip(systems, drawn, strict=True))
    best = given == given.min(axis=1, keepdims=True)
    wins = {
        (systems[i], systems[j]): float(((given[:, i] < given[:, j]) + 0.5 * (given[:, i] == given[:, j])).mean())
        for i, j in permutations(range(len(systems)), 2)
    }
    return Ranking(means, {name: float(best[:, i].mean()) for i, name in enumerate(systems)}, wins, len(rankings))
