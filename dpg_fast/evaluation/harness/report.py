"""The table of what steering costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.harness.run import BARE, ROLLING, Cost
from dpg_fast.judges.sections import software
from dpg_fast.reporting.markdown import markdown_table
from dpg_fast.util.files import write_text

REPORT, RAW = "capability.md", "capability.json"


def write_costs(costs: Sequence[Cost], directory: Path, settings: Mapping[str, Any]) -> Path:
    """Write ``capability.md`` and ``capability.json``; the report's path."""
    about = {**settings, "software": software()}
    write_text(directory / RAW, json.dumps({"settings": about, "costs": [asdict(c) for c in costs]}, indent=1) + "\n")
    how = (
        "Scored texts are steered on every token, the question included: more than generation does."
        if settings.get("steer_tokens") == "all"
        else "Of scored texts only what follows the question's first answer token is steered, as in generation."
    )
    lines = "\n".join(f"- {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in about.items())
    parts = ["# What steering costs", cost_table(costs), how + " " + _legend(), "## Settings", lines]
    write_text(directory / REPORT, "\n\n".join(parts) + "\n")
    return directory / REPORT


def cost_table(costs: Sequence[Cost]) -> str:
    """Markdown: a row for each personality, for each task its value and its change against the bare model."""
    tasks = list(dict.fromkeys(cost.task for cost in costs))
    people = list(dict.fromkeys(cost.personality for cost in costs))
    found = {(cost.task, cost.personality): cost for cost in costs}
    first = {task: next(cost for cost in costs if cost.task == task) for task in tasks}
    head = [f"{task} ({first[task].metric}, n = {first[task].items})" for task in tasks]
    rows = [[person, *(_cell(found[(task, person)]) for task in tasks)] for person in people]
    return markdown_table(["", *head], rows)


def _cell(cost: Cost) -> str:
    if cost.metric == ROLLING:
        text = f"{cost.value:.1f} [{cost.low:.1f}, {cost.high:.1f}]"
    else:
        text = f"{cost.value:.0%} [{cost.low:.0%}, {cost.high:.0%}]"
    if cost.change is None:
        return text
    unit, scale = (" nats", 1.0) if cost.metric == ROLLING else ("", 100.0)
    low, high = scale * cost.change.low, scale * cost.change.high
    return f"{text}; {scale * cost.change.estimate:+.2g}{unit} [{low:+.2g}, {high:+.2g}]"


def _legend() -> str:
    return (
        f"Value with its 95% interval; after the semicolon the change against the {BARE} model on the same items, in points or, "
        "for perplexities per word, in nats (interval over items)."
    )
