"""On the way from one personality to another: does the judged score move steadily?

Eleven people stand on the line between two; each answers the same held-back questions of every trait that differs between the
two, judged on that trait. How evenly a score follows is said by Spearman's correlation over the steps' means, by the share of
pairs of steps that are in the right order, and by the largest step in the wrong direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.cases import Case, JudgedCases
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.stats import Interval, bootstrap_all, spearman

STEPS = 11
#: one trait alone, two together, three together
PAIRS = ("E-5 > E+5", "O-5 C+5 > O+5 C-5", "C-5 A-5 N+5 > C+5 A+5 N-5")


@dataclass(frozen=True)
class InterpolationLine:
    """From one personality to another.

    Attributes:
        label: of reports.
        people: at equal distances, both ends included.
        traits: that differ.
    """

    label: str
    people: tuple[Personality, ...]
    traits: tuple[Trait, ...]


def parse_line(text: str, steps: int = STEPS) -> InterpolationLine:
    """``"E-5 > E+5"`` as a line.

    Raises:
        ValueError: not two different personalities.
    """
    first, sign, last = text.partition(">")
    if not sign or ">" in last:
        raise DPGError(f'a pair of personalities is written like "E-5 N+2 > E+5", not {text!r}')
    start, end = Personality(first.strip()), Personality(last.strip())
    traits = tuple(trait for trait in Trait if start.scores[trait.position] != end.scores[trait.position])
    if not traits:
        raise DPGError(f"{text!r}: the two are the same")
    if steps < 3:
        raise DPGError(f"a line has at least three steps, not {steps}")
    people = tuple(start.blend(end, step / (steps - 1)) for step in range(steps))
    return InterpolationLine(f"{start} → {end}", people, traits)


def line_cases(line: InterpolationLine, questions: Mapping[Trait, Sequence[str]]) -> list[Case]:
    """Everybody on the line, asked the questions of every trait that changes: trait, then step, then question."""
    return [
        Case(person, question, (trait,))
        for trait in line.traits
        for person in line.people
        for question in questions[trait]
    ]


@dataclass(frozen=True)
class TraitLine:
    """One trait on the way.

    Attributes:
        asked: float64 [steps], levels asked for.
        means: float64 [steps], mean judged scores; nan where nothing was judged.
        low, high: float64 [steps], bounds of their 95% bootstrap intervals over questions.
        spearman: between step and mean, signed so that 1 is the way asked for; questions resampled.
        ordered: share of pairs of steps whose means are in the order asked for; questions resampled.
        wrong: largest step of the mean in the wrong direction; 0 if it never turns back.
        change: mean at the end minus mean at the start, signed so that positive is the way asked for.
    """

    asked: NDArray[np.float64]
    means: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    spearman: Interval
    ordered: Interval
    wrong: float
    change: Interval


def line_figures(
    line: InterpolationLine, cases: Sequence[Case], judged: JudgedCases, *, resamples: int = 1000, seed: int = 0
) -> dict[Trait, TraitLine]:
    """The figures of one method on one line; ``cases`` are those of :func:`line_cases`."""
    found = {}
    for trait in line.traits:
        rows = [row for row, case in enumerate(cases) if case.traits == (trait,)]
        table = judged.scores[rows, trait.position].reshape(len(line.people), -1)
        asked = np.array([person.scores[trait.position] for person in line.people])
        found[trait] = _trait(asked, table, resamples, seed)
    return found


def _trait(asked: NDArray[np.float64], table: NDArray[np.float64], resamples: int, seed: int) -> TraitLine:
    sign = float(np.sign(asked[-1] - asked[0]))

    def statistics(rows: NDArray[np.int64]) -> list[float]:
        own = sign * _means(table[:, rows])
        return [spearman(np.arange(own.size), own), _ordered(own), float(own[-1] - own[0]), *(sign * own)]

    order, ordered, change, *steps = bootstrap_all(statistics, table.shape[1], resamples=resamples, seed=seed)
    means, low, high = np.array([[step.estimate, step.low, step.high] for step in steps]).T
    back = -np.diff(means) * sign
    wrong = float(max(0.0, np.nanmax(back))) if np.isfinite(back).any() else math.nan
    return TraitLine(asked, means, low, high, order, ordered, wrong, change)


def _means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(table)
    sums = np.where(there, table, 0.0).sum(1)
    return np.where(there.any(1), sums / np.maximum(there.sum(1), 1), np.nan)


def _ordered(means: NDArray[np.float64]) -> float:
    """Share of pairs of steps that rise; ties count half."""
    kept = means[np.isfinite(means)]
    first, second = np.triu_indices(len(kept), 1)
    rises = kept[second] - kept[first]
    return float(((rises > 0) + 0.5 * (rises == 0)).mean()) if rises.size else math.nan
