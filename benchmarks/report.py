"""Benchmark results as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dpg_fast.files import write_text


@dataclass(frozen=True)
class Result:
    """One way of doing one thing, beside its rival.

    Attributes:
        group: what was done (shape, dtype).
        name: the way.
        milliseconds: median time.
        ratio: median over rounds of the time divided by the first way's of the group.
        lowest, highest: range of that ratio over the rounds.
    """

    group: str
    name: str
    milliseconds: float
    ratio: float
    lowest: float
    highest: float


def markdown(title: str, machine: Mapping[str, str], results: Sequence[Result], notes: Sequence[str]) -> str:
    """A table for each group, under the machine it was measured on."""
    lines = [
        f"# {title}",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
        *(f"- {note}" for note in notes),
    ]
    for group in dict.fromkeys(result.group for result in results):
        lines += ["", f"## {group}", "", "| way | ms | time / first | range over rounds |", "|---|---:|---:|---:|"]
        lines += [
            f"| {r.name} | {r.milliseconds:.2f} | {r.ratio:.2f} | {r.lowest:.2f} - {r.highest:.2f} |"
            for r in results
            if r.group == group
        ]
    return "\n".join(lines) + "\n"


def write(directory: Path, suite: str, text: str, machine: Mapping[str, str], results: Sequence[Result]) -> None:
    """``<suite>.md`` and ``<suite>.json`` in ``directory``."""
    write_text(directory / f"{suite}.md", text)
    content = {"machine": dict(machine), "results": [asdict(result) for result in results]}
    write_text(directory / f"{suite}.json", json.dumps(content, indent=1) + "\n")
