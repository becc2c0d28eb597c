"""The report of whole personalities: correlations with intervals, DPG's comparison, heat maps, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.cases import Case, CaseFigures, JudgedCases, case_figures, compare_methods
from dpg_fast.judges.sections import closing_sections, fidelity_table, software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Page, Picture, Quote, Quotes, Section, Table, Text, bounds, charts, number, write_report
from dpg_fast.reporting.page import SIGNED
from dpg_fast.util.stats import Interval
from dpg_fast.util.words import counted


@dataclass(frozen=True)
class CaseReport:
    """Figures of every method, and of one beside each other.

    Attributes:
        figures: method name -> figures.
        against: other method's name -> mean Spearman of the method compared minus that one's, people resampled in pairs.
        compared: name of the method compared.
        judged: what the figures are of.
        groups: name of a part of the cases -> method -> mean Spearman there.
        sizes: name of a part -> number of cases.
    """

    figures: dict[str, CaseFigures]
    against: dict[str, Interval]
    compared: str
    judged: dict[str, JudgedCases]
    groups: dict[str, dict[str, Interval]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def build_case_report(
    cases: Sequence[Case],
    judged: Mapping[str, JudgedCases],
    compared: str,
    *,
    groups: Mapping[str, Sequence[bool]] | None = None,
    resamples: int = 1000,
) -> CaseReport:
    """Compute everything.

    Args:
        cases: what was asked.
        judged: method name -> what came of it.
        compared: the method that the others are set against.
        groups: names of parts of the cases -> whether a case belongs to it.
        resamples: of each bootstrap.
    """
    figures = {name: case_figures(cases, own.scores, resamples=resamples) for name, own in judged.items()}
    against = {
        name: compare_methods(cases, judged[compared].scores, own.scores, resamples=resamples)
        for name, own in judged.items()
        if name != compared
    }
    parts: dict[str, dict[str, Interval]] = {}
    sizes: dict[str, int] = {}
    for group, members in (groups or {}).items():
        rows = np.flatnonzero(np.asarray(members))
        sizes[group] = len(rows)
        if len(rows) > 1:
            own_cases = [cases[row] for row in rows.tolist()]
            parts[group] = {
                name: case_figures(own_cases, own.scores[rows], resamples=resamples).mean
                for name, own in judged.items()
            }
    return CaseReport(figures, against, compared, dict(judged), parts, sizes)


def write_case_report(
    task: str,
    cases: Sequence[Case],
    report: CaseReport,
    descriptions: Mapping[str, str],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and the heat maps; the page's path.

    Args:
        task: the title.
        cases, report: what was asked, and what was found.
        descriptions: method name -> what it is.
        directory: to write to.
        judge: its own description.
        settings: of the run, JSON-ready.
        notes: sentences that belong to the task.
    """
    charts.confusion(
        {name: found.compared.confusion for name, found in report.figures.items()}, directory / "levels.png"
    )
    people = len({case.key[0] for case in cases})
    about = {**settings, "software": software()}
    best = bounds(report.figures[report.compared].mean)
    lead = f"{report.compared}: mean Spearman between the level asked for and the judged score {best}."
    levels = Picture(
        "levels.png",
        "Judged level against the level asked for",
        "How often a level asked for (row) was judged as which level (column), a row of maps for each method.",
    )
    page = Page(
        title=task,
        subtitle=f"{counted(people, 'person', 'people')}, {counted(len(cases), 'answer')} of each of "
        f"{counted(len(report.figures), 'method')}",
        lead=" ".join([lead, *notes]),
        sections=[
            _figures(report, people),
            _beside(report),
            Section("Levels", [levels]),
            _examples(cases, report),
            *closing_sections(descriptions, judge, about),
        ],
        data={"settings": about, "judge": judge, **_data(report)},
    )
    return write_report(page, directory)


def _figures(report: CaseReport, people: int) -> Section:
    rows = [
        [
            name,
            bounds(found.mean, SIGNED),
            *(bounds(found.spearman[t], SIGNED) for t in Trait),
            number(report.judged[name].perplexity),
            number(report.judged[name].repetition, "{:.1%}"),
            number(report.judged[name].empty, "{:.0%}"),
        ]
        for name, found in report.figures.items()
    ]
    head = ["method", "mean of traits", *(t.value for t in Trait), "perplexity", "repetition", "empty"]
    caption = (
        "Spearman between the level asked for and the judged score, over answers; brackets: 95% bootstrap intervals, people "
        "resampled. Perplexity: of the answers under the bare model. Repetition: share of repeated word 4-grams."
    )
    parts = list(report.groups)
    groups = Table(
        ["method", *(f"{part} ({counted(report.sizes[part], 'answer')})" for part in parts)],
        [[name, *(bounds(report.groups[part][name], SIGNED) for part in parts)] for name in report.figures],
        "Mean Spearman over parts of the cases.",
    )
    few = f"Only {counted(people, 'person', 'people')}: the intervals are too narrow to be trusted."
    return Section(
        "Figures",
        [
            Table(head, rows, caption),
            Text(few, strong=True) if people < 20 else None,
            groups if parts else None,
            fidelity_table({name: found.compared for name, found in report.figures.items()}),
        ],
    )


def _beside(report: CaseReport) -> Section | None:
    if not report.against:
        return None
    caption = (
        "Mean Spearman of the first minus that of the second, the same people drawn for both (paired bootstrap, 95%). Intervals "
        "are not corrected for the number of comparisons."
    )
    rows = [[name, bounds(found, SIGNED), said(found)] for name, found in report.against.items()]
    return Section(f"{report.compared} beside the others", [Table(["other method", "difference", ""], rows, caption)])


def said(difference: Interval) -> str:
    """What the interval of a difference says."""
    return ("no difference shown", "better", "worse")[difference.sign]


def _examples(cases: Sequence[Case], report: CaseReport) -> Section:
    quotes = []
    for row in np.linspace(0, len(cases) - 1, min(3, len(cases))).astype(int).tolist():
        case = cases[row]
        for name, own in report.judged.items():
            judged = ", ".join(f"{t.value} {number(own.scores[row, t.position], '{:+.1f}')}" for t in case.traits)
            who = f"{name}, asked to be {case.personality}"
            quotes.append(Quote(who, own.answers[row] or "(nothing)", case.question, f"judged {judged}"))
    return Section("What they say", [Quotes(quotes)])


def _data(report: CaseReport) -> dict[str, Any]:
    figures = {
        name: {
            "mean_spearman": found.mean,
            "spearman": found.spearman,
            "perplexity": report.judged[name].perplexity,
            "repetition": report.judged[name].repetition,
            "empty": report.judged[name].empty,
            **found.compared.to_dict(),
        }
        for name, found in report.figures.items()
    }
    answers = {name: own.answers for name, own in report.judged.items()}
    return {"figures": figures, "against": report.against, "groups": report.groups, "answers": answers}
