"""The report of what steering costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.harness.run import BARE, ROLLING, Cost
from dpg_fast.judges.sections import software
from dpg_fast.reporting import Page, Section, Settings, Table, bounds, write_report
from dpg_fast.util.stats import Interval


def write_costs(costs: Sequence[Cost], directory: Path, settings: Mapping[str, Any]) -> Path:
    """Write the report; the path of ``report.html``.

    Raises:
        ImportError: jinja2 is missing.
    """
    about = {**settings, "software": software()}
    page = Page(
        title="What steering costs",
        subtitle=", ".join(dict.fromkeys(cost.task for cost in costs)),
        lead="Scored texts are steered on every token, the question included: more than generation does."
        if settings.get("steer_tokens") == "all"
        else "Of scored texts only what follows the question's first answer token is steered, as in generation.",
        sections=[Section("Costs", [cost_table(costs)]), Section("Settings", [Settings(about)])],
        data={"settings": about, "costs": costs},
    )
    return write_report(page, directory)


def cost_table(costs: Sequence[Cost]) -> Table:
    """A row for each personality, for each task its value and its change against the bare model."""
    found = {(cost.task, cost.personality): cost for cost in costs}
    first = {cost.task: cost for cost in reversed(costs)}
    tasks = list(dict.fromkeys(cost.task for cost in costs))
    people = dict.fromkeys(cost.personality for cost in costs)
    head = [f"{task} ({first[task].metric}, n = {first[task].items})" for task in tasks]
    rows = [[person, *(_cell(found[(task, person)]) for task in tasks)] for person in people]
    caption = (
        f"Value with its 95% interval; after the semicolon the change against the {BARE} model on the same items, in points or, "
        "for perplexities per word, in nats (interval over items)."
    )
    return Table(["", *head], rows, caption)


def _cell(cost: Cost) -> str:
    rolling = cost.metric == ROLLING
    text = bounds(Interval(cost.value, cost.low, cost.high), "{:.1f}" if rolling else "{:.0%}")
    if cost.change is None:
        return text
    change = cost.change.scaled(1.0 if rolling else 100.0)
    return f"{text}; {bounds(change, '{:+.2g}')}{' nats' if rolling else ''}"
