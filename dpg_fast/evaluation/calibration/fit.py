"""From a sweep to level -> strength: a monotone dose-response curve, its inverse, and the bounds that fluency sets.

Why: docs/decisions.md, "Levels are shares of what can be reached".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.calibration.sweep import Sweep
from dpg_fast.model.calibration import PoleCurve
from dpg_fast.personality.scores import MAX_SCORE, Pole
from dpg_fast.text.fluency import Likelihood, perplexity
from dpg_fast.util.errors import DPGError
from dpg_fast.util.stats import mean_interval

_NEAR = 0.25  # a judged score this close to a level counts as that level
_ANCHOR = 1e9  # weight of the point at strength 0, whose shift is 0 by definition
END, NO_EFFECT, SATURATED = "end of the sweep", "no effect", "effect grows no further"
NOT_JUDGED = "no answer could be judged"


@dataclass(frozen=True)
class Guard:
    """How far answers may decline before a strength counts as unusable, against the bare model on the same questions.

    Args:
        perplexity_ratio: perplexity of the answers under the bare model, over that of its own answers.
        repetition: rise of the share of repeated word 4-grams.
        empty: rise of the share of empty answers.
    """

    perplexity_ratio: float = 2.5
    repetition: float = 0.1
    empty: float = 0.1

    def __post_init__(self) -> None:
        if not self.perplexity_ratio > 1:
            raise DPGError(f"the perplexity ratio of the guard must be above 1, got {self.perplexity_ratio}")
        if not (self.repetition > 0 and self.empty > 0):
            raise DPGError(f"the guard's rises must be above 0, got {self.repetition} and {self.empty}")


@dataclass(frozen=True)
class DosePoint:
    """Answers towards one pole at one strength.

    Attributes:
        strength: of the steering; 0 is the bare model.
        answers: how many were judged; with none of them score and shift are nan.
        score: mean judged score, -5..5.
        shift: mean over questions of the change of the score against the bare model, towards the pole (positive: that way).
        low, high: 95% bootstrap interval of the shift, questions resampled.
        perplexity: of the answers under the bare model.
        repetition: share of repeated word 4-grams.
        empty: share of empty answers.
        fluency: the judge's mean rating, 1 to 5, if it gives one.
    """

    strength: float
    answers: int
    score: float
    shift: float
    low: float
    high: float
    perplexity: float
    repetition: float
    empty: float
    fluency: float | None = None


@dataclass(frozen=True)
class PoleFit:
    """The fitted curve of a pole and how far it can be trusted.

    Attributes:
        curve: level -> strength, with all of this in its ``fitted``.
        points: of the sweep, the bare model first.
        usable: largest strength that the guard allows.
        limited_by: what bounds the strengths: "perplexity", "repetition", "empty answers", "end of the sweep", "effect grows
            no further", "no answer could be judged", or "no effect".
        largest_shift: fitted shift at level 5.
        reached: judged score at level 5: the bare score moved by that.
        beyond_reach: levels of 1 to 5 (negative for a low pole) that answers are not judged to have, whatever is asked.
    """

    curve: PoleCurve
    points: tuple[DosePoint, ...]
    usable: float
    limited_by: str
    largest_shift: float
    reached: float
    beyond_reach: tuple[int, ...]


def isotonic(values: Sequence[float], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """The non-decreasing sequence closest to ``values`` (least squares, pool adjacent violators).

    Raises:
        ImportError: scipy is missing.
    """
    try:
        from scipy.optimize import isotonic_regression
    except ImportError:
        raise ImportError("calibration needs scipy 1.12 or newer: pip install 'dpg-fast[eval]'") from None
    fitted: NDArray[np.float64] = isotonic_regression(np.asarray(values, dtype=np.float64), weights=weights).x
    return fitted


def monotone_knots(
    strengths: Sequence[float], shifts: Sequence[float], usable: float
) -> tuple[tuple[tuple[float, float], ...], float]:
    """Knots of level -> strength such that level L has the smallest strength whose fitted shift is L / 5 of the largest.

    Args:
        strengths: n, ascending, the first 0.
        shifts: n measured shifts towards the pole; that of strength 0 counts as 0.
        usable: only strengths up to this are used.

    Returns:
        Knots as :class:`dpg_fast.model.calibration.PoleCurve` takes them, and the largest usable shift. Where that is 0
        (no effect) the knots are the straight line to ``usable``.
    """
    if len(strengths) != len(shifts) or len(strengths) < 2 or strengths[0] != 0:
        raise DPGError("a fit needs strengths and shifts of one length, at least two, the first strength 0")
    fitted = fitted_shifts(shifts)
    x = np.asarray(strengths, dtype=np.float64)
    at_end = float(np.interp(usable, x, fitted))
    inside = x < usable
    x, fitted = np.append(x[inside], usable), np.append(fitted[inside], at_end)
    if at_end <= 1e-9:
        return ((0.0, 0.0), (MAX_SCORE, float(usable))), 0.0
    levels = MAX_SCORE * fitted / at_end
    knots: list[tuple[float, float]] = []
    for level, strength in zip(levels.tolist(), x.tolist(), strict=True):
        level = MAX_SCORE if level >= MAX_SCORE - 1e-9 else level
        if len(knots) >= 2 and knots[-1][0] == knots[-2][0] == level:
            knots.pop()  # of a flat stretch the two ends
        knots.append((level, strength))
        if level == MAX_SCORE:
            break
    return tuple(knots), at_end


def fitted_shifts(shifts: Sequence[float]) -> NDArray[np.float64]:
    """The monotone curve through measured shifts, 0 at the first of them (strength 0)."""
    fitted = isotonic([0.0, *shifts[1:]], [_ANCHOR] + [1.0] * (len(shifts) - 1))
    fitted = np.maximum(fitted, 0.0)
    fitted[fitted < 1e-6] = 0.0  # what the anchor's finite weight leaves
    return fitted


def usable_strength(points: Sequence[DosePoint], guard: Guard) -> tuple[float, str]:
    """The largest strength whose fluency passes the guard, and what bounds it. Fluency is made monotone, then interpolated."""
    bare = points[0]
    x = [point.strength for point in points]
    measures = {
        "perplexity": (
            [_ratio(point.perplexity, bare.perplexity) for point in points],
            math.log(guard.perplexity_ratio),
        ),
        "repetition": ([point.repetition - bare.repetition for point in points], guard.repetition),
        "empty answers": ([point.empty - bare.empty for point in points], guard.empty),
    }
    best, by = x[-1], END
    for name, (values, limit) in measures.items():
        declines = fitted_shifts(values)
        over = np.flatnonzero(declines > limit)
        if over.size == 0:
            continue
        i = int(over[0])
        share = (limit - declines[i - 1]) / (declines[i] - declines[i - 1])
        strength = x[i - 1] + float(share) * (x[i] - x[i - 1])
        if strength < best:
            best, by = strength, name
    return best, by


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None


def _ratio(value: float, bare: float) -> float:
    """Logarithm of the ratio of perplexities; answers without tokens have none, and count as empty instead."""
    return math.log(value / bare) if math.isfinite(value) and math.isfinite(bare) else 0.0


def dose_points(sweep: Sweep, pole: Pole, *, seed: int = 0) -> tuple[DosePoint, ...]:
    """The sweep's figures for one pole, the bare model first.

    Raises:
        ValueError: no answer of the bare model could be judged.
    """
    trait, sign = pole.trait.value, 1.0 if pole.high else -1.0
    bare = sweep.bare[pole.trait]
    points = []
    for strength, rows in ((0.0, bare), *((s, sweep.steered[pole][s]) for s in sweep.strengths)):
        both = [q for q in rows if trait in rows[q]["scores"] and trait in bare[q]["scores"]]
        if not both and strength == 0.0:
            raise DPGError(f"no answer of the bare model could be judged on {trait}: {rows}")
        scores = np.array([rows[q]["scores"][trait] for q in both])
        shifts = sign * (scores - np.array([bare[q]["scores"][trait] for q in both]))
        interval = mean_interval(shifts, seed=seed)
        ratings = [row["rated_fluency"] for row in rows.values() if row["rated_fluency"] is not None]
        points.append(
            DosePoint(
                strength,
                len(both),
                float(scores.mean()) if both else math.nan,
                interval.estimate + 0.0,
                interval.low + 0.0,
                interval.high + 0.0,
                perplexity([Likelihood(row["log_likelihood"], row["tokens"]) for row in rows.values()]),
                float(np.mean([row["repetition"] for row in rows.values()])),
                float(np.mean([row["empty"] for row in rows.values()])),
                float(np.mean(ratings)) if ratings else None,
            )
        )
    return tuple(points)


def fit_pole(
    points: Sequence[DosePoint],
    pole: Pole,
    guard: Guard | None = None,
    about: Mapping[str, Any] | None = None,
    *,
    without_effect: float = 1.0,
) -> PoleFit:
    """Fit one pole's curve to its part of a sweep.

    Args:
        points: the bare model first, then ascending strengths.
        pole: that they steer to.
        guard: bounds the usable strengths.
        about: kept in the curve's ``fitted`` (judge, settings).
        without_effect: strength at level 5 if no effect was found, as far as the guard allows it: more would cost fluency for
            nothing that was measured.

    Raises:
        ValueError: no steered answer could be judged.
    """
    guard = guard or Guard()
    judged = list(itertools.takewhile(lambda point: point.answers, points))
    if len(judged) < 2:
        raise DPGError(f"no answer towards {pole} could be judged, at any strength of the sweep; sweep smaller ones")
    usable, limited_by = usable_strength(judged, guard)
    if limited_by == END and len(judged) < len(points):
        limited_by = NOT_JUDGED
    knots, largest = monotone_knots([p.strength for p in judged], [p.shift for p in judged], usable)
    if largest == 0.0:
        limited_by, knots = NO_EFFECT, ((0.0, 0.0), (MAX_SCORE, min(usable, without_effect)))
    elif knots[-1][1] < usable - 1e-9:
        limited_by = SATURATED
    sign = 1 if pole.high else -1
    reached = points[0].score + sign * largest
    beyond = tuple(sign * level for level in range(1, int(MAX_SCORE) + 1) if sign * reached < level - _NEAR)
    fitted = {
        "usable_strength": round(usable, 6),
        "limited_by": limited_by,
        "bare_score": round(points[0].score, 4),
        "score_at_5": round(reached, 4),
        "largest_shift": round(largest, 4),
        "levels_beyond_reach": list(beyond),
        "guard": asdict(guard),
        "points": [{name: _plain(value) for name, value in asdict(point).items()} for point in points],
        **(about or {}),
    }
    rounded = tuple((round(level, 4), round(strength, 6)) for level, strength in knots)
    return PoleFit(PoleCurve(rounded, fitted), tuple(points), usable, limited_by, largest, reached, beyond)
