"""The statements witness from a plan to its report: every method at both ends of every trait, every statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpg_fast.evaluation.lineup import Lineup
from dpg_fast.evaluation.methods import BareModel, Method
from dpg_fast.evaluation.protocol import method_file
from dpg_fast.evaluation.witnesses.separation import Separation, separation
from dpg_fast.evaluation.witnesses.statements import QUESTION, Statement, log_likelihoods, shift_samples
from dpg_fast.judges.choice import JudgeChoice, fast_dtype
from dpg_fast.judges.runner import fill
from dpg_fast.judges.scoring import Scorer
from dpg_fast.judges.sections import software
from dpg_fast.model.disk.identity import base_identity
from dpg_fast.personality.scores import MAX_SCORE, Personality, Trait
from dpg_fast.reporting import Page, Section, Settings, Table, Text, bounds, write_report
from dpg_fast.text.answers import NEUTRAL_SYSTEM, AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Store

FOLDER = "statements"
KEY = ("trait", "level")


@dataclass(frozen=True)
class StatementPlan:
    """What is asked of every method.

    Args:
        statements: of all traits that are judged, see `chosen`.
        source: where they are from, for reports.
        traits: asked for, one at a time.
        level: how far, above 0 and at most 5.
        system: the neutral instruction.

    Raises:
        ValueError: a level out of range, or no statements.
    """

    statements: Sequence[Statement]
    source: str
    traits: Sequence[Trait] = tuple(Trait)
    level: float = MAX_SCORE
    system: str = NEUTRAL_SYSTEM

    def __post_init__(self) -> None:
        if not 0 < self.level <= MAX_SCORE:
            raise DPGError(f"the level is above 0 and at most {MAX_SCORE:g}, not {self.level:g}")
        if not self.statements:
            raise DPGError("the statements witness needs statements")

    def about(self) -> dict[str, Any]:
        """What the log-likelihoods depend on, JSON-ready."""
        texts = [one.text for one in self.statements]
        return {"statements": digest(texts, 16), "question": QUESTION, "system": self.system}

    def describe(self) -> str:
        """What the figures are."""
        counts = {trait: sum(one.trait == trait for one in self.statements) for trait in Trait}
        numbers = ", ".join(f"{trait.letter} {count}" for trait, count in counts.items() if count)
        return (
            f"Statements ({self.source}; {numbers}, both poles of each trait): the log-likelihood of the whole statement as the "
            f'answer to "{QUESTION}" at {self.level:+g} minus that at {-self.level:+g}. A cell is the AUC of these '
            "shifts between statements of the high and of the low pole, with its 95% bootstrap interval over statements. "
            "Nothing is generated, and no judge takes part."
        )


def hear_statements(
    methods: Sequence[Method],
    tokenizer: Any,
    plan: StatementPlan,
    directory: Path | None,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 32,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> dict[str, Separation]:
    """Method name -> what the statements say of it. May be killed at any time and called again.

    The bare model, which says the same to everybody, and methods without likelihoods are left out.

    Args:
        methods: of the evaluation.
        tokenizer: the base model's.
        plan: the statements.
        directory: keeps the log-likelihoods, a JSON Lines file for each method; None keeps nothing.
        settings: what they depend on besides (base model).
        batch_size: statements that are run side by side.
        resamples: of the bootstrap.
        progress: gets what is done, how much of it, and of how much.

    Raises:
        ValueError: ``directory`` holds those of other statements or of another model.
    """
    texts = [one.text for one in plan.statements]
    people = [(trait, level) for trait in plan.traits for level in (plan.level, -plan.level)]
    found = {}
    for method in methods:
        if type(method) is BareModel or not method.has_likelihoods:
            continue
        file = None if directory is None else directory / FOLDER / method_file(method)
        about = {**settings, **plan.about(), "method": method.name, **method.about()}

        def work(batch: Sequence[tuple[Trait, float]], method: Method = method) -> list[dict[str, Any]]:
            ((trait, level),) = batch
            who = method.examinee(Personality({trait: level}))
            values = log_likelihoods(who, tokenizer, texts, plan.system, batch_size=batch_size)
            return [{"trait": trait.value, "level": level, "log_likelihoods": values}]

        with Store(file, about, KEY) as store:
            missing = any((trait.value, level) not in store for trait, level in people)
            if missing:
                method.prepare()
            try:
                fill(store, people, lambda who: (who[0].value, who[1]), work, f"{method.name}: statements", progress)
            finally:
                if missing:
                    method.close()
            said = {who: np.asarray(store[who[0].value, who[1]]["log_likelihoods"]) for who in people}
        shifts = {trait: said[trait, plan.level] - said[trait, -plan.level] for trait in plan.traits}
        found[method.name] = separation(shift_samples(plan.statements, shifts), resamples=resamples)
    return found


def separation_section(title: str, text: str, found: Mapping[str, Separation]) -> Section:
    """A table of each method's cells, and one of their diagonals and bleeding."""
    pairs = [pair for own in found.values() for pair in own.cells]
    asked, judged = ([trait for trait in Trait if any(pair[side] == trait for pair in pairs)] for side in (0, 1))
    cells = [
        [name if trait == asked[0] else "", trait.value, *(bounds(own.cells.get((trait, other))) for other in judged)]
        for name, own in found.items()
        for trait in asked
    ]
    summary = [[name, bounds(own.diagonal), bounds(own.bleed)] for name, own in found.items()]
    caption = "AUC, 0.5 by chance. Rows: trait asked for; columns: trait judged"
    means = "Mean AUC of the traits asked for, and mean |2 AUC - 1| of the others, which chance alone makes positive"
    return Section(
        title,
        [
            Text(text),
            Table(["method", "mean AUC", "bleeding"], summary, means),
            Table(["method", "asked for", *(trait.value for trait in judged)], cells, caption, left=2),
        ],
    )


@dataclass(frozen=True)
class StatementEvaluation:
    """One evaluation by statements, from a plan to its report.

    Args:
        plan: the statements.
        lineup: who takes part.
        out: folder of log-likelihoods and report; None keeps nothing.
        batch_size: statements that are run side by side.
        resamples: of the bootstrap.
    """

    plan: StatementPlan
    lineup: Lineup
    out: Path | None = None
    batch_size: int = 32
    resamples: int = 1000

    def run(
        self, base_model: str, dtype: torch.dtype, allow_mismatch: bool, progress: Progress
    ) -> tuple[Section, Path | None]:
        """Load, ask and write; the section with the tables, and the report's path.

        Raises:
            ValueError: an adapter for another base model, or no method that gives likelihoods.
        """
        if not [name for name in self.lineup.names if name != BareModel.name]:
            raise DPGError("name at least one method beside the bare model, which says the same to everybody")
        directories = self.lineup.locate()
        base, tokenizer = load_base(base_model, dtype)
        answers = AnswerSettings(system=self.plan.system)
        scorer = None
        if self.lineup.activation is not None:  # its strengths are fitted on judged answers
            judge = JudgeChoice().make(base, tokenizer, Path())
            scorer = Scorer(judge, base, tokenizer, answers.system, fast_dtype())
        methods = self.lineup.build(
            base,
            tokenizer,
            answers,
            directories,
            scorer=scorer,
            output=self.out,
            traits=self.plan.traits,
            allow_mismatch=allow_mismatch,
            progress=progress,
        )
        settings = {"model": base_model, "weights": base_identity(base)}
        found = hear_statements(
            methods,
            tokenizer,
            self.plan,
            self.out,
            settings,
            batch_size=self.batch_size,
            resamples=self.resamples,
            progress=progress,
        )
        section = separation_section("Statements", self.plan.describe(), found)
        if self.out is None:
            return section, None
        about = {**settings, **self.plan.about(), "level": self.plan.level, "software": software()}
        best = max(found, key=lambda name: found[name].diagonal.estimate)
        rows = [[method.name, method.describe()] for method in methods if method.name in found]
        page = Page(
            title="Statements by others",
            subtitle=f"{len(found)} methods, {len(self.plan.statements)} statements ({self.plan.source})",
            lead=f"Largest mean AUC: {best}, {bounds(found[best].diagonal)}.",
            sections=[
                section,
                Section("What was compared", [Table(["method", "what it is"], rows, left=2)]),
                Section("Settings", [Settings(about)]),
            ],
            data={"settings": about, "methods": {name: own.to_dict() for name, own in found.items()}},
        )
        return section, write_report(page, self.out)
