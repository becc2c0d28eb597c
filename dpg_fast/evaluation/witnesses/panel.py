"""Several witnesses of one evaluation: the same answers read by each, and where they agree.

A witness of answers is a `Judge` with scores of its own beside the evaluation's; the statements witness reads no answers. What
they have in common is a `Separation` for each method, so all stand in one table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.figures import mean_spearman, pooled_spearman, score_table
from dpg_fast.evaluation.methods import BareModel, Method
from dpg_fast.evaluation.protocol import Results, TraitPlan, run_evaluation
from dpg_fast.evaluation.witnesses.separation import Pair, Sample, Separation, points, separated, separation, summary
from dpg_fast.evaluation.witnesses.statement_run import StatementPlan, hear_statements
from dpg_fast.evaluation.witnesses.statements import find_statements
from dpg_fast.judges.base import Judge
from dpg_fast.judges.choice import LIKELIHOOD, JudgeChoice, fast_dtype
from dpg_fast.judges.description_sets import SetJudge, description_sets
from dpg_fast.judges.lexical import LexicalJudge, has_valence, valence
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.stats import Interval, bootstrap, mean_of, spearman

DESCRIPTIONS, LEXICAL, STATEMENTS = "descriptions", "lexical", "statements"
WITNESSES = (LIKELIHOOD, DESCRIPTIONS, LEXICAL, STATEMENTS)
FOLDER = "witnesses"


@dataclass(frozen=True)
class Testimony:
    """What one witness says of every method.

    Attributes:
        witness: its name.
        description: what it is and how far it can be trusted.
        separations: method -> AUC of each trait asked for and judged.
        spearman: method -> mean Spearman over traits between the level asked for and the score; empty for statements.
        spread: method -> (standard deviation of that over description sets, the same of the mean AUC); empty without sets.
        without_valence: method -> trait -> AUC once the answers' valence is regressed out; empty where that cannot be had.
        results: the scored answers; None for statements.
    """

    witness: str
    description: str
    separations: dict[str, Separation]
    spearman: dict[str, Interval] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    without_valence: dict[str, dict[Trait, Interval]] = field(default_factory=dict)
    results: Results | None = None


@dataclass(frozen=True)
class Panel:
    """All witnesses that were heard, the evaluation's judge first.

    Attributes:
        left_out: witness -> why it was not heard.
    """

    testimonies: list[Testimony]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PanelChoice:
    """Which witnesses are heard beside the judge.

    Args:
        names: of `WITNESSES`; None: descriptions, lexical, and statements where they are at hand without a download.
        statements: folder of statements; None: those of the package's cache, downloaded where statements are named.

    Raises:
        ValueError: an unknown name.
    """

    names: Sequence[str] | None = ()
    statements: Path | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.names or () if name not in WITNESSES]
        if unknown:
            raise DPGError(f"unknown witnesses {', '.join(unknown)}; accepted: {', '.join(WITNESSES)}")
        if self.statements is not None and self.names is not None and STATEMENTS not in self.names:
            raise DPGError("--statements is for the witness statements, which --witnesses leaves out")

    def resolve(self, judge: str, plan: TraitPlan) -> tuple[list[str], StatementPlan | None, dict[str, str]]:
        """Names of those who are heard, the statements, and why others are not.

        Args:
            judge: kind of the evaluation's own judge, which is not asked again.
            plan: of the evaluation.

        Raises:
            OSError, ValueError: statements that were asked for and cannot be had.
        """
        wanted = [DESCRIPTIONS, LEXICAL, STATEMENTS] if self.names is None else list(dict.fromkeys(self.names))
        wanted = [name for name in WITNESSES if name in wanted and name != judge]
        left_out: dict[str, str] = {}
        statements = None
        if STATEMENTS in wanted:
            level = min(plan.ends[1], -plan.ends[0])
            try:
                read, source = find_statements(
                    self.statements, None, None, plan.traits, download=self.names is not None
                )
                statements = StatementPlan(read, source, plan.traits, level)
            except FileNotFoundError:
                if self.names is not None or self.statements is not None:
                    raise
                wanted.remove(STATEMENTS)
                left_out[STATEMENTS] = "they are not on this machine; name them to download them, or their folder"
        return wanted, statements, left_out


JUDGE_ALONE = PanelChoice()
"""No witness beside the judge."""


def hear_panel(
    choice: PanelChoice,
    judge: str,
    results: Results,
    methods: Sequence[Method],
    scorer: Scorer,
    directory: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 16,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Panel:
    """Let every witness read the answers of an evaluation. May be killed at any time and called again.

    Args:
        choice: who is heard.
        judge: kind of the evaluation's judge, whose testimony comes first.
        results: of the evaluation, scored by that judge.
        methods: of the evaluation, the bare model first.
        scorer: of the evaluation; its model and tokenizer are those of the likelihood witnesses.
        directory: of the evaluation; scores of each witness get a folder below it.
        settings: of the evaluation.
        batch_size: as in `run_evaluation`.
        resamples: of the bootstraps.
        progress: gets what is done, how much of it, and of how much.

    Raises:
        OSError, ValueError: statements that cannot be had, or a folder with another evaluation.
    """
    plan = results.plan
    heard, statements, left_out = choice.resolve(judge, plan)
    names = [method.name for method in methods if method.name != BareModel.name]

    def read(judge: Judge, folder: str) -> Results:
        where, own = f"{FOLDER}/{folder}", Scorer(judge)
        return run_evaluation(
            methods, own, plan, directory, settings, batch_size=batch_size, progress=progress, scores=where
        )

    base, tokenizer = scorer.model, scorer.tokenizer
    found = [_testimony(judge, scorer.judge.describe(), results, names, resamples)]
    for name in heard:
        if name == LIKELIHOOD:
            shipped = JudgeChoice().make(base, tokenizer, directory)
            found.append(_testimony(name, shipped.describe(), read(shipped, name), names, resamples))
        elif name == LEXICAL:
            words = LexicalJudge()
            found.append(_testimony(name, words.describe(), read(words, name), names, resamples))
        elif name == DESCRIPTIONS:
            sets = {own: SetJudge(own, base, tokenizer, autocast=fast_dtype()) for own in description_sets()}
            by_set = {own: read(one, f"{name}-{own.replace(' ', '_')}") for own, one in sets.items()}
            about = (
                f"Likelihood judge under {len(sets)} sets of descriptions in other words ({', '.join(sets)}): the mean of "
                "their scores; the spread is over sets."
            )
            pooled = _testimony(name, about, _pooled(list(by_set.values())), names, resamples)
            spread = {method: _spread(list(by_set.values()), method) for method in names}
            found.append(replace(pooled, spread=spread))
        elif statements is not None:
            own = hear_statements(
                methods, tokenizer, statements, directory / FOLDER, settings, resamples=resamples, progress=progress
            )
            found.append(Testimony(name, statements.describe(), own))
    return Panel(found, left_out)


def answer_samples(results: Results, method: str) -> dict[Pair, Sample]:
    """Scores at the highest and at the lowest level, for each trait asked for and judged; questions are the units."""
    plan = results.plan
    low, high = plan.ends
    found: dict[Pair, Sample] = {}
    for asked in plan.traits:
        for judged in plan.traits if plan.cross else [asked]:
            sides = [
                np.array([row["scores"].get(judged.value, math.nan) for row in results.cell(method, asked, level)])
                for level in (high, low)
            ]
            found[asked, judged] = Sample(sides[0], sides[1], asked, asked)
    return found


def without_valence(results: Results, method: str, *, resamples: int = 1000, seed: int = 0) -> dict[Trait, Interval]:
    """AUC of each trait asked for, of the residuals of a regression of the scores on the answers' valence.

    The regression is over the answers at both ends, fitted again in every bootstrap draw; questions are resampled.
    """
    low, high = results.plan.ends
    found = {}
    for trait in results.plan.traits:
        cells = [results.cell(method, trait, level) for level in (high, low)]
        scores = np.array([[row["scores"].get(trait.value, math.nan) for row in cell] for cell in cells])
        tone = np.array([[valence(row["answer"]) for row in cell] for cell in cells])

        def statistic(rows: Any, scores: Any = scores, tone: Any = tone) -> float:
            y, x = scores[:, rows], tone[:, rows]
            there = np.isfinite(y)
            if not there.any():
                return math.nan
            centred = np.where(there, x - x[there].mean(), 0.0)
            spread = float((centred**2).sum())
            slope = float((centred * np.where(there, y, 0.0)).sum() / spread) if spread > 0 else 0.0
            rest = np.round(y - slope * centred, 9)  # where nothing is left, rounding errors are not to decide
            return separated(rest[0], rest[1])

        found[trait] = bootstrap(statistic, scores.shape[1], resamples=resamples, seed=seed)
    return found


def agreement(panel: Panel) -> dict[tuple[str, str], tuple[float, float]]:
    """For each pair of witnesses, two rank correlations.

    The first over the AUCs of all methods, traits asked for and traits judged; the second over single answers of all methods
    and levels, mean of the traits (nan with statements, which read no answers).
    """
    found = {}
    for place, one in enumerate(panel.testimonies):
        for other in panel.testimonies[place + 1 :]:
            pairs = [
                (own.cells[pair].estimate, other.separations[method].cells[pair].estimate)
                for method, own in one.separations.items()
                if method in other.separations
                for pair in own.cells
                if pair in other.separations[method].cells
            ]
            cells = spearman([a for a, _ in pairs], [b for _, b in pairs]) if pairs else math.nan
            found[one.witness, other.witness] = (cells, _answers_agree(one, other))
    return found


def _answers_agree(one: Testimony, other: Testimony) -> float:
    if one.results is None or other.results is None:
        return math.nan
    plan = one.results.plan
    each = []
    for trait in plan.traits:
        tables = [
            np.stack([score_table(own.results, method, trait) for method in own.separations])
            for own in (one, other)
            if own.results is not None
        ]
        each.append(spearman(*tables))
    return mean_of(each)


def _testimony(name: str, description: str, results: Results, methods: Sequence[str], resamples: int) -> Testimony:
    return Testimony(
        name,
        description,
        {method: separation(answer_samples(results, method), resamples=resamples) for method in methods},
        {method: mean_spearman(results, method, resamples=resamples) for method in methods},
        without_valence={method: without_valence(results, method, resamples=resamples) for method in methods}
        if has_valence()
        else {},
        results=results,
    )


def _pooled(sets: Sequence[Results]) -> Results:
    """The same answers with the mean of the sets' scores; a trait that a set could not score is missing."""

    def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        traits = [name for name in rows[0]["scores"] if all(name in row["scores"] for row in rows)]
        return {**rows[0], "scores": {name: float(np.mean([row["scores"][name] for row in rows])) for name in traits}}

    first = sets[0]
    rows = {
        method: {key: mean([one.rows[method][key] for one in sets]) for key in own}
        for method, own in first.rows.items()
    }
    return Results(first.plan, rows, first.descriptions)


def _spread(sets: Sequence[Results], method: str) -> tuple[float, float]:
    """Standard deviation over the sets of the mean Spearman, and of the mean AUC of the traits asked for."""
    levels = np.asarray(sets[0].plan.levels)

    def rank(one: Results) -> float:
        return mean_of(pooled_spearman(levels, score_table(one, method, trait)) for trait in one.plan.traits)

    own = [(rank(one), summary(points(answer_samples(one, method)))[0]) for one in sets]
    spread = np.std(np.array(own), axis=0, ddof=1)
    return float(spread[0]), float(spread[1])
