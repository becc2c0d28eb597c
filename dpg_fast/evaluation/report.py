"""The report of an evaluation: what works, by how much, at what cost in fluency, and what was done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.capability import Capability, MethodCapability
from dpg_fast.evaluation.figures import MethodFigures, TraitFigures
from dpg_fast.evaluation.page import (
    BARE,
    COSTS,
    FEW,
    LEFT_OUT,
    cost_tables,
    points,
    summary,
    summary_legend,
    write_evaluation_page,
)
from dpg_fast.evaluation.pictures import draw_cross, draw_sweep
from dpg_fast.evaluation.protocol import Results
from dpg_fast.judges.sections import software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting.markdown import MARKDOWN, markdown_table
from dpg_fast.util.files import write_text
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval

RAW = "results.json"


def write_report(
    results: Results,
    methods: Sequence[MethodFigures],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
    capability: Capability | None = None,
) -> Path:
    """Write ``report.html``, ``report.md``, their pictures and ``results.json`` (every answer, score and figure).

    Returns:
        Path of ``report.html``.

    Args:
        results: of the evaluation.
        methods: figures of each method, the bare model first.
        directory: to write to.
        judge: its own description.
        settings: of the run, JSON-ready.
        capability: of the methods; without it the report says that it was left out.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    draw_sweep(methods, directory / "sweep.png")
    crossed = any(method.cross is not None for method in methods)
    if crossed:
        draw_cross([method for method in methods if method.name != BARE], directory / "cross_trait.png")
    about = {**settings, "software": software(), "judge": judge}
    raw = _raw(results, methods, about) | {"capability": asdict(capability) if capability else None}
    write_text(directory / RAW, json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    parts = [
        "# Measured personality",
        *_what_works(results, methods),
        *_methods(methods, results, capability),
        *_costs(capability),
        *_traits(methods),
        "## Judged against requested level, and fluency",
        "![Judged score and perplexity against the requested level](sweep.png)",
        *_fluency(methods),
        *(_cross(methods, results) if crossed else []),
        *_settings(results, methods, judge, about),
    ]
    write_text(directory / MARKDOWN, "\n\n".join(parts) + "\n")
    verdicts = {m.name: [verdict(t, f, results.plan.ends) for t, f in m.traits.items()] for m in methods}
    figures = {name: value for name, value in raw.items() if name != "answers"}  # those are in results.json
    return write_evaluation_page(
        results, methods, directory, verdicts=verdicts, judge=judge, about=about, data=figures, capability=capability
    )


def verdict(trait: Trait, figures: TraitFigures, ends: tuple[float, float]) -> str:
    """One plain sentence: whether the level asked for moves the judged trait."""
    change = figures.difference
    span = f"from {ends[0]:+g} to {ends[1]:+g} the judged score changes by {format_interval(change)}"
    if math.isnan(change.estimate):
        return f"{trait.value} cannot be said: no answers could be judged at both ends."
    if change.low > 0:
        return f"{trait.value} **works**: {span}; the interval excludes 0 by {change.low:.2f}."
    if change.high < 0:
        return f"{trait.value} goes the **wrong way**: {span}; the interval excludes 0 by {-change.high:.2f}."
    return f"{trait.value} is **not shown to work**: {span}; the interval includes 0."


def cost_sentence(found: MethodCapability) -> str:
    """One plain sentence: how many tasks a method still does, beside the bare model."""
    return f"right answers to tasks: {found.mean.value:.1%}, change against the bare model {points(found.mean)} points."


def _what_works(results: Results, methods: Sequence[MethodFigures]) -> list[str]:
    parts = ["## What works"]
    fewest = min(map(len, results.plan.questions.values()))
    if fewest < FEW:
        parts.append(
            f"**Only {fewest} questions for a trait: the intervals are too narrow to be trusted.** They resample the questions "
            "that were asked."
        )
    for method in methods:
        if method.name == BARE:
            continue
        lines = [f"- {verdict(trait, figures, results.plan.ends)}" for trait, figures in method.traits.items()]
        parts.append(f"### {method.name}\n\n" + "\n".join(lines))
    return parts


def _methods(methods: Sequence[MethodFigures], results: Results, capability: Capability | None) -> list[str]:
    return ["## Methods", markdown_table(*summary(methods, capability)), summary_legend(results)]


def _costs(capability: Capability | None) -> list[str]:
    parts = [f"## {COSTS}"]
    if capability is None:
        return [*parts, f"**{LEFT_OUT}**"]
    return [*parts, capability.describe(), *(markdown_table(*cells) for cells in cost_tables(capability))]


def _traits(methods: Sequence[MethodFigures]) -> list[str]:
    rows = [
        [
            trait.value if number == 0 else "",
            method.name,
            format_interval(method.traits[trait].spearman),
            f"{method.traits[trait].spearman_means:+.2f}",
            format_interval(method.traits[trait].difference),
            f"{method.traits[trait].high:.2f} ({_number(method.traits[trait].variance_high)})",
            f"{method.traits[trait].low:.2f} ({_number(method.traits[trait].variance_low)})",
        ]
        for trait in methods[0].traits
        for number, method in enumerate(methods)
    ]
    head = [
        "trait",
        "method",
        "Spearman, answers",
        "Spearman, means",
        "change, end to end",
        "high pole, 1-5",
        "low pole, 1-5",
    ]
    return [
        "## Traits",
        markdown_table(head, rows),
        "Spearman between requested level and judged score, over all answers and over the mean of each level; change of the "
        "judged score (-5 to 5); mean ratings of the poles with their variance over questions. Brackets: 95% bootstrap "
        "intervals, questions resampled.",
    ]


def _fluency(methods: Sequence[MethodFigures]) -> list[str]:
    levels = [level.level for level in next(iter(methods[0].traits.values())).levels]
    rows = []
    for method in methods:
        cells = [[figures.levels[i] for figures in method.traits.values()] for i in range(len(levels))]
        rows.append([method.name, *(_mean([cell.perplexity for cell in column]) for column in cells)])
        rows.append(["repetition", *(f"{sum(c.repetition for c in column) / len(column):.0%}" for column in cells)])
    return [
        "Perplexity and repetition at each requested level, mean of the traits:",
        markdown_table(["", *(f"{v:+g}" for v in levels)], rows),
    ]


def _cross(methods: Sequence[MethodFigures], results: Results) -> list[str]:
    low, high = results.plan.ends
    parts = [
        "## Responses across traits",
        f"Change of the judged score of each column's trait when the row's trait goes from {low:+g} to {high:+g}. Off the "
        "diagonal nothing was asked for; traits that bleed into each other, in the model or in the judge, show here. Bold in the "
        "picture: the 95% interval excludes 0.",
        "![Change of each judged trait](cross_trait.png)",
    ]
    for method in methods:
        if method.cross is None or method.name == BARE:
            continue
        rows = [[moved.value, *map(format_interval, found.values())] for moved, found in method.cross.items()]
        parts.append(f"### {method.name}\n\n" + markdown_table(["steered", *(t.value for t in method.cross)], rows))
    return parts


def _settings(results: Results, methods: Sequence[MethodFigures], judge: str, about: Mapping[str, Any]) -> list[str]:
    asked = ", ".join(f"{trait.value} {len(texts)}" for trait, texts in results.plan.questions.items())
    unjudged = sum(not row["scores"] for rows in results.rows.values() for row in rows.values())
    lines = [f"- questions: {asked}", f"- levels: {', '.join(f'{level:+g}' for level in results.plan.levels)}"]
    lines += [f"- {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in about.items() if name != "judge"]
    lines.append(f"- answers without any score: {unjudged} (they count in fluency alone)")
    described = "\n".join(f"- {method.name}: {method.description}" for method in methods)
    return [
        "## What was compared",
        described,
        "## Judge",
        judge,
        "## Settings",
        "\n".join(lines),
        f"Every answer, score and figure: {RAW}.",
    ]


def _raw(results: Results, methods: Sequence[MethodFigures], about: Mapping[str, Any]) -> dict[str, Any]:
    figures = {}
    for method in methods:
        plain: dict[str, Any] = json_ready(asdict(method))
        for trait, found in method.traits.items():
            plain["traits"][trait.value]["trait_score"] = json_ready(found.trait_score)
        figures[method.name] = {
            **plain,
            "trait_score": json_ready(method.trait_score),
            "variance": json_ready(method.variance),
        }
    answers = [
        {"method": name, **{**row, "trait": key[0], "level": key[1]}}
        for name, rows in results.rows.items()
        for key, row in rows.items()
    ]
    return {"settings": dict(about), "levels": list(results.plan.levels), "figures": figures, "answers": answers}


def format_interval(found: Interval) -> str:
    """The estimate with its bounds, or a dash where it is undefined."""
    if math.isnan(found.estimate):
        return "-"
    return f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if not math.isnan(value)]
    return _number(sum(finite) / len(finite) if finite else math.nan)
