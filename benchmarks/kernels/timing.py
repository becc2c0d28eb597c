"""Time several ways in turn: a plain loop on the CPU, CUDA graphs (or events around a loop) on a GPU.

Every way has a pool of argument sets that together exceed the cache, so that operands come from memory as they do in a model.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from dpg_fast.kernels import use_backend
from dpg_fast.kernels.testing import paired_times


class Pool(NamedTuple):
    """The calls of one way, one for each argument set."""

    calls: Sequence[Callable[[], Any]]
    graph: bool = True
    backend: str | None = None


class Times(NamedTuple):
    """Seconds per call (median, p10, p90), the median ratio to the first way, and how it was timed."""

    median: float
    p10: float
    p90: float
    ratio: float
    mode: str


def measure(pools: Mapping[str, Pool], device: str, rounds: int, min_time: float, training: bool) -> dict[str, Times]:
    """Times of every way; `rounds` measurements of at least `min_time` seconds, in alternating order."""
    with nullcontext() if training else torch.no_grad():
        return _gpu(pools, rounds, min_time) if device == "cuda" else _cpu(pools, rounds, min_time)


def _cpu(pools: Mapping[str, Pool], rounds: int, min_time: float) -> dict[str, Times]:
    fns = {name: _rotate(pool.calls) for name, pool in pools.items()}
    found = paired_times(fns, rounds, min_time=min_time, warmup=2)
    return {name: Times(t.median, t.p10, t.p90, t.ratio, "loop") for name, t in found.items()}


def _rotate(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def _gpu(pools: Mapping[str, Pool], rounds: int, min_time: float) -> dict[str, Times]:
    runs: dict[str, tuple[Callable[[], Any], str]] = {}
    for name, pool in pools.items():
        with use_backend(pool.backend):
            runs[name] = _captured(pool)
    repeats = {}
    for name, (run, _) in runs.items():
        run()
        once = _event_seconds(run, 1)
        repeats[name] = max(1, round(min_time / max(once, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in pools}
    names = list(pools)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            with use_backend(pools[name].backend):
                seconds = _event_seconds(runs[name][0], repeats[name])
            times[name].append(seconds / len(pools[name].calls))
    first = times[names[0]]
    result = {}
    for name, values in times.items():
        ordered = sorted(values)
        p10, p90 = ordered[int(0.1 * (rounds - 1))], ordered[round(0.9 * (rounds - 1))]
        ratio = statistics.median(own / base for own, base in zip(values, first, strict=True))
        result[name] = Times(statistics.median(values), p10, p90, ratio, runs[name][1])
    return result


def _captured(pool: Pool) -> tuple[Callable[[], Any], str]:
    """One pass over the pool, as a graph if it can be one."""

    def loop() -> None:
        for call in pool.calls:
            call()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            loop()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    if not pool.graph:
        return loop, "eager"
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loop()
    except RuntimeError as error:
        torch.cuda.synchronize()
        return loop, f"eager (no graph: {str(error).splitlines()[0][:80]})"
    return graph.replay, "graph"


def _event_seconds(run: Callable[[], Any], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats
