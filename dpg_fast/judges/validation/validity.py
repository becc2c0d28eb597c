"""Do different methods measure the same thing? Campbell and Fiske's multitrait-multimethod table, and who they disagree on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table as RichTable

from dpg_fast.judges.validation.metrics import LEVELS, nearest_level
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting.page import Table, bounds, number
from dpg_fast.reporting.render import on_terminal
from dpg_fast.util.errors import DPGError
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval, bootstrap, bootstrap_all, icc, mean_of, pearson, spearman, weighted_kappa


@dataclass(frozen=True)
class MultitraitMultimethod:
    """Correlations over people between all traits by all methods.

    Attributes:
        methods: names.
        traits: in OCEAN order.
        people: how many were scored by all methods.
        matrix: [methods * traits, methods * traits], method by method; nan where a score has no spread.
        convergent: (method, method, trait) -> the same trait by two methods, with its bootstrap interval over people.
        convergent_mean: their mean: should be high.
        heteromethod_mean: mean |r| of different traits by different methods: should be low.
        monomethod_mean: mean |r| of different traits by one method: halo, where high.
        passed: share of Campbell and Fiske's comparisons in which a convergent value exceeds |r| of a different trait by the
            other method in its row or column.
    """

    methods: tuple[str, ...]
    traits: tuple[Trait, ...]
    people: int
    matrix: NDArray[np.float64]
    convergent: dict[tuple[str, str, Trait], Interval]
    convergent_mean: float
    heteromethod_mean: float
    monomethod_mean: float
    passed: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; undefined values are None."""
        convergent = [
            {"methods": [one, two], "trait": trait, "r": v.estimate, "low": v.low, "high": v.high}
            for (one, two, trait), v in self.convergent.items()
        ]
        found: dict[str, Any] = json_ready({**vars(self), "convergent": convergent})
        return found

    def table(self) -> RichTable:
        """The matrix for the terminal: convergent values bold."""
        table = RichTable(title=f"Multitrait-multimethod correlations over {self.people} people")
        table.add_column("")
        names = [(m, t) for m in range(len(self.methods)) for t in self.traits]
        for m, trait in names:
            table.add_column(f"{m + 1}{trait.letter}", justify="right")
        for row, (m, trait) in enumerate(names):
            cells = [
                f"[bold]{number(r)}[/bold]" if other != m and second == trait else number(r)
                for r, (other, second) in zip(self.matrix[row].tolist(), names[: row + 1], strict=False)
            ]
            table.add_row(f"{m + 1}{trait.letter} {self.methods[m]}", *cells)
        return table


def multitrait_multimethod(
    scores: Mapping[str, ArrayLike], *, traits: Sequence[Trait] = tuple(Trait), resamples: int = 1000, seed: int = 0
) -> MultitraitMultimethod:
    """The table of two or more methods' scores of the same people.

    Args:
        scores: method -> [people, traits]; people whom some method did not score (nan) are left out.
        traits: what the columns are.
        resamples, seed: of the intervals.

    Raises:
        ValueError: fewer than two methods, tables of different shape, or fewer than three people scored by all.
    """
    if len(scores) < 2:
        raise DPGError(f"validity needs at least two methods, not {len(scores)}")
    tables = [np.asarray(table, dtype=np.float64) for table in scores.values()]
    shapes = {table.shape for table in tables}
    if len(shapes) != 1 or tables[0].ndim != 2 or tables[0].shape[1] != len(traits):
        raise DPGError(f"every method gives [people, {len(traits)}] scores of the same people, not {sorted(shapes)}")
    whole = np.concatenate(tables, axis=1)
    whole = whole[np.isfinite(whole).all(axis=1)]
    if whole.shape[0] < 3:
        raise DPGError(f"only {whole.shape[0]} people were scored by every method; correlations need at least three")
    size = whole.shape[1]
    matrix = np.array([[pearson(whole[:, i], whole[:, j]) for j in range(size)] for i in range(size)])
    methods, k = tuple(scores), len(traits)
    method_of, trait_of = np.divmod(np.arange(size), k)
    other_method = method_of[:, None] != method_of[None, :]
    same_trait = trait_of[:, None] == trait_of[None, :]
    once = np.triu(np.ones((size, size), dtype=bool), 1)
    convergent, wins = {}, []
    for i, j in np.argwhere(once & other_method & same_trait):
        pair = (methods[method_of[i]], methods[method_of[j]], traits[trait_of[i]])
        both = whole[:, [i, j]]
        convergent[pair] = bootstrap(
            lambda rows, x=both: pearson(*x[rows].T), len(both), resamples=resamples, seed=seed
        )
        rivals = np.concatenate(
            [
                matrix[i, (method_of == method_of[j]) & (trait_of != trait_of[i])],
                matrix[j, (method_of == method_of[i]) & (trait_of != trait_of[j])],
            ]
        )
        wins += (matrix[i, j] > np.abs(rivals[np.isfinite(rivals)])).tolist()
    return MultitraitMultimethod(
        methods,
        tuple(traits),
        whole.shape[0],
        matrix,
        convergent,
        mean_of(matrix[once & other_method & same_trait]),
        mean_of(np.abs(matrix[once & other_method & ~same_trait])),
        mean_of(np.abs(matrix[once & ~other_method])),
        mean_of(wins),
    )


@dataclass(frozen=True)
class Agreement:
    """How two methods agree on one trait over people: order (Spearman), and the scores themselves.

    Attributes:
        people: scored by both.
        spearman, icc_2_1: with bootstrap intervals over people.
        kappa: quadratically weighted kappa of scores rounded to the levels -5..5, likewise.
    """

    methods: tuple[str, str]
    trait: Trait
    people: int
    spearman: Interval
    icc_2_1: Interval
    kappa: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; undefined values are None."""
        found: dict[str, Any] = json_ready(self)
        return found


def agreements(scores: Mapping[str, ArrayLike], *, resamples: int = 1000, seed: int = 0) -> list[Agreement]:
    """Agreement of every two methods on every trait that both scored for three people or more.

    Args:
        scores: method -> [people, 5] in -5..5, the same people.
        resamples, seed: of the intervals.
    """
    found = []
    for (one, a), (two, b) in combinations(scores.items(), 2):
        for trait in Trait:
            pair = np.stack([np.asarray(x, dtype=np.float64)[:, trait.position] for x in (a, b)], axis=1)
            pair = pair[np.isfinite(pair).all(axis=1)]
            if pair.shape[0] < 3:
                continue
            levels = nearest_level(pair)

            def statistics(
                rows: NDArray[np.int64], x: NDArray[np.float64] = pair, places: NDArray[np.int64] = levels
            ) -> list[float]:
                kappa = weighted_kappa(*places[rows].T, categories=LEVELS)
                return [spearman(*x[rows].T), *icc(x[rows], "2,1"), kappa]

            drawn = bootstrap_all(statistics, len(pair), resamples=resamples, seed=seed)
            found.append(Agreement((one, two), trait, len(pair), *drawn))
    return found


def agreement_table(rows: Sequence[Agreement]) -> RichTable:
    """`agreements` for the terminal."""
    cells = [
        [
            " / ".join(row.methods),
            row.trait.value,
            str(row.people),
            *map(bounds, (row.spearman, row.icc_2_1, row.kappa)),
        ]
        for row in rows
    ]
    head = ["methods", "trait", "people", "Spearman", "ICC(2,1)", "weighted kappa"]
    return on_terminal(Table(head, cells, "Agreement of methods, with 95% bootstrap intervals", left=2))


@dataclass(frozen=True)
class Disagreement:
    """Somebody whom two methods place differently: scores as given, and the distance between the standardised ones."""

    label: str
    trait: Trait
    methods: tuple[str, str]
    scores: tuple[float, float]
    distance: float


def disagreements(
    labels: Sequence[str], scores: Mapping[str, ArrayLike], *, traits: Sequence[Trait] = tuple(Trait), top: int = 10
) -> list[Disagreement]:
    """The ``top`` largest differences between two methods, each trait standardised over the people within each method.

    Standardising leaves out that methods use their scales differently; a score without spread counts as average.
    """
    found = []
    tables = {method: np.asarray(table, dtype=np.float64) for method, table in scores.items()}
    standard = {}
    for method, x in tables.items():
        spread = np.nanstd(x, axis=0)
        standard[method] = np.where(
            spread > 1e-12, (x - np.nanmean(x, axis=0)) / np.where(spread > 1e-12, spread, 1), 0.0
        )
    for one, two in combinations(tables, 2):
        for (p, label), (t, trait) in product(enumerate(labels), enumerate(traits)):
            pair = (float(tables[one][p, t]), float(tables[two][p, t]))
            if math.isfinite(sum(pair)):
                distance = abs(float(standard[one][p, t] - standard[two][p, t]))
                found.append(Disagreement(label, trait, (one, two), pair, distance))
    return sorted(found, key=lambda d: -d.distance)[:top]
