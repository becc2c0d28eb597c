"""DPG's comparison from end to end: every task for every method, a report of each, and one table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.capability import Capability, CapabilityPlan, CapabilityRun
from dpg_fast.evaluation.case_report import CaseReport, build_case_report, write_case_report
from dpg_fast.evaluation.cases import Case, run_cases
from dpg_fast.evaluation.dpg.interpolation import InterpolationLine, line_figures
from dpg_fast.evaluation.dpg.newness import Newness, Trained, describe_newness
from dpg_fast.evaluation.dpg.plan import INTERPOLATION, NEW, QUESTIONS, SCRIPTED, DPGPlan
from dpg_fast.evaluation.figures import MethodFigures, method_figures
from dpg_fast.evaluation.line_report import LineFigures, write_line_report
from dpg_fast.evaluation.methods import Method
from dpg_fast.evaluation.protocol import Results, run_evaluation
from dpg_fast.evaluation.report import write_evaluation_report
from dpg_fast.evaluation.witnesses.panel import JUDGE_ALONE, Panel, PanelChoice, hear_panel
from dpg_fast.judges.choice import LIKELIHOOD
from dpg_fast.judges.scoring import Scorer
from dpg_fast.util.progress import Progress

TITLES = {NEW: "New personalities", SCRIPTED: "Scripted dialogue"}


@dataclass
class DPGResults:
    """What came of the tasks; those that were not asked for are empty.

    Attributes:
        questions: scored answers to the open questions.
        figures: of these, by method.
        cases: task -> report of whole personalities.
        panel: what other witnesses say of the answers to the open questions.
        lines: interpolations with the figures of those that walked them.
        capability: what the methods can still do; None where it was left out.
        reports: task -> page.
    """

    questions: Results | None = None
    figures: list[MethodFigures] = field(default_factory=list)
    cases: dict[str, CaseReport] = field(default_factory=dict)
    panel: Panel | None = None
    lines: list[tuple[InterpolationLine, LineFigures]] = field(default_factory=list)
    capability: Capability | None = None
    reports: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class DPGRun:
    """What all tasks share.

    Args:
        plan: the tasks.
        methods: the bare model first.
        walkers: names of the methods that take part in the interpolation.
        compared: name of the method that the others are set against.
        scorer: of the answers.
        tokenizer: the base model's.
        directory: of raw results and reports.
        shared: what all answers depend on, JSON-ready.
        about: further settings for the reports.
        batch_size: answers generated side by side.
        capability: tasks of lm-evaluation-harness; None leaves them out.
        progress: gets what is done, how much of it, and of how much.
        judge: kind of the scorer's judge.
        witnesses: who else reads the answers to the open questions.
        resamples: of the bootstrap over people and over the questions of an interpolation.
    """

    plan: DPGPlan
    methods: Sequence[Method]
    walkers: Sequence[str]
    compared: str
    scorer: Scorer
    tokenizer: Any
    directory: Path
    shared: Mapping[str, Any]
    about: Mapping[str, Any]
    batch_size: int
    capability: CapabilityPlan | None
    progress: Progress
    judge: str = LIKELIHOOD
    witnesses: PanelChoice = JUDGE_ALONE
    resamples: int = 1000

    def run(self) -> DPGResults:
        """Do what ``directory`` does not hold yet. May be killed at any time and called again."""
        plan, found = self.plan, DPGResults()
        trained = plan.load_trained()
        exam = None
        if self.capability is not None:  # before the work starts: it finds out whether the tasks can be had
            weights = {name: value for name, value in self.shared.items() if name != "answers"}
            exam = CapabilityRun(
                self.methods, self.tokenizer, plan.trait_plan(), self.capability, self.directory, weights
            )
        if QUESTIONS in plan.tasks:
            found.questions = run_evaluation(
                self.methods,
                self.scorer,
                plan.trait_plan(),
                self.directory / QUESTIONS,
                self.shared,
                batch_size=self.batch_size,
                progress=self.progress,
            )
            found.panel = hear_panel(
                self.witnesses,
                self.judge,
                found.questions,
                self.methods,
                self.scorer,
                self.directory / QUESTIONS,
                self.shared,
                batch_size=self.batch_size,
                resamples=self.resamples,
                progress=self.progress,
            )
            found.figures = [
                method_figures(found.questions, method.name, resamples=self.resamples) for method in self.methods
            ]
        found.capability = None if exam is None else exam.run(self.progress)
        if found.questions is not None:
            found.reports[QUESTIONS] = write_evaluation_report(
                found.questions,
                found.figures,
                self.directory / QUESTIONS,
                judge=self.scorer.judge.describe(),
                settings={**self._settings(), "split": "holdout"},
                capability=found.capability,
                panel=found.panel,
            )
        for task in (NEW, SCRIPTED):
            if task in plan.tasks:
                self._cases(task, trained, found)
        if INTERPOLATION in plan.tasks:
            self._lines(found)
        return found

    def _cases(self, task: str, trained: Trained | None, found: DPGResults) -> None:
        cases = self.plan.cases(task, trained)
        judged = run_cases(
            self.methods,
            self.scorer,
            cases,
            self.directory / task,
            self.shared,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        report = build_case_report(
            cases, judged, self.compared, groups=newness_groups(task, cases, trained), resamples=self.resamples
        )
        people = list({case.key[0]: case.personality for case in cases}.values())
        notes = [describe_newness(people, trained)] if trained is not None else [_UNKNOWN]
        found.cases[task] = report
        found.reports[task] = write_case_report(
            TITLES[task],
            cases,
            report,
            {method.name: method.describe() for method in self.methods},
            self.directory / task,
            judge=self.scorer.judge.describe(),
            settings=self._settings(),
            notes=notes,
        )

    def _lines(self, found: DPGResults) -> None:
        walkers = [method for method in self.methods if method.name in self.walkers]
        for line, cases in self.plan.line_cases():
            judged = run_cases(
                walkers,
                self.scorer,
                cases,
                self.directory / INTERPOLATION,
                self.shared,
                batch_size=self.batch_size,
                progress=self.progress,
            )
            found.lines.append(
                (line, {name: line_figures(line, cases, own, resamples=self.resamples) for name, own in judged.items()})
            )
        found.reports[INTERPOLATION] = write_line_report(
            found.lines,
            self.plan.line_questions,
            {method.name: method.describe() for method in walkers},
            self.directory / INTERPOLATION,
            judge=self.scorer.judge.describe(),
            settings=self._settings(),
        )

    def _settings(self) -> dict[str, Any]:
        return {**self.shared, **self.about, "judge_cost": self.scorer.spent()}


_UNKNOWN = "Who was trained on was not given (--trained), so how new these people are is not known."


def newness_groups(task: str, cases: Sequence[Case], trained: Trained | None) -> dict[str, list[bool]]:
    """Parts of the cases by how new they are; only those that are neither empty nor everything."""
    if trained is None:
        return {}
    groups = {f"new as {level}": [trained.is_new(c.personality, level) for c in cases] for level in Newness}
    if task == SCRIPTED:
        known = [case.character in trained.characters for case in cases]
        groups = {"character trained on": known, "character new": [not k for k in known], **groups}
    return {name: members for name, members in groups.items() if 0 < sum(members) < len(members)}
