"""One table of a comparison: every method on every task, and the method compared beside each other one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.case_report import said
from dpg_fast.evaluation.dpg.plan import INTERPOLATION, NEW, QUESTIONS
from dpg_fast.evaluation.dpg.run import TITLES, DPGResults
from dpg_fast.evaluation.figures import mean_difference, mean_spearman
from dpg_fast.evaluation.methods import BareModel
from dpg_fast.evaluation.page import FEW, LEFT_OUT, cost_tables
from dpg_fast.judges.sections import closing_sections, software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import charts
from dpg_fast.reporting.markdown import write_markdown
from dpg_fast.reporting.page import Block, Page, Picture, Section, Table, Text, bounds, number, write_page
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval

_SIGNED = "{:+.2f}"


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
    spearmans, differences, data = _numbers(found, compared)
    about = {**settings, "software": software()}
    sections = [
        _table(found, descriptions, spearmans, directory),
        _beside(compared, differences),
        _capability(found),
        _reports(found, directory),
        *closing_sections(descriptions, judge, about),
    ]
    page = Page(
        title="Generated personalities beside their baselines",
        subtitle=f"{len(descriptions)} methods; tasks: {', '.join(found.reports)}",
        lead=_lead(compared, differences),
        sections=[section for section in sections if section is not None],
        data={"settings": about, "judge": judge, **data},
    )
    write_markdown(page, directory)
    return write_page(page, directory)


def _numbers(
    found: DPGResults, compared: str
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]], dict[str, Any]]:
    """Mean Spearman: task -> method -> value; task -> other method -> difference; and both in JSON types."""
    spearmans: dict[str, dict[str, Interval]] = {}
    differences: dict[str, dict[str, Interval]] = {}
    if found.questions is not None:
        names = [method.name for method in found.figures]
        spearmans[QUESTIONS] = {name: mean_spearman(found.questions, name) for name in names}
        differences[QUESTIONS] = {
            name: mean_difference(found.questions, compared, name)
            for name in names
            if name not in (compared, BareModel.name)  # a model that is never asked anything else has no correlation
        }
    for task, report in found.cases.items():
        spearmans[task] = {name: own.mean for name, own in report.figures.items()}
        differences[task] = {name: value for name, value in report.against.items() if math.isfinite(value.estimate)}
    plain: dict[str, Any] = json_ready(
        {
            "mean_spearman": {task: {name: asdict(v) for name, v in own.items()} for task, own in spearmans.items()},
            "differences": {task: {name: asdict(v) for name, v in own.items()} for task, own in differences.items()},
            "capability": asdict(found.capability) if found.capability is not None else None,
        }
    )
    return spearmans, differences, plain


def _lead(compared: str, differences: Mapping[str, Mapping[str, Interval]]) -> str:
    parts = []
    for task, own in differences.items():
        better = [name for name, value in own.items() if value.low > 0]
        worse = [name for name, value in own.items() if value.high < 0]
        open_ = [name for name in own if name not in (*better, *worse)]
        said_ = [
            text
            for names, text in (
                (better, f"better than {', '.join(better)}"),
                (worse, f"worse than {', '.join(worse)}"),
                (open_, f"no difference shown to {', '.join(open_)}"),
            )
            if names
        ]
        if said_:
            parts.append(f"{TITLES.get(task, 'Open questions')}: {compared} is {'; '.join(said_)}.")
    return " ".join(parts) or "No task with baselines was run; see the tasks' own reports."


def _table(
    found: DPGResults,
    descriptions: Mapping[str, str],
    spearmans: Mapping[str, Mapping[str, Interval]],
    directory: Path,
) -> Section | None:
    blocks: list[Block] = []
    if found.questions is not None:
        rows = []
        for method in found.figures:
            cells = [bounds(method.traits[t].spearman, _SIGNED) if t in method.traits else "–" for t in Trait]
            rows.append(
                [
                    method.name,
                    *cells,
                    bounds(spearmans[QUESTIONS][method.name], _SIGNED),
                    number(method.perplexity),
                    number(method.repetition, "{:.1%}"),
                    number(method.empty, "{:.0%}"),
                ]
            )
        plan = found.questions.plan
        asked = max(map(len, plan.questions.values()))
        caption = (
            f"Open questions: Spearman between the level asked for ({', '.join(f'{v:+g}' for v in plan.levels)}, one trait at a "
            f"time) and the judged score, {asked} held-back questions of each trait, which the 95% intervals resample. "
            "Perplexity (under the bare model), repetition (of word 4-grams) and empty answers at the two ends."
        )
        blocks.append(
            Table(["method", *(t.value for t in Trait), "mean", "perplexity", "repetition", "empty"], rows, caption)
        )
        if asked < FEW:
            blocks.append(
                Text(f"Only {asked} questions for a trait: the intervals are too narrow to be trusted.", strong=True)
            )
    for task, report in found.cases.items():
        rows = []
        for name, own in report.figures.items():
            mean = own.compared.mean
            rows.append(
                [
                    name,
                    *(bounds(own.spearman[t], _SIGNED) for t in Trait),
                    bounds(own.mean, _SIGNED),
                    number(mean.pearson),
                    number(mean.mae),
                    number(mean.exact, "{:.0%}"),
                    number(mean.within_one, "{:.0%}"),
                    number(report.judged[name].perplexity),
                ]
            )
        head = [
            "method",
            *(t.value for t in Trait),
            "mean",
            "Pearson",
            "mean abs. error",
            "exact",
            "within 1",
            "perplexity",
        ]
        caption = f"{TITLES[task]}: Spearman for each trait, people resampled; then DPG's comparison of the two levels."
        blocks.append(Table(head, rows, caption))
    if not blocks:
        return None
    rows_of_picture = [
        (name, {_task(task): (v.estimate, v.low, v.high) for task, own in spearmans.items() if (v := own[name])})
        for name in descriptions
    ]
    charts.intervals(
        rows_of_picture,
        directory / "methods.png",
        label="mean Spearman over traits, 95% interval",
        marks=((0.0, "none"),),
        floor=-0.5,
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
                f"{bounds(own[name], _SIGNED)}: {said(own[name])}" if name in own else "–"
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


def _capability(found: DPGResults) -> Section:
    if found.capability is None:
        return Section("What it costs", [Text(LEFT_OUT, strong=True)])
    tasks, _ = cost_tables(found.capability)
    return Section("What it costs", [Text(found.capability.describe()), Table(*tasks)])


def _reports(found: DPGResults, directory: Path) -> Section:
    names: Sequence[str] = [str(path.relative_to(directory)) for path in found.reports.values()]
    text = f"Answers, levels and pictures of each task: {', '.join(names)}."
    if INTERPOLATION in found.reports:
        text += " How scores move between two personalities is in the last of these."
    return Section("Reports of the tasks", [Text(text)])
