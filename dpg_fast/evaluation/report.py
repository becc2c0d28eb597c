"""The report of an evaluation: what works, beside what, at what cost in fluency and capability, and what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.capability import Capability, MethodCapability, Share
from dpg_fast.evaluation.figures import MethodFigures, TraitFigures
from dpg_fast.evaluation.pictures import draw_sweep
from dpg_fast.evaluation.protocol import Results
from dpg_fast.evaluation.witnesses.panel import Panel
from dpg_fast.evaluation.witnesses.report import panel_data, panel_sections
from dpg_fast.judges.sections import closing_sections, software
from dpg_fast.judges.validation.metrics import level_counts
from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.reporting import (
    Block,
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Table,
    Text,
    bounds,
    charts,
    number,
    write_report,
)
from dpg_fast.reporting.page import MISSING, SIGNED, grouped
from dpg_fast.util.results import json_ready, write_results
from dpg_fast.util.stats import mean_of
from dpg_fast.util.words import counted

RAW = "results.json"
BARE = "bare"
FEW = 8  # questions below which a bootstrap interval is named unreliable


def write_evaluation_report(
    results: Results,
    methods: Sequence[MethodFigures],
    directory: Path,
    *,
    judge: str,
    settings: Mapping[str, Any],
    capability: Capability | None = None,
    panel: Panel | None = None,
) -> Path:
    """Write the report, its pictures and ``results.json`` (every answer, score and figure).

    Args:
        results: of the evaluation.
        methods: figures of each method, the bare model first.
        directory: to write to.
        judge: its own description.
        settings: of the run, JSON-ready.
        capability: of the methods; without it the report says that it was left out.
        panel: what other witnesses say of the same answers.

    Returns:
        Path of ``report.html``.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    plan = results.plan
    rows = [row for own in results.rows.values() for row in own.values()]
    cost = {
        "questions": {trait.value: len(texts) for trait, texts in plan.questions.items()},
        "levels": list(plan.levels),
        "answers": len(rows),
        "answers without any score": sum(not row["scores"] for row in rows),
        "generated tokens": sum(row.get("tokens") or 0 for row in rows),
    }
    about = {**settings, "software": software()}
    figures = {method.name: _plain(method) for method in methods}
    data: dict[str, Any] = {"settings": about | {"judge": judge}, "levels": list(plan.levels), "figures": figures}
    data |= {"capability": json_ready(capability), "witnesses": None if panel is None else panel_data(panel)}
    answers = [
        {"method": name, **row, "trait": key[0], "level": key[1]}
        for name, own in results.rows.items()
        for key, row in own.items()
    ]
    write_results(directory / RAW, json_ready(data | {"answers": answers}))
    tried = [method for method in methods if method.name != BARE]
    descriptions = {method.name: method.description for method in methods}
    works = [f"{method.name} on {_works(method)} of {len(method.traits)}" for method in tried]
    page = Page(
        title="Measured personality",
        subtitle=f"{counted(len(tried), 'method')} beside the bare model on {', '.join(trait.value for trait in plan.traits)}; "
        f"{counted(sum(map(len, plan.questions.values())), 'question')}, {counted(len(plan.levels), 'level')}",
        lead=f"Traits whose judged score moves with the level asked for: {'; '.join(works)}."
        if works
        else "No method was tried.",
        sections=[
            _what_works(results, tried, capability),
            _traits(results, methods, capability),
            costs_section(capability),
            *([] if panel is None else panel_sections(panel)),
            _levels(results, methods, directory),
            _cross(results, tried, directory),
            _examples(results, methods),
            *closing_sections(descriptions, judge, {**cost, **about, "every answer, score and figure": RAW}),
        ],
        data=data,
    )
    return write_report(page, directory)


def verdict(trait: Trait, figures: TraitFigures, ends: tuple[float, float]) -> str:
    """One plain sentence: whether the level asked for moves the judged trait."""
    change = figures.difference
    span = f"from {ends[0]:+g} to {ends[1]:+g} the judged score changes by {bounds(change, SIGNED)}"
    if not np.isfinite(change.estimate):
        return f"{trait.value} cannot be said: no answers could be judged at both ends."
    if change.sign == 0:
        return f"{trait.value} is not shown to work: {span}; the interval includes 0."
    how, distance = ("works", change.low) if change.sign > 0 else ("goes the wrong way", -change.high)
    return f"{trait.value} {how}: {span}; the interval excludes 0 by {distance:.2f}."


def few_questions(asked: int) -> Text | None:
    """A warning where a bootstrap over so few questions says little."""
    warning = f"Only {counted(asked, 'question')} for a trait: the intervals are too narrow to be trusted."
    return Text(warning, strong=True) if asked < FEW else None


def _works(method: MethodFigures) -> int:
    return sum(figures.difference.sign > 0 for figures in method.traits.values())


def _plain(method: MethodFigures) -> dict[str, Any]:
    found: dict[str, Any] = json_ready(method)
    for trait, figures in method.traits.items():
        found["traits"][trait.value]["trait_score"] = json_ready(figures.trait_score)
    return found | json_ready({"trait_score": method.trait_score, "variance": method.variance})


def _what_works(results: Results, tried: Sequence[MethodFigures], capability: Capability | None) -> Section:
    blocks: list[Block | None] = [few_questions(min(map(len, results.plan.questions.values())))]
    for method in tried:
        share = _mean_share(capability, method.name)
        cards = [
            ("method", method.name, f"{_works(method)} of {len(method.traits)} traits work"),
            ("trait score", number(method.trait_score), "2 to 10, as reconstructed; 6 means no effect"),
            ("variance", number(method.variance), "of ratings over questions; lower is steadier"),
            ("perplexity", number(method.perplexity, "{:.1f}"), "of its answers under the bare model"),
            ("repetition", number(method.repetition, "{:.0%}"), "of the words' 4-grams"),
            ("capability", number(share.value, "{:.0%}"), f"{points(share)} points against the bare model")
            if share
            else ("capability", "left out", "of this run"),
        ]
        blocks += [Cards(cards), *(Text(verdict(t, f, results.plan.ends)) for t, f in method.traits.items())]
    return Section("What works", blocks)


def _traits(results: Results, methods: Sequence[MethodFigures], capability: Capability | None) -> Section:
    low, high = results.plan.ends
    rated = any(method.fluency is not None for method in methods)
    summary = []
    for method in methods:
        share = _mean_share(capability, method.name)
        summary.append(
            [
                method.name,
                number(method.trait_score),
                number(method.variance),
                number(mean_of(figures.spearman.estimate for figures in method.traits.values())),
                f"{_works(method)} of {len(method.traits)}",
                number(method.perplexity),
                number(method.repetition, "{:.1%}"),
                number(method.empty, "{:.0%}"),
                *([number(method.fluency)] if rated else []),
                number(share.value, "{:.1%}") if share else "left out",
                points(share) if share else "left out",
            ]
        )
    head = ["method", "trait score, 2-10", "variance", "Spearman", "traits that work", "perplexity", "repetition"]
    head += ["empty", *(["fluency, 1-5"] if rated else []), "capability", "change, points"]
    legend = (
        f"At the ends of the scale ({low:+g} and {high:+g}). Trait score: mean rating (score / 2.5 + 3) of the high pole + (6 - "
        "that of the low pole), the published 0-10 scale as reconstructed; 6 means no effect. Variance: of the ratings over "
        "the test questions, mean of the poles (lower is steadier). Perplexity: of the answers under the bare model. Repetition: "
        "share of repeated word 4-grams. Fluency: rated by the judge, if it does that. Capability: right answers to tasks, "
        f'mean of the ends, and the change against the bare model with its interval; see "{COSTS}".'
    )
    each = grouped(
        {
            method.name: [
                [
                    trait.value,
                    bounds(figures.spearman, SIGNED),
                    number(figures.spearman_means, SIGNED),
                    bounds(figures.difference, SIGNED),
                    f"{number(figures.high)} ({number(figures.variance_high)})",
                    f"{number(figures.low)} ({number(figures.variance_low)})",
                    number(figures.trait_score),
                ]
                for trait, figures in method.traits.items()
            ]
            for method in methods
        }
    )
    columns = ["method", "trait", "Spearman, answers", "Spearman, means", "change, end to end", "high pole, 1-5"]
    caption = (
        "Spearman between level asked for and judged score, over all answers and over the mean of each level; change of the "
        f"judged score from {low:+g} to {high:+g}; mean ratings of the poles with their variance. Brackets: 95% bootstrap "
        "intervals over questions"
    )
    traits = Table([*columns, "low pole, 1-5", "trait score"], each, caption, left=2)
    return Section("Methods and traits", [Table(head, summary, legend), traits])


def _levels(results: Results, methods: Sequence[MethodFigures], directory: Path) -> Section:
    """Dose and response with fluency, and the confusion of levels."""
    plan = results.plan
    draw_sweep(methods, directory / "sweep.png")
    counts: dict[str, dict[Trait, Any]] = {}
    for name in (method.name for method in methods if method.name != BARE):
        for trait in plan.traits:
            cells = {
                level: [row["scores"].get(trait.value, np.nan) for row in results.cell(name, trait, level)]
                for level in plan.levels
            }
            asked = np.repeat(list(cells), [len(found) for found in cells.values()])
            counts.setdefault(name, {})[trait] = level_counts(asked, np.concatenate(list(cells.values())))
    confusion = None
    if counts:
        charts.confusion(counts, directory / "confusion.png")
        caption = "How often answers at a level asked for (row) were judged as which level, over the questions."
        confusion = Picture("confusion.png", "Heat map of asked-for and judged levels", caption)
    fluency = {}
    for method in methods:
        cells_at = [[figures.levels[i] for figures in method.traits.values()] for i in range(len(plan.levels))]
        fluency[method.name] = [
            ["perplexity", *(number(mean_of(cell.perplexity for cell in column)) for column in cells_at)],
            ["repetition", *(number(mean_of(cell.repetition for cell in column), "{:.0%}") for column in cells_at)],
        ]
    caption = (
        "Above: mean judged score against the level asked for. Below: perplexity of the answers under the bare model."
    )
    sweep = Picture("sweep.png", "Judged score and perplexity against the level asked for", caption)
    head = ["method", "", *(f"{level:+g}" for level in plan.levels)]
    return Section(
        "Levels and fluency", [sweep, confusion, Table(head, grouped(fluency), "Mean of the traits", left=2)]
    )


def _cross(results: Results, tried: Sequence[MethodFigures], directory: Path) -> Section | None:
    crossed = {method.name: method.cross for method in tried if method.cross is not None}
    if not crossed:
        return None
    traits = results.plan.traits
    cells = {name: [[cross[i][j] for j in traits] for i in traits] for name, cross in crossed.items()}
    letters = [trait.letter for trait in traits]
    charts.matrices(
        {name: [[cell.estimate for cell in row] for row in table] for name, table in cells.items()},
        letters,
        letters,
        directory / "cross_trait.png",
        limit=2 * MAX_SCORE,
        label="change of judged score",
        row_label="steered trait",
        column_label="judged trait",
        strong={name: [[cell.sign != 0 for cell in row] for row in table] for name, table in cells.items()},
    )
    low, high = results.plan.ends
    caption = (
        f"Change of each judged trait (column) when the row's trait goes from {low:+g} to {high:+g}. Off the diagonal nothing "
        "was asked for; traits that bleed into each other, in the model or in the judge, show here. Bold: the 95% interval "
        "excludes 0."
    )
    rows = grouped(
        {
            name: [[t.value, *(bounds(cell, SIGNED) for cell in row)] for t, row in zip(traits, table, strict=True)]
            for name, table in cells.items()
        }
    )
    table = Table(["method", "steered", *(trait.value for trait in traits)], rows, left=2)
    return Section("Across traits", [Picture("cross_trait.png", "Change of each judged trait", caption), table])


def _examples(results: Results, methods: Sequence[MethodFigures]) -> Section:
    """What is said to the first question of each trait at both ends."""
    quotes = []
    for trait in results.plan.traits:
        question = results.plan.questions[trait][0]
        for method in methods:
            for level in [0.0] if method.name == BARE else results.plan.ends:
                key = (trait.value, float(level), question)
                row = results.rows[method.name].get(key) or results.cell(method.name, trait, results.plan.ends[0])[0]
                who = method.name if method.name == BARE else f"{method.name}, {trait.value} {level:+g}"
                score = row["scores"].get(trait.value)
                judged = f"judged {number(score, '{:+.1f}')}" if score is not None else "not judged"
                quotes.append(Quote(who, row["answer"] or "(nothing)", question, judged))
    return Section("What they say", [Quotes(quotes)])


# ------------------------------------------------------------------ capability

COSTS = "What steering costs"
LEFT_OUT = "Capability was left out of this run: what the methods cost beyond fluency is not known."


def costs_section(capability: Capability | None) -> Section:
    """Right answers to each task by each method, and the change against the bare model as each personality."""
    if capability is None:
        return Section(COSTS, [Text(LEFT_OUT, strong=True)])
    tasks = [
        [
            name,
            *(f"{share.value:.1%}" + (f" ({points(share)})" if share.change else "") for share in found.tasks.values()),
            f"{found.mean.value:.1%}",
            points(found.mean),
            MISSING if found.worst is None else f"{found.worst}: {found.people[found.worst].value:.1%}",
        ]
        for name, found in capability.methods.items()
    ]
    people = [
        [name, *(points(found.people[who]) for who in capability.people)]
        for name, found in capability.methods.items()
        if found.people
    ]
    return Section(
        COSTS,
        [
            Text(capability.describe()),
            Table(["method", *capability.items, "mean", "change, points", "worst"], tasks),
            Table(["change, points", *capability.people], people) if people else None,
        ],
    )


def cost_sentence(found: MethodCapability) -> str:
    """One plain sentence: how many tasks a method still does, beside the bare model."""
    return f"right answers to tasks: {found.mean.value:.1%}, change against the bare model {points(found.mean)} points."


def points(share: Share) -> str:
    """The change in points with its interval."""
    return bounds(share.change and share.change.scaled(100), "{:+.1f}")


def _mean_share(capability: Capability | None, method: str) -> Share | None:
    """None where capability was left out, or for a method that could not sit the tasks (a model behind an API)."""
    found = capability.methods.get(method) if capability else None
    return found.mean if found else None
