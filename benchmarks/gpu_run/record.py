"""The results of a run: one line of JSON for each, on the disk the moment it is known."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dpg_fast.reporting.render import markdown_table
from dpg_fast.util.files import write_text
from dpg_fast.util.store import Store

FILE, REPORT = "results.jsonl", "report.md"
STAGE = ""  # as the name of a record: that of the stage itself
FINISHED = ("ok", "failed", "skipped")
REHEARSAL = "a rehearsal on a processor, with the CUDA kernels emulated: its times are no results"

Values = dict[str, Any]


class Skip(Exception):
    """Something that cannot be done here; the message says why."""


class Item(NamedTuple):
    """One thing to find out: a name, unique in its stage, and a call that returns what was found."""

    name: str
    call: Callable[[], Values]


def opened(out: Path, rehearsal: bool, *, read_only: bool = False) -> Store:
    """The records in a folder.

    Raises:
        ValueError: they are those of the other kind of run, or another process is writing them.
    """
    about = {"run": REHEARSAL if rehearsal else "a GPU"}
    return Store(out / FILE, about, ("stage", "name"), read_only=read_only)


def status_of(store: Store, stage: str, name: str = STAGE) -> str | None:
    """What its last record says, or None."""
    return store[stage, name]["status"] if (stage, name) in store else None


def put(store: Store, stage: str, name: str, status: str, seconds: float, values: Values) -> None:
    """Write one record through to the disk."""
    row = {"stage": stage, "name": name, "status": status, "seconds": round(seconds, 3), **_finite(values)}
    store.append([row])


def work(store: Store, stage: str, items: Iterable[Item], broken: Callable[[], bool] = lambda: False) -> bool:
    """Do what has no record yet; an item that fails is a record too, and the next one follows.

    Args:
        broken: whether nothing can follow in this process (asked after a failure).

    Returns:
        False when it ended because of that.
    """
    for item in items:
        if status_of(store, stage, item.name) in FINISHED:
            continue
        put(store, stage, item.name, "begun", 0.0, {})
        start = time.monotonic()
        try:
            status, values = "ok", item.call()
        except Skip as reason:
            status, values = "skipped", {"reason": str(reason)}
        except Exception as error:
            traceback.print_exc()
            status, values = "failed", {"error": f"{type(error).__name__}: {error}"[:2000]}
        seconds = time.monotonic() - start
        put(store, stage, item.name, status, seconds, values)
        print(f"{stage} | {item.name} | {status} | {seconds:.1f} s | {_short(values)}", flush=True)
        if status == "failed" and broken():
            return False
    return True


def close_unfinished(store: Store, stage: str, status: int) -> None:
    """A process that ended by itself in the middle of an item: that item has failed, and is not tried again."""
    for _, name in [key for key in store.rows if key[0] == stage and key[1] != STAGE]:
        if status_of(store, stage, name) == "begun":
            put(store, stage, name, "failed", 0.0, {"error": f"the process ended with status {status}"})


def report(out: Path, store: Store, rehearsal: bool) -> None:
    """All records as a Markdown page."""
    parts = ["# Rehearsal" if rehearsal else "# GPU run"]
    parts += [f"This is {REHEARSAL}."] if rehearsal else []
    stages = dict.fromkeys(stage for stage, _ in store.rows)
    for stage in stages:
        own = store.rows.get((stage, STAGE))
        parts.append(f"## {stage}" + (f": {own['status']}, {own['seconds']:.0f} s" if own else ": cut"))
        rows = [row for row in store.rows.values() if row["stage"] == stage and row["name"] != STAGE]
        if stage.startswith("tests"):
            counts = {status: sum(row["status"] == status for row in rows) for status in FINISHED}
            parts.append(", ".join(f"{count} {status}" for status, count in counts.items()))
            rows = [row for row in rows if row["status"] == "failed"]
        cells = [[row["name"], row["status"], f"{row['seconds']:.1f}", _short(_values(row))] for row in rows]
        if cells:
            parts.append(markdown_table(["what", "status", "s", "found"], cells))
    write_text(out / REPORT, "\n\n".join(parts) + "\n")


def _values(row: Values) -> Values:
    return {key: value for key, value in row.items() if key not in ("stage", "name", "status", "seconds")}


def _short(values: Values) -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {text(part)}" for key, part in value.items()) + "}"
        return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ").replace("|", "/")

    return ", ".join(f"{key}: {text(value)}" for key, value in values.items())


def _finite(value: Any) -> Any:
    """The same with what JSON cannot hold as text."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
