"""The report of interpolations: a picture of judged scores on the way, and how steadily they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.dpg.interpolation import InterpolationLine, TraitLine
from dpg_fast.judges.sections import closing_sections, software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Page, Picture, Section, Table, bounds, charts, number, write_report
from dpg_fast.reporting.page import SIGNED
from dpg_fast.util.words import counted

#: method -> figures of each trait that changes
LineFigures = Mapping[str, Mapping[Trait, TraitLine]]
_STEADY = 0.9


def write_line_report(
    lines: Sequence[tuple[InterpolationLine, LineFigures]],
    questions: int,
    descriptions: Mapping[str, str],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``interpolation.png``; the page's path.

    Args:
        lines: what was walked, and what was found.
        questions: of each trait.
        descriptions: method name -> what it is.
        directory: to write to.
        judge: its own description.
        settings: of the run, JSON-ready.
    """
    panels: dict[str, dict[str, Any]] = {}
    asked: dict[str, Any] = {}
    rows, good, every = [], 0, 0
    for line, methods in lines:
        for trait in line.traits:
            title = f"{line.label}: {trait.value}"
            panels[title] = {name: (f[trait].means, f[trait].low, f[trait].high) for name, f in methods.items()}
            asked[title] = [person.scores[trait.position] for person in line.people]
            for name, found in methods.items():
                own = found[trait]
                every += 1
                good += own.spearman.estimate >= _STEADY
                rows.append(
                    [
                        line.label,
                        trait.value,
                        name,
                        bounds(own.spearman, SIGNED),
                        bounds(own.ordered, "{:.0%}"),
                        number(own.wrong, "{:.1f}"),
                        bounds(own.change, "{:+.1f}"),
                    ]
                )
    steps = len(lines[0][0].people)
    charts.lines(
        panels,
        np.linspace(0, 1, steps),
        directory / "interpolation.png",
        label="way from the first to the second",
        asked=asked,
    )
    head = ["from → to", "trait", "method", "Spearman of the means", "pairs in order", "largest step back", "change"]
    caption = (
        f"Of {counted(steps, 'step')}; {questions} held-back questions of each trait, which the 95% intervals "
        f"resample. Spearman between "
        "step and mean judged score, 1 where it always moves the way asked for; share of pairs of steps in the right order (50% "
        "by chance); largest single step in the wrong direction; change from the first to the last step, the way asked for."
    )
    about = {**settings, "software": software()}
    picture = Picture(
        "interpolation.png",
        "Mean judged score against the way from one personality to the other",
        "Bands: 95% bootstrap intervals over questions. Dotted: the level asked for.",
    )
    page = Page(
        title="From one personality to another",
        subtitle=f"{counted(len(lines), 'pair')}, {counted(steps, 'step')} each",
        lead=f"In {good} of {every} cases the mean judged score follows the way with a rank correlation of at least {_STEADY}.",
        sections=[
            Section("Judged scores on the way", [picture, Table(head, rows, caption, left=3)]),
            *closing_sections(descriptions, judge, about),
        ],
        data={
            "settings": about,
            "judge": judge,
            "lines": [
                {"label": line.label, "people": [person.scores for person in line.people], "methods": found}
                for line, found in lines
            ],
        },
    )
    return write_report(page, directory)
