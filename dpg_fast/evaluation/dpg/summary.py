"""One table of a comparison: every method on every task, and the method compared beside each other one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.case_report import said
from dpg_fast.evaluation.dpg.plan import INTERPOLATION, NEW, QUESTIONS
from dpg_fast.evaluation.dpg.run import TITLES, DPGResults
from dpg_fast.evaluation.figures import mean_spearman
from dpg_fast.evaluation.methods import BareModel
from dpg_fast.evaluation.report import costs_section, few_questions
from dpg_fast.evaluation.witnesses.report import panel_sections
from dpg_fast.judges.sections import closing_sections, software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Block, Page, Picture, Section, Table, Text, bounds, charts, number, write_report
from dpg_fast.reporting.page import MISSING, SIGNED
from dpg_fast.util.stats import Interval
from dpg_fast.util.words import counted


def write_summary(
    found: DPGResults,
    compared: str,
    descriptions: Mapping[str, str],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
) -> Path:
    """Write ``report.html``, ``report.md`` and ``report.json`` of all tasks; the page's path.

    Args:
        found: of the tasks.
        compared: the method that the others are set against.
        descriptions: method name -> what it is.
        directory: of the comparison.
        judge: its own description.
        settings: of the run, JSON-ready.
    """
    spearmans, differences = _numbers(found, compared)
    about = {**settings, "software": software()}
    page = Page(
        title="Generated personalities beside their baselines",
        subtitle=f"{counted(len(descriptions), 'method')}; tasks: {', '.join(found.reports)}",
        lead=_lead(compared, differences),
        sections=[
            _table(found, descriptions, spearmans, directory),
            _beside(compared, differences),
            costs_section(found.capability),
            *([] if found.panel is None else panel_sections(found.panel)),
            _reports(found, directory),
            *closing_sections(descriptions, judge, about),
        ],
        data={"settings": about, "judge": judge, "mean_spearman": spearmans, "differences": differences}
        | {"capability": found.capability},
    )
    return write_report(page, directory)


def _numbers(found: DPGResults, compared: str) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
    """Mean Spearman: task -> method -> value; task -> other method -> difference."""
    spearmans: dict[str, dict[str, Interval]] = {}
    differences: dict[str, dict[str, Interval]] = {}
    if found.questions is not None:
        names = [method.name for method in found.figures]
        spearmans[QUESTIONS] = {name: mean_spearman(found.questions, name) for name in names}
        differences[QUESTIONS] = {
            name: mean_spearman(found.questions, compared, minus=name)
            for name in names
            if name not in (compared, BareModel.name)  # a model that is never asked anything else has no correlation
        }
    for task, report in found.cases.items():
        spearmans[task] = {name: own.mean for name, own in report.figures.items()}
        differences[task] = {name: value for name, value in report.against.items() if math.isfinite(value.estimate)}
    return spearmans, differences


def _lead(compared: str, differences: Mapping[str, Mapping[str, Interval]]) -> str:
    parts = []
    for task, own in differences.items():
        by_sign = {sign: ", ".join(n for n, value in own.items() if value.sign == sign) for sign in (1, -1, 0)}
        words = {1: "better than", -1: "worse than", 0: "no difference shown to"}
        found = "; ".join(f"{words[sign]} {names}" for sign, names in by_sign.items() if names)
        if found:
            parts.append(f"{TITLES.get(task, 'Open questions')}: {compared} is {found}.")
    return " ".join(parts) or "No task with baselines was run; see the tasks' own reports."


def _table(
    found: DPGResults,
    descriptions: Mapping[str, str],
    spearmans: Mapping[str, Mapping[str, Interval]],
    directory: Path,
) -> Section | None:
    blocks: list[Block | None] = []
    traits = [trait.value for trait in Trait]
    if found.questions is not None:
        rows = [
            [
                method.name,
                *(bounds(method.traits[t].spearman if t in method.traits else None, SIGNED) for t in Trait),
                bounds(spearmans[QUESTIONS][method.name], SIGNED),
                number(method.perplexity),
                number(method.repetition, "{:.1%}"),
                number(method.empty, "{:.0%}"),
            ]
            for method in found.figures
        ]
        plan = found.questions.plan
        asked = max(map(len, plan.questions.values()))
        caption = (
            f"Open questions: Spearman between the level asked for ({', '.join(f'{v:+g}' for v in plan.levels)}, one trait at a "
            f"time) and the judged score, {asked} held-back questions of each trait, which the 95% intervals resample. "
            "Perplexity (under the bare model), repetition (of word 4-grams) and empty answers at the two ends."
        )
        blocks.append(Table(["method", *traits, "mean", "perplexity", "repetition", "empty"], rows, caption))
        blocks.append(few_questions(asked))
    for task, report in found.cases.items():
        rows = [
            [
                name,
                *(bounds(own.spearman[t], SIGNED) for t in Trait),
                bounds(own.mean, SIGNED),
                number(own.compared.mean.pearson),
                number(own.compared.mean.mae),
                number(own.compared.mean.exact, "{:.0%}"),
                number(own.compared.mean.within_one, "{:.0%}"),
                number(report.judged[name].perplexity),
            ]
            for name, own in report.figures.items()
        ]
        head = ["method", *traits, "mean", "Pearson", "mean abs. error", "exact", "within 1", "perplexity"]
        caption = f"{TITLES[task]}: Spearman for each trait, people resampled; then DPG's comparison of the two levels."
        blocks.append(Table(head, rows, caption))
    if not blocks:
        return None
    charts.intervals(
        [(name, {_task(task): own[name] for task, own in spearmans.items()}) for name in descriptions],
        directory / "methods.png",
        label="mean Spearman over traits, 95% interval",
        marks=((0.0, "none"),),
        limits=(-0.5, 1.0),
    )
    picture = Picture("methods.png", "Mean Spearman of each method", "Mean over traits of Spearman, for each task.")
    return Section("All methods", [picture, *blocks])


def _task(task: str) -> str:
    return {QUESTIONS: "open questions", NEW: "new personalities"}.get(task, task)


def _beside(compared: str, differences: Mapping[str, Mapping[str, Interval]]) -> Section | None:
    tasks = [task for task, own in differences.items() if own]
    if not tasks:
        return None
    names = list(dict.fromkeys(name for task in tasks for name in differences[task]))
    rows = [
        [
            name,
            *(
                f"{bounds(own[name], SIGNED)}: {said(own[name])}" if name in own else MISSING
                for own in (differences[task] for task in tasks)
            ),
        ]
        for name in names
    ]
    caption = (
        f"Mean Spearman of {compared} minus that of the other method, on the same questions or people (paired bootstrap, 95%; "
        "not corrected for the number of comparisons)."
    )
    return Section(f"{compared} beside the others", [Table(["other method", *map(_task, tasks)], rows, caption)])


def _reports(found: DPGResults, directory: Path) -> Section:
    names: Sequence[str] = [str(path.relative_to(directory)) for path in found.reports.values()]
    text = f"Answers, levels and pictures of each task: {', '.join(names)}."
    if INTERPOLATION in found.reports:
        text += " How scores move between two personalities is in the last of these."
    return Section("Reports of the tasks", [Text(text)])
