"""Benchmark results as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dpg_fast.reporting.render import markdown_table
from dpg_fast.util.files import write_text


@dataclass(frozen=True)
class Result:
    """One way of doing one thing, beside its rival.

    Attributes:
        group: what was done (shape, dtype).
        name: the way.
        milliseconds: median time.
        ratio: median over rounds of the time divided by the first way's of the group.
        lowest, highest: range of that ratio over the rounds, where the suite keeps it.
        p10, p90: milliseconds.
        bytes, flops: of the work, each tensor read and written once.
        bandwidth, compute: shares (1 = all) of the copy bandwidth and of the matrix-product rate measured in the run.
        error: against float64, over that of the unfused computation in the same dtype; None where it does less work.
        mode: how it was timed.
    """

    group: str
    name: str
    milliseconds: float
    ratio: float
    lowest: float | None = None
    highest: float | None = None
    p10: float | None = None
    p90: float | None = None
    bytes: int | None = None
    flops: int | None = None
    bandwidth: float | None = None
    compute: float | None = None
    error: float | None = None
    mode: str = ""


@dataclass(frozen=True)
class Absent:
    """A way that has no figure, and why; `wrong`: it gave a wrong result, which fails the run."""

    group: str
    name: str
    reason: str
    wrong: bool = False


Line = Result | Absent


def markdown(title: str, machine: Mapping[str, str], lines: Sequence[Line], notes: Sequence[str]) -> str:
    """A table for each group, under the machine it was measured on; what has no figure is listed below its table."""
    about = [*(f"- {key}: {value}" for key, value in machine.items()), *(f"- {note}" for note in notes)]
    parts = [f"# {title}", "\n".join(about)]
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    for group, members in groups.items():
        parts.append(f"## {group}")
        results = [line for line in members if isinstance(line, Result)]
        if results:
            parts.append(_detailed(results) if results[0].p10 is not None else _plain(results))
        absent = [line for line in members if isinstance(line, Absent)]
        parts.append("\n".join(f"- {a.name}: {'WRONG, ' if a.wrong else ''}{a.reason}" for a in absent))
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(results: Sequence[Result]) -> str:
    rows = [
        [r.name, f"{r.milliseconds:.2f}", f"{r.ratio:.2f}", f"{_number(r.lowest, 2)} - {_number(r.highest, 2)}"]
        for r in results
    ]
    return markdown_table(["way", "ms", "time / first", "range over rounds"], rows)


def _detailed(results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        p10, p90 = (_number(v * 1e3 if v is not None else None, 1) for v in (r.p10, r.p90))
        work = f"{_size(r.bytes, 'B')}, {_size(r.flops, 'FLOP')}" if r.bytes is not None else ""
        shares = (_percent(r.bandwidth), _percent(r.compute), _number(r.error, 2))
        rows.append([r.name, f"{r.milliseconds * 1e3:.1f}", f"{p10} - {p90}", f"{r.ratio:.3f}", work, *shares, r.mode])
    head = ["way", "us", "p10 - p90", "time / first", "work", "bandwidth", "compute", "error / unfused", "timed"]
    return markdown_table(head, rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _size(value: int | None, unit: str) -> str:
    if value is None:
        return ""
    for step, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= step:
            return f"{value / step:.1f} {prefix}{unit}"
    return f"{value} {unit}"


def write(directory: Path, suite: str, text: str, machine: Mapping[str, str], lines: Sequence[Line]) -> None:
    """``<suite>.md`` and ``<suite>.json`` in ``directory``."""
    write_text(directory / f"{suite}.md", text)
    filled = [{k: v for k, v in asdict(x).items() if v not in (None, "")} for x in lines if isinstance(x, Result)]
    absent = [asdict(x) for x in lines if isinstance(x, Absent)]
    content = {"machine": dict(machine), "results": filled, "absent": absent}
    write_text(directory / f"{suite}.json", json.dumps(content, indent=1) + "\n")
