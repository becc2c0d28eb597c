"""How far several judges agree on the same texts: kappa, intraclass correlations, correlations, and where they differ most.

A file of ratings is JSON Lines, a line for each text that was judged:

    {"id": "chat-17", "scores": {"extraversion": 3, "neuroticism": null}}

`scores` maps traits to -5..5 or null; `personality`, five numbers in OCEAN order or null, is read as well. A text is known by its
`id`, else by its `item` (outputs of ``dpg-fast assess judge`` are joined by it), else by its `question` and `answer`, else by
its `messages`; or by the fields that are named. Lines of one text are put together. Lines without scores (a header, failed calls)
are passed over. A result file (`dpg_fast.judges.results`) is read too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable

from dpg_fast.judges.results import RESULTS, load_scores, parse_scores
from dpg_fast.judges.validation.metrics import LEVELS, nearest_level
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting.page import Table, bounds, number
from dpg_fast.reporting.render import on_terminal
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import json_lines
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import (
    ICC,
    ICC_KINDS,
    Interval,
    bootstrap_all,
    fleiss_kappa,
    icc,
    pearson,
    spearman,
    weighted_kappa,
)

Table2D = NDArray[np.float64]
Rows = NDArray[np.int64]
Draw = Callable[..., list[Interval]]
ALL = "all traits"
_LEAST = 3  # texts


@dataclass(frozen=True)
class Ratings:
    """One judge's scores.

    Attributes:
        judge: its name.
        scores: what a text is known by -> five scores in OCEAN order, nan where there is none.
        texts: the same -> a text to show for it.
    """

    judge: str
    scores: dict[str, NDArray[np.float64]]
    texts: dict[str, str]


@dataclass(frozen=True)
class PairAgreement:
    """Two judges on one trait (or on all traits' scores together), with 95% bootstrap intervals over texts: all traits'
    scores of one text are drawn together.

    Attributes:
        n: scores that both gave.
        bias: mean of the second judge's scores less the first's.
        mae: mean absolute difference. exact, within_one: shares after rounding to whole levels.
        pearson, spearman: of the scores as given.
        kappa_linear, kappa_quadratic: weighted kappa of the eleven levels.
    """

    judges: tuple[str, str]
    trait: str
    n: int
    bias: Interval
    mae: float
    exact: float
    within_one: float
    pearson: Interval
    spearman: Interval
    kappa_linear: Interval
    kappa_quadratic: Interval


@dataclass(frozen=True)
class GroupAgreement:
    """All judges on one trait (or all traits' scores together): texts by judges, scored by all of them.

    Attributes:
        n: texts (times traits).
        icc: form -> intraclass correlation (Shrout and Fleiss 1979) with its interval over texts.
        fleiss: Fleiss' kappa of low (below -1), middle and high (above 1) as three nominal categories.
    """

    trait: str
    n: int
    icc: dict[ICC, Interval]
    fleiss: Interval


@dataclass(frozen=True)
class Difference:
    """A text that the judges place furthest apart on a trait."""

    text: str
    trait: Trait
    scores: dict[str, float]
    range: float


@dataclass(frozen=True)
class JudgeAgreement:
    """Everything about some judges of the same texts.

    Attributes:
        judges: names. texts: how many all of them judged on some trait.
        pairs: every two judges on every trait with at least three scores, and on all together.
        groups: all judges likewise.
        differences: the furthest apart first.
    """

    judges: tuple[str, ...]
    texts: int
    pairs: tuple[PairAgreement, ...]
    groups: tuple[GroupAgreement, ...]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; undefined values are None."""
        found: dict[str, Any] = json_ready(self)
        return found

    def tables(self) -> list[RichTable]:
        """For the terminal."""
        return [on_terminal(table) for table in [*agreement_tables(self), furthest_table(self)] if table.rows]


def agreement_tables(found: JudgeAgreement) -> list[Table]:
    """Every two judges, in two tables that fit a terminal, and all judges together."""
    order, levels = [], []
    for p in found.pairs:
        who = (" / ".join(p.judges), p.trait, str(p.n))
        order.append([*who, number(p.mae), *map(bounds, (p.bias, p.pearson, p.spearman))])
        shares = (number(p.exact), number(p.within_one))
        levels.append([*who, *shares, *map(bounds, (p.kappa_linear, p.kappa_quadratic))])
    all_of_them = [
        [g.trait, str(g.n), *(bounds(g.icc[kind]) for kind in ICC_KINDS), bounds(g.fleiss)] for g in found.groups
    ]
    return [
        Table(
            ["judges", "trait", "n", "MAE", "bias", "Pearson", "Spearman"],
            order,
            f"Every two judges, {found.texts} texts; 95% intervals resample texts; bias: the second's mean less the first's",
            left=2,
        ),
        Table(
            ["judges", "trait", "n", "exact", "within 1", "kappa linear", "kappa quadratic"],
            levels,
            "The same levels: shares, and weighted kappa",
            left=2,
        ),
        Table(
            ["trait", "n", *(f"ICC({kind})" for kind in ICC_KINDS), "Fleiss' kappa"],
            all_of_them,
            "All judges. ICC: (1,·) other judges for each text, (2,·) a sample of judges, (3,·) these; k: of their mean. Fleiss' "
            "kappa: of low, middle, high",
        ),
    ]


def furthest_table(found: JudgeAgreement) -> Table:
    """The texts that the judges place furthest apart."""
    rows = [
        [d.text[:80], d.trait.value, *(f"{d.scores[judge]:+.1f}" for judge in found.judges)] for d in found.differences
    ]
    return Table(["text", "trait", *found.judges], rows, "Largest disagreements", left=2)


def read_ratings(path: Path | str, key: Sequence[str] = ()) -> Ratings:
    """Read one judge's file; its name is the file's without the ending (a folder's, for a folder with results.json).

    Args:
        path: see the module's text.
        key: fields that a text is known by; default: what the module's text says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of the format; the message names file and line. Or no scores at all, or two for one text and trait.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".json":
        table = load_scores(path)
        file = path / RESULTS if path.is_dir() else path
        name = path.name if path.is_dir() else file.stem
        own = {label: row for label, row in zip(table.labels, table.scores, strict=True)}
        return Ratings(name, own, {label: label for label in own})
    scores: dict[str, NDArray[np.float64]] = {}
    texts: dict[str, str] = {}
    for where, row in _lines(path):
        found = _scores(row, where)
        if not found:
            continue
        known, text = _identity(row, key, where)
        own_row = scores.setdefault(known, np.full(len(Trait), math.nan))
        texts.setdefault(known, text)
        for trait, value in found.items():
            if not math.isnan(own_row[trait.position]):
                raise DPGError(
                    f"{where}: a second score of {trait.value} for the same text; name the fields that tell texts apart"
                )
            own_row[trait.position] = value
    if not scores:
        raise DPGError(f'{path.name} holds no scores: lines need "scores" or "personality"')
    return Ratings(path.stem, scores, texts)


def judge_agreement(
    ratings: Sequence[Ratings], *, top: int = 10, resamples: int = 1000, seed: int = 0
) -> JudgeAgreement:
    """Compare judges on the texts that all of them judged.

    Args:
        ratings: two or more; judges of the same name are numbered.
        top: disagreements listed.
        resamples, seed: of the intervals.

    Raises:
        ValueError: fewer than two judges, or fewer than three texts with a score of the same trait by all.
    """
    if len(ratings) < 2:
        raise DPGError(f"agreement needs at least two judges, not {len(ratings)}")
    names = [r.judge for r in ratings]
    judges = tuple(name if names.count(name) == 1 else f"{name} {n}" for n, name in enumerate(names, 1))
    known = [text for text in ratings[0].scores if all(text in r.scores for r in ratings)]
    if not known:
        raise DPGError(
            "these judges have no text in common; texts are told apart by id, item, question and answer, or messages"
        )
    cube = np.array([[r.scores[text] for text in known] for r in ratings]).reshape(len(ratings), len(known), len(Trait))
    pairs, groups = [], []
    draw = partial(bootstrap_all, resamples=resamples, seed=seed)
    # `cube` is [judges, texts, traits]; `flat` has a judge in each row and, in its columns, the texts (of all traits together:
    # each text once for each trait). A pair keeps the columns that both scored, a group those that all did, so their n differ.
    for trait in [*Trait, None]:
        flat = cube.reshape(len(ratings), -1) if trait is None else cube[:, :, trait.position]
        texts_of = np.repeat(np.arange(len(known)), flat.shape[1] // len(known))
        name = ALL if trait is None else trait.value
        for i, j in combinations(range(len(ratings)), 2):
            there = np.isfinite(flat[[i, j]]).all(axis=0)
            if len(set(texts_of[there])) >= _LEAST:
                pairs.append(_pair((judges[i], judges[j]), name, flat[[i, j]][:, there].T, texts_of[there], draw))
        there = np.isfinite(flat).all(axis=0)
        if len(set(texts_of[there])) >= _LEAST:
            groups.append(_group(name, flat[:, there].T, texts_of[there], draw))
    if not pairs:
        raise DPGError(f"no trait has {_LEAST} texts that two of the judges scored")
    if len({p.trait for p in pairs}) == 2:  # one trait alone: all traits together are the same figures
        pairs = [p for p in pairs if p.trait != ALL]
        groups = [g for g in groups if g.trait != ALL]
    texts = [next(r.texts[text] for r in ratings) for text in known]
    shared = int((np.isfinite(cube).all(axis=0)).any(axis=1).sum())
    return JudgeAgreement(judges, shared, tuple(pairs), tuple(groups), _furthest(judges, texts, cube, top))


def _pair(judges: tuple[str, str], trait: str, both: Table2D, texts: Rows, draw: Draw) -> PairAgreement:
    """Of [scores, 2]; scores of one text are drawn together."""
    levels = nearest_level(both)
    gap = np.abs(levels[:, 1] - levels[:, 0])

    def statistics(rows: Rows) -> list[float]:
        (a, b), (x, y) = both[rows].T, levels[rows].T
        kappas = [weighted_kappa(x, y, categories=LEVELS, weights=weights) for weights in ("linear", "quadratic")]
        return [float((b - a).mean()), pearson(a, b), spearman(a, b), *kappas]

    bias, linear, ordered, kappa_linear, kappa_quadratic = draw(statistics, texts.tolist())
    return PairAgreement(
        judges,
        trait,
        len(both),
        bias,
        float(np.abs(both[:, 1] - both[:, 0]).mean()),
        float((gap == 0).mean()),
        float((gap <= 1).mean()),
        linear,
        ordered,
        kappa_linear,
        kappa_quadratic,
    )


def _group(trait: str, every: Table2D, texts: Rows, draw: Draw) -> GroupAgreement:
    """Of [scores, judges]; scores of one text are drawn together."""

    def statistics(rows: Rows) -> list[float]:
        x = every[rows]
        thirds = np.stack([(x < -1).sum(1), (np.abs(x) <= 1).sum(1), (x > 1).sum(1)], axis=1)
        return [*icc(x, *ICC_KINDS), fleiss_kappa(thirds)]

    *iccs, fleiss = draw(statistics, texts.tolist())
    return GroupAgreement(trait, len(every), dict(zip(ICC_KINDS, iccs, strict=True)), fleiss)


def _furthest(
    judges: tuple[str, ...], texts: Sequence[str], cube: NDArray[np.float64], top: int
) -> tuple[Difference, ...]:
    found = []
    for i, text in enumerate(texts):
        for trait in Trait:
            own = cube[:, i, trait.position]
            if np.isfinite(own).all():
                scores = dict(zip(judges, own.tolist(), strict=True))
                found.append(Difference(text, trait, scores, float(np.ptp(own))))
    return tuple(sorted((d for d in found if d.range > 0), key=lambda d: -d.range)[:top])


# ------------------------------------------------------------------ files


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in json_lines(path, finite=False):
        if not isinstance(row, dict):
            raise DPGError(f"{where}: a line is an object, not {type(row).__name__}")
        yield where, row


def _scores(row: Mapping[str, Any], where: str) -> dict[Trait, float]:
    given = row.get("scores")
    if given is None and isinstance(row.get("personality"), list):
        values = row["personality"]
        if len(values) != len(Trait):
            raise DPGError(f'{where}: "personality" has five numbers in OCEAN order, not {len(values)}')
        given = {trait.value: value for trait, value in zip(Trait, values, strict=True)}
    if not isinstance(given or {}, dict):
        raise DPGError(f'{where}: "scores" is an object of traits, not {type(given).__name__}')
    return parse_scores(given or {}, where)


def _identity(row: Mapping[str, Any], key: Sequence[str], where: str) -> tuple[str, str]:
    """What the text is known by, and a text to show."""
    fields = tuple(key) or next((names for names in _KEYS if all(name in row for name in names)), ())
    missing = [name for name in fields if name not in row]
    if not fields or missing:
        needed = ", ".join(missing) if missing else "id, item, question and answer, or messages"
        raise DPGError(f"{where}: the text is not named: no {needed}")
    known = json.dumps([row[name] for name in fields], ensure_ascii=False, sort_keys=True)
    shown = next((str(row[name]) for name in ("answer", "text", "id") if row.get(name)), "")
    if not shown and row.get("record") is not None:  # of ``assess judge``
        shown = f"record {row['record']}" + (f", {row['character']}" if row.get("character") else "")
    if not shown and isinstance(row.get("messages"), list) and row["messages"]:
        last = row["messages"][-1]
        shown = str(last.get("content", "")) if isinstance(last, dict) else str(last)
    return known, shown or known


_KEYS = (("id",), ("item",), ("question", "answer"), ("messages",))
