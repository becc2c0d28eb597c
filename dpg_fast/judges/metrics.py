"""The figures that the three papers report, and how they are computed here.

DPG: prompted against assessed scores, a character's personality centre and spread. NPTI: mean and variance of a trait's
ratings beside fluency. PersLLM: how distinct characters and stages are (BLEU), knowledge and attitude accuracy, rankings.
Where a paper does not say how (docstrings name it), the definition is this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Personality, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reliability import bootstrap_rows, matrix_of, mean_ranks, pearson, spearman
from dpg_fast.util.stats import Interval

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

        def plain(value: Fidelity) -> dict[str, Any]:
            return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(value).items()}

        return {
            "traits": {trait.value: plain(value) for trait, value in self.traits.items()},
            "mean": plain(self.mean),
            "confusion": {trait.value: counts.tolist() for trait, counts in self.confusion.items()},
        }


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
        level_x, level_y = nearest_level(x), nearest_level(y)
        counts = np.zeros((len(LEVELS), len(LEVELS)), dtype=np.int64)
        np.add.at(counts, (level_x - LEVELS[0], level_y - LEVELS[0]), 1)
        confusion[trait] = counts
        if x.size:
            gap = np.abs(x - level_y)
            enough = x.size > 1
            traits[trait] = Fidelity(
                int(x.size),
                float(np.abs(x - y).mean()),
                float((gap < 1e-9).mean()),
                float((gap <= 1 + 1e-9).mean()),
                pearson(x, y) if enough else math.nan,
                spearman(x, y) if enough else math.nan,
            )
    if not traits:
        raise DPGError("nobody was assessed on any trait")
    rows = np.array([[v.mae, v.exact, v.within_one, v.pearson, v.spearman] for v in traits.values()])
    defined = np.isfinite(rows)
    means = [float(c[d].mean()) if d.any() else math.nan for c, d in zip(rows.T, defined.T, strict=True)]
    return PromptedAssessed(traits, Fidelity(sum(v.n for v in traits.values()), *means), confusion)


def nearest_level(scores: ArrayLike) -> NDArray[np.int64]:
    """Scores rounded to whole levels -5..5, halves away from 0."""
    x = np.asarray(scores, dtype=np.float64)
    rounded = np.sign(x) * np.floor(np.abs(x) + 0.5)
    return np.clip(rounded, MIN_SCORE, MAX_SCORE).astype(np.int64)


@dataclass(frozen=True)
class Centre:
    """A character's personality centre (mean of each trait over its assessed segments) and spread (n - 1 deviation)."""

    centre: Personality
    spread: dict[Trait, float]
    segments: int


def personality_centre(scores: ArrayLike) -> Centre:
    """The centre of [segments, 5] scores in -5..5. DPG shows it as mu; that it is the mean is our reading.

    Raises:
        ValueError: no segments, another shape, or missing values.
    """
    matrix = matrix_of(scores, rows=1, columns=len(Trait))
    spread = matrix.std(axis=0, ddof=1) if matrix.shape[0] > 1 else np.full(len(Trait), math.nan)
    return Centre(
        Personality.clipped(matrix.mean(axis=0).tolist()),
        {trait: float(spread[trait.position]) for trait in Trait},
        matrix.shape[0],
    )


# ------------------------------------------------------------------ NPTI: mean, variance, fluency


@dataclass(frozen=True)
class TraitInduction:
    """NPTI's figures for one trait; ratings 1..5.

    Attributes:
        high, low: mean rating of the trait in answers of its high and low pole.
        variance_high, variance_low: over answers (n - 1); lower is steadier.
        mean: high + (6 - low), up to 10: reconstructed, since the paper's formula is not public.
        variance: mean of both poles' variances.
        fluency: sum of both poles' mean fluency, up to 10 (reconstructed); None without ratings.
    """

    high: float
    low: float
    variance_high: float
    variance_low: float
    mean: float
    variance: float
    fluency: float | None


def trait_induction(
    high: ArrayLike, low: ArrayLike, fluency_high: ArrayLike | None = None, fluency_low: ArrayLike | None = None
) -> TraitInduction:
    """NPTI's mean and variance with fluency, from ratings of the answers of both poles.

    Raises:
        ValueError: a pole without two ratings, ratings out of 1..5, or fluency of one pole only.
    """
    if (fluency_high is None) != (fluency_low is None):
        raise DPGError("fluency is rated for both poles or for none")
    h, lo = _ratings(high, "high"), _ratings(low, "low")
    if min(h.size, lo.size) < 2:
        raise DPGError("a variance needs at least two ratings of each pole")
    fluency = None
    if fluency_high is not None and fluency_low is not None:
        fluency = float(_ratings(fluency_high, "fluency").mean() + _ratings(fluency_low, "fluency").mean())
    variances = float(h.var(ddof=1)), float(lo.var(ddof=1))
    means = float(h.mean()), float(lo.mean())
    return TraitInduction(*means, *variances, means[0] + 6 - means[1], sum(variances) / 2, fluency)


def _ratings(values: ArrayLike, what: str, lowest: float = 1, highest: float = 5) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).ravel()
    if not x.size or not ((x >= lowest) & (x <= highest)).all():
        raise DPGError(f"{what}: ratings in {lowest:g}..{highest:g} are needed, at least one")
    return x


# ------------------------------------------------------------------ PersLLM: distinction


@dataclass(frozen=True)
class Distinction:
    """PersLLM's BLEU table, 0..100. A system that tells people apart has Intra > Stage > Inter.

    Attributes:
        intra: character -> two samples of the same character and stage, mean over stages.
        stage: character -> two stages of the same character; absent with one stage.
        inter: character -> mean over the other characters, same stage where both have it.
        mean: of intra, stage and inter over characters (None where no character has one).
    """

    intra: dict[str, float]
    stage: dict[str, float]
    inter: dict[str, float]
    mean: dict[str, float | None]


def distinction(samples: Mapping[str, Mapping[str, Sequence[Sequence[str]]]]) -> Distinction:
    """Intra, Stage and Inter BLEU of answers to the same questions.

    The paper does not say which text is the reference: here a pair of samples has the mean of both directions, corpus BLEU of
    sacrebleu's default. Stage and Inter compare first samples.

    Args:
        samples: character -> stage -> samples -> answers, all to the same questions in the same order.

    Raises:
        ImportError: sacrebleu is not installed.
        ValueError: no characters, or lists of answers of different length.
    """
    sizes = {len(texts) for stages in samples.values() for runs in stages.values() for texts in runs}
    if len(sizes) != 1 or 0 in sizes:
        raise DPGError(f"every sample answers the same questions, at least one; found lengths {sorted(sizes)}")
    intra, stage, inter = {}, {}, {}
    for name, stages in samples.items():
        pairs = [pair_bleu(runs[0], runs[1]) for runs in stages.values() if len(runs) > 1]
        if pairs:
            intra[name] = float(np.mean(pairs))
        firsts = [runs[0] for runs in stages.values() if runs]
        across = [pair_bleu(a, b) for i, a in enumerate(firsts) for b in firsts[i + 1 :]]
        if across:
            stage[name] = float(np.mean(across))
        others = []
        for other, their in samples.items():
            if other != name:
                shared = [s for s in stages if s in their and stages[s] and their[s]]
                same = [(stages[s][0], their[s][0]) for s in shared]
                every = same or [(a, runs[0]) for a in firsts for runs in their.values() if runs]
                others.append(float(np.mean([pair_bleu(a, b) for a, b in every])))
        if others:
            inter[name] = float(np.mean(others))
    means = {
        key: float(np.mean(list(found.values()))) if found else None
        for key, found in (("intra", intra), ("stage", stage), ("inter", inter))
    }
    return Distinction(intra, stage, inter, means)


def pair_bleu(a: Sequence[str], b: Sequence[str]) -> float:
    """Corpus BLEU (0..100) of two lists of answers, mean of both directions.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise ImportError("BLEU needs the package sacrebleu: pip install sacrebleu") from error
    forward = sacrebleu.corpus_bleu(list(a), [list(b)]).score
    return float((forward + sacrebleu.corpus_bleu(list(b), [list(a)]).score) / 2)


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
    everything = _ratings([value for values in kinds.values() for value in values], "accuracy", 0, 5)
    weighted = float(everything.mean())
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
    ranks = np.stack([mean_ranks(row) for row in given])
    means = {
        name: bootstrap_rows(lambda rows: float(rows.mean()), ranks[:, [i]], resamples=resamples, seed=seed)
        for i, name in enumerate(systems)
    }
    best = given == given.min(axis=1, keepdims=True)
    wins = {
        (systems[i], systems[j]): float(((given[:, i] < given[:, j]) + 0.5 * (given[:, i] == given[:, j])).mean())
        for i, j in permutations(range(len(systems)), 2)
    }
    return Ranking(means, {name: float(best[:, i].mean()) for i, name in enumerate(systems)}, wins, len(rankings))
