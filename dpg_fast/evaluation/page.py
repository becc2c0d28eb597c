"""The HTML report of an evaluation of methods: what works, beside what, at what cost in fluency, and what is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.capability import Capability, MethodCapability, Share
from dpg_fast.evaluation.figures import MethodFigures
from dpg_fast.evaluation.protocol import Results
from dpg_fast.judges.metrics import LEVELS, nearest_level
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import charts
from dpg_fast.reporting.page import (
    Block,
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    Text,
    bounds,
    number,
    write_page,
)

BARE = "bare"
FEW = 8  # questions below which a bootstrap interval is named unreliable
LEFT_OUT = "Capability was left out of this run: what the methods cost beyond fluency is not known."
COSTS = "What steering costs"
Cells = tuple[list[str], list[list[str]]]


def write_evaluation_page(
    results: Results,
    methods: Sequence[MethodFigures],
    directory: Path,
    *,
    verdicts: Mapping[str, Sequence[str]],
    judge: str,
    about: Mapping[str, Any],
    data: Mapping[str, Any],
    capability: Capability | None,
) -> Path:
    """Write the page of `evaluation.report.write_report`, whose pictures ``sweep.png`` and ``cross_trait.png`` are there already.

    Args:
        results, methods: of the evaluation, the bare model first.
        directory: to write to.
        verdicts: method -> a plain sentence for each trait.
        judge: its own description.
        about: settings and software.
        data: everything in JSON types.
        capability: of the methods; None where it was left out.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    tried = [method for method in methods if method.name != BARE]
    sections = [
        _overview(results, tried, verdicts, capability),
        _methods(methods, results, capability),
        _costs(capability),
        _levels(results, methods, directory),
        _cross(methods),
        _examples(results, methods),
        Section("Judge", [Text(judge)]),
        _settings(results, methods, about),
    ]
    traits = ", ".join(trait.value for trait in results.plan.traits)
    page = Page(
        title="Measured personality",
        subtitle=f"{len(tried)} methods beside the bare model on {traits}; "
        f"{sum(map(len, results.plan.questions.values()))} questions, {len(results.plan.levels)} levels",
        lead=_lead(tried),
        sections=[section for section in sections if section is not None],
        data=data,
    )
    return write_page(page, directory)


def _lead(tried: Sequence[MethodFigures]) -> str:
    works = [f"{m.name} on {_works(m)} of {len(m.traits)}" for m in tried]
    return (
        f"Traits whose judged score moves with the level asked for: {'; '.join(works)}."
        if works
        else "Nothing was tried."
    )


def _works(method: MethodFigures) -> int:
    return sum(figures.difference.low > 0 for figures in method.traits.values())


def summary(methods: Sequence[MethodFigures], capability: Capability | None) -> Cells:
    """Head and rows of the table of methods, the same on the page and in Markdown."""
    head = [
        "method",
        "trait score, 2-10",
        "variance",
        "Spearman",
        "traits that work",
        "perplexity",
        "repetition",
        "empty",
    ]
    rated = any(method.fluency is not None for method in methods)
    head += [*(["fluency, 1-5"] if rated else []), "capability", "change, points"]
    rows = []
    for method in methods:
        found = _mean_share(capability, method.name)
        rows.append(
            [
                method.name,
                number(method.trait_score),
                number(method.variance),
                _mean([figures.spearman.estimate for figures in method.traits.values()]),
                f"{_works(method)} of {len(method.traits)}",
                number(method.perplexity),
                number(method.repetition, "{:.1%}"),
                number(method.empty, "{:.0%}"),
                *([number(method.fluency)] if rated else []),
                number(found.value, "{:.1%}") if found else "left out",
                points(found) if found else "left out",
            ]
        )
    return head, rows


def _mean_share(capability: Capability | None, method: str) -> Share | None:
    """None where capability was left out, or for a method that could not sit the tasks (a model behind an API)."""
    found = capability.methods.get(method) if capability else None
    return found.mean if found else None


def summary_legend(results: Results) -> str:
    """What the columns of :func:`summary` are."""
    low, high = results.plan.ends
    return (
        f"At the ends of the scale ({low:+g} and {high:+g}). Trait score: mean rating (score / 2.5 + 3) of the high pole + (6 - "
        "that of the low pole), the published 0-10 scale as reconstructed; 6 means no effect. Variance: of the ratings over "
        "the test questions, mean of the poles (lower is steadier). Perplexity: of the answers under the bare model. Repetition: "
        "share of repeated word 4-grams. Fluency: rated by the judge, if it does that. Capability: right answers to tasks, "
        f'mean of the ends, and the change against the bare model with its interval; see "{COSTS}".'
    )


def cost_tables(capability: Capability) -> tuple[Cells, Cells]:
    """Right answers to each task by each method, and the change against the bare model as each personality."""
    head = ["method", *capability.items, "mean", "change, points", "worst"]
    rows = [
        [
            name,
            *(f"{share.value:.1%}" + (f" ({points(share)})" if share.change else "") for share in found.tasks.values()),
            f"{found.mean.value:.1%}",
            points(found.mean),
            _worst(found),
        ]
        for name, found in capability.methods.items()
    ]
    each = [
        [name, *(points(found.people[who]) for who in capability.people)]
        for name, found in capability.methods.items()
        if found.people
    ]
    return (head, rows), (["change, points", *capability.people], each)


def points(share: Share) -> str:
    """The change in points with its interval."""
    if share.change is None:
        return "–"
    low, high = 100 * share.change.low, 100 * share.change.high
    return f"{100 * share.change.estimate:+.1f} [{low:+.1f}, {high:+.1f}]"


def _worst(found: MethodCapability) -> str:
    return f"{found.worst}: {found.people[found.worst].value:.1%}" if found.worst is not None else "–"


def _costs(capability: Capability | None) -> Section:
    if capability is None:
        return Section(COSTS, [Text(LEFT_OUT, strong=True)])
    tasks, people = (Table(*cells) for cells in cost_tables(capability))
    return Section(COSTS, [Text(capability.describe()), tasks, people])


def _overview(
    results: Results,
    tried: Sequence[MethodFigures],
    verdicts: Mapping[str, Sequence[str]],
    capability: Capability | None,
) -> Section:
    blocks: list[Block] = []
    fewest = min(map(len, results.plan.questions.values()))
    if fewest < FEW:
        blocks.append(
            Text(f"Only {fewest} questions for a trait: the intervals are too narrow to be trusted.", strong=True)
        )
    for method in tried:
        share = _mean_share(capability, method.name)
        blocks.append(
            Cards(
                [
                    ("method", method.name, f"{_works(method)} of {len(method.traits)} traits work"),
                    ("trait score", number(method.trait_score), "2 to 10, as reconstructed; 6 means no effect"),
                    ("variance", number(method.variance), "of ratings over questions; lower is steadier"),
                    ("perplexity", number(method.perplexity, "{:.1f}"), "of its answers under the bare model"),
                    ("repetition", number(method.repetition, "{:.0%}"), "of the words' 4-grams"),
                    (
                        "capability",
                        number(share.value, "{:.0%}") if share else "left out",
                        f"{points(share)} points against the bare model" if share else "of this run",
                    ),
                ]
            )
        )
        blocks += [Text(sentence.replace("**", "")) for sentence in verdicts.get(method.name, ())]
    return Section("What works", blocks)


def _methods(methods: Sequence[MethodFigures], results: Results, capability: Capability | None) -> Section:
    rows = [
        [
            method.name if n == 0 else "",
            trait.value,
            bounds(figures.spearman, "{:+.2f}"),
            bounds(figures.difference, "{:+.2f}"),
            f"{number(figures.high)} ({number(figures.variance_high)})",
            f"{number(figures.low)} ({number(figures.variance_low)})",
            number(figures.trait_score),
        ]
        for method in methods
        for n, (trait, figures) in enumerate(method.traits.items())
    ]
    head = ["method", "trait", "Spearman", "change, end to end", "high pole, 1–5", "low pole, 1–5", "trait score"]
    low, high = results.plan.ends
    caption = (
        f"Spearman between level asked for and judged score; change of the judged score from {low:+g} to {high:+g}; mean ratings "
        "of the poles with their variance; brackets: 95% bootstrap interval over questions"
    )
    described = Table(["method", "what it does"], [[m.name, m.description] for m in methods], left=2)
    beside = Table(*summary(methods, capability), summary_legend(results))
    return Section("Methods and traits", [beside, Table(head, rows, caption, left=2), described])


def _levels(results: Results, methods: Sequence[MethodFigures], directory: Path) -> Section:
    """Dose and response with fluency, and the confusion of levels."""
    counts: dict[str, dict[Trait, Any]] = {}
    for method in methods:
        if method.name == BARE:
            continue
        own: dict[Trait, Any] = {}
        for trait in results.plan.traits:
            table = np.zeros((len(LEVELS), len(LEVELS)), dtype=np.int64)
            for level in results.plan.levels:
                found = [row["scores"].get(trait.value) for row in results.cell(method.name, trait, level)]
                judged = nearest_level([score for score in found if score is not None])
                np.add.at(table, (nearest_level(np.full(judged.shape, level)) - LEVELS[0], judged - LEVELS[0]), 1)
            own[trait] = table
        counts[method.name] = own
    blocks: list[Block] = [
        Picture(
            "sweep.png",
            "Judged score and perplexity against the level asked for",
            "Above: mean judged score against the level asked for. Below: perplexity of the answers under the bare model.",
        )
    ]
    if counts:
        charts.confusion(counts, directory / "confusion.png")
        caption = "How often answers at a level asked for (row) were judged as which level, over the questions."
        blocks.append(Picture("confusion.png", "Heat map of asked-for and judged levels", caption))
    levels = results.plan.levels
    rows = []
    for method in methods:
        cells = [[figures.levels[i] for figures in method.traits.values()] for i in range(len(levels))]
        rows.append([method.name, "perplexity", *(_mean([c.perplexity for c in column]) for column in cells)])
        rows.append(["", "repetition", *(number(sum(c.repetition for c in col) / len(col), "{:.0%}") for col in cells)])
    blocks.append(Table(["method", "", *(f"{v:+g}" for v in levels)], rows, "Fluency by level, mean of traits", left=2))
    return Section("Levels and fluency", blocks)


def _cross(methods: Sequence[MethodFigures]) -> Section | None:
    if all(method.cross is None for method in methods):
        return None
    caption = (
        "Change of each judged trait (column) when the row's trait goes from the lowest to the highest level. Off the diagonal "
        "nothing was asked for. Bold: the 95% interval excludes 0."
    )
    return Section("Across traits", [Picture("cross_trait.png", "Change of each judged trait", caption)])


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


def _settings(results: Results, methods: Sequence[MethodFigures], about: Mapping[str, Any]) -> Section:
    rows = [row for own in results.rows.values() for row in own.values()]
    cost = {
        "answers": len(rows),
        "answers without any score": sum(not row["scores"] for row in rows),
        "generated tokens": sum(row.get("tokens") or 0 for row in rows),
    }
    shown = {name: value for name, value in about.items() if name != "judge"}
    questions = {trait.value: len(texts) for trait, texts in results.plan.questions.items()}
    return Section("Settings and cost", [Settings({"questions": questions, **cost, **shown})])


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return number(sum(finite) / len(finite) if finite else None)
