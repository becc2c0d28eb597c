"""The report of whole personalities: correlations with intervals, DPG's comparison, heat maps, paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.assess.evaluation.cases import Case, CaseFigures, Scores, case_figures, compare_methods
from dpg_fast.assess.evaluation.report import format_interval as _interval
from dpg_fast.assess.evaluation.report import format_table as _table
from dpg_fast.assess.evaluation.report import software
from dpg_fast.assess.metrics import LEVELS
from dpg_fast.assess.statistics import Interval
from dpg_fast.files import write_text
from dpg_fast.neurons.plots import new_figure, save_figure
from dpg_fast.personality import Trait


@dataclass(frozen=True)
class CaseReport:
    """Figures of every method, and of the first beside each other.

    Attributes:
        figures: method name -> figures.
        against: other method's name -> mean Spearman of the method compared minus that one's, people resampled in pairs.
        compared: name of the method compared.
    """

    figures: dict[str, CaseFigures]
    against: dict[str, Interval]
    compared: str


def build_case_report(
    cases: Sequence[Case], judged: Mapping[str, Scores], compared: str, *, resamples: int = 1000
) -> CaseReport:
    """Compute everything; ``compared`` names the method that the others are set against."""
    figures = {name: case_figures(cases, scores, resamples=resamples) for name, scores in judged.items()}
    rivals = {name: scores for name, scores in judged.items() if name != compared}
    against = {
        name: compare_methods(cases, judged[compared], scores, resamples=resamples) for name, scores in rivals.items()
    }
    return CaseReport(figures, against, compared)


def write_case_report(
    task: str,
    cases: Sequence[Case],
    report: CaseReport,
    descriptions: Mapping[str, str],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
) -> Path:
    """Write ``report.md``, ``figures.json`` and the heat maps; the report's path."""
    draw_heat_maps(report, directory / "levels.png")
    people = len({case.key[0] for case in cases})
    head = ["method", "mean of traits", *(t.value for t in Trait), "mean absolute error", "within 1", "exact"]
    rows = []
    for name, found in report.figures.items():
        mean = found.compared.mean
        rows.append(
            [
                name,
                _interval(found.mean),
                *(_interval(found.spearman[t]) for t in Trait),
                f"{mean.mae:.2f}",
                f"{mean.within_one:.0%}",
                f"{mean.exact:.0%}",
            ]
        )
    lines = [
        f"# {task}",
        f"{people} people, {len(cases)} answers of each method. Spearman between the level asked for and the judged score, over "
        "answers; brackets: 95% bootstrap intervals, people resampled.",
        _table(head, rows),
        f"## {report.compared} beside the others",
        "Mean Spearman of the first minus that of the second, the same people drawn for both.",
        _table(["other method", "difference"], [[name, _interval(v)] for name, v in report.against.items()]),
        "![Judged level (up) against the level asked for (right)](levels.png)",
        "## What was compared",
        "\n".join(f"- {name}: {text}" for name, text in descriptions.items()),
        "## Judge",
        judge,
        "## Settings",
        "\n".join(
            f"- {k}: {json.dumps(v, ensure_ascii=False)}" for k, v in {**settings, "software": software()}.items()
        ),
    ]
    write_text(directory / "figures.json", json.dumps(_plain(report), indent=1) + "\n")
    write_text(directory / "report.md", "\n\n".join(lines) + "\n")
    return directory / "report.md"


def draw_heat_maps(report: CaseReport, path: Path) -> None:
    """How often each level was judged (up) for each level asked for (right): a row for each method, a column for each trait."""
    names = list(report.figures)
    figure, axes = new_figure(1.4 + 1.9 * len(Trait), 0.6 + 2.0 * len(names), len(names), len(Trait))
    for row, name in enumerate(names):
        for column, trait in enumerate(Trait):
            axis = axes[row * len(Trait) + column]
            counts = report.figures[name].compared.confusion[trait].astype(float)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axis.imshow(shares.T, origin="lower", cmap="Blues", vmin=0, vmax=1, extent=(-5.5, 5.5, -5.5, 5.5))
            axis.set_xticks(LEVELS[::5])
            axis.set_yticks(LEVELS[::5])
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(trait.value, fontsize=8)
            if column == 0:
                axis.set_ylabel(name, fontsize=7)
    save_figure(figure, path)


def _plain(report: CaseReport) -> dict[str, Any]:
    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): number(v) for k, v in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    figures = {
        name: {
            "mean_spearman": number(asdict(found.mean)),
            "spearman": {t.value: number(asdict(v)) for t, v in found.spearman.items()},
            **found.compared.to_dict(),
        }
        for name, found in report.figures.items()
    }
    return {"figures": figures, "against": {name: number(asdict(v)) for name, v in report.against.items()}}
