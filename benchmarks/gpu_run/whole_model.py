"""A whole 8B-shaped model, bare and with personalities: decode, prefill, training, and the rivals that take long to build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

from benchmarks.gpu_run.place import Place
from benchmarks.gpu_run.record import Item, Values
from benchmarks.model_gpu import Build, Way, base_model, compare, decode_ways, prefill_ways, training_ways
from benchmarks.report import Absent

ROUNDS = 9
Ways = dict[str, Build]


@cache
def bare(place: Place) -> Any:
    """Made once in a process: 16 GB."""
    return base_model(place.device, place.settings)


def measured(place: Place, group: str, ways: Callable[[], Ways], names: tuple[str, ...] | None = None) -> Values:
    """Milliseconds and ratio to the first of the ways called `names` (by default all)."""
    found = ways()
    chosen = {name: build for name, build in found.items() if names is None or name in names}
    assert names is None or len(chosen) == len(names), f"ways are called {list(found)}, not {names}"
    values: Values = {}
    for line in compare(group, chosen, place.device, 2 if place.rehearsal else ROUNDS):
        if isinstance(line, Absent):
            values[line.name] = line.reason
        else:
            kept = ("milliseconds", "ratio", "lowest", "highest")
            values[line.name] = {key: value for key, value in asdict(line).items() if key in kept}
    return values


def eager(ways: Ways) -> Ways:
    """The same, launched from Python, as generate() does."""

    def built(build: Build) -> Way:
        way = build()
        return replace(way, graph=False, repeats=4)

    return {name: partial(built, build) for name, build in ways.items()}


def items(place: Place) -> Iterator[Item]:
    """By worth: captured decode steps (rows with a personality each, then one row), prefill, eager decode steps, training."""
    s = place.settings
    for graph in (True, False):
        for rows in s.rows:
            who = f"{rows} personalities" if rows > 1 else "1 personality"
            names = ("bare model", f"dpg_fast, {who}: bank + neurons", f"dpg_fast, {who}: bank")[: 3 if graph else 2]
            label = f"decode, {rows} row{'s' if rows > 1 else ''}, {'graph' if graph else 'eager'}"
            yield Item(label, partial(measured, place, label, partial(_decode, place, rows, graph), names))
        if graph:
            names = ("bare model", "dpg_fast, bank", "dpg_fast, bank + neurons, prompt steered")
            label = f"prefill of {s.prompt} tokens"
            yield Item(label, partial(measured, place, label, lambda: prefill_ways(bare(place), s), names))
    label = f"training step, {s.train_rows} x {s.train_tokens} tokens"
    yield Item(label, partial(measured, place, label, lambda: training_ways(bare(place), s)))


def _decode(place: Place, rows: int, graph: bool) -> Ways:
    ways = decode_ways(bare(place), rows, place.settings)
    return ways if graph else eager(ways)


def rival_items(place: Place) -> Iterator[Item]:
    """All other ways; PEFT with as many adapters as rows (90 s of Python for 64) has 8 rows."""
    s = place.settings
    for rows in dict.fromkeys((min(8, s.rows[0]), 1)):
        label = f"decode and its rivals, {rows} row{'s' if rows > 1 else ''}"
        yield Item(label, partial(measured, place, label, partial(_decode, place, rows, True)))
    label = f"prefill of {s.prompt} tokens and its rivals"
    yield Item(label, partial(measured, place, label, lambda: prefill_ways(bare(place), s)))
