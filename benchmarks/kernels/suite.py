"""Run the grid: check every way, then time them in turn, within a budget."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.kernels import ceilings, gated_ops, linear_ops, norm_op
from benchmarks.kernels.shapes import Work, grid
from benchmarks.kernels.timing import Pool, Times, measure
from benchmarks.kernels.way import LIMIT, RIVAL_LIMIT, Cost, Op, Verdict, Way, sample_rows, verdict
from benchmarks.report import Absent, Line, Result
from dpg_fast.kernels import use_backend

OPS: dict[str, Op[Any]] = {op.name: op for op in (*linear_ops.OPS, norm_op.NORM, norm_op.NORM_PLAIN, *gated_ops.OPS)}
POOL_LIMIT = {"cpu": 16, "cuda": 256}
POOL_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
FEWEST_ROUNDS = 3
ALLOWANCE = 2.0
"""A way is expected to take this many times what the ceilings allow; used for the budget alone."""

NOTES = (
    "before anything is timed each way that computes the op is compared with float64 on the same values; ours may have at "
    f"most {LIMIT} times the error of separate torch operations in the same dtype, a rival {RIVAL_LIMIT:g} times "
    "(column error / unfused)",
    "ways of a group run in alternating order; ratios are formed within a round, to the first way of the group",
    "argument sets rotate so that together they exceed the cache (L2 of a GPU, L3 of a processor) as far as "
    f"{POOL_LIMIT['cpu']} (processor) or {POOL_LIMIT['cuda']} (GPU) sets do",
    "work: bytes and operations of the way, each tensor counted once; bandwidth and compute: the share of this run's measured "
    "ceilings that this work in this time amounts to (above 100%: operands came from a cache)",
    "timed: loop (processor), graph (CUDA graph replayed), eager (launched from Python, between CUDA events)",
    "up to T 256 each token is a row of its own; above, rows are prompts, one for each personality",
)


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        device: "cpu" or "cuda".
        ops: names in OPS.
        sites: linear layers for the ops that work on one.
        budget: seconds that one group may take; larger ones are left out.
        rounds: counted measurements of each way (fewer where the budget demands it).
        min_time: seconds that one measurement lasts at least.
        quick: small ceilings.
    """

    device: str
    models: Sequence[str]
    ops: Sequence[str]
    sites: Sequence[str]
    tokens: Sequence[int]
    people: Sequence[int]
    dtypes: Sequence[str]
    budget: float
    rounds: int
    min_time: float
    quick: bool = False


def ceiling_lines(options: Options) -> dict[str, str]:
    """The measured ceilings, for the head of the report."""
    found = {"copy bandwidth": f"{ceilings.bandwidth(options.device, options.quick) / 1e9:.1f} GB/s"}
    for dtype in options.dtypes:
        rate = ceilings.matmul_rate(options.device, dtype, options.quick)
        found[f"matrix product, {dtype}"] = f"{rate / 1e12:.3f} TFLOP/s"
    return found


def run(options: Options) -> Iterator[Line]:
    """Results op by op; a wrong result is a line marked so, and is not timed."""
    for name in options.ops:
        op = OPS[name]
        sites = options.sites if op.on_linear else ("mlp",)
        for work in grid(options.models, sites, options.tokens, options.people, options.dtypes, options.device):
            if work.people <= op.most_people:
                yield from _group(op, work, options)
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()


def floor(cost: Cost, work: Work, options: Options) -> float:
    """Seconds that the ceilings allow at least."""
    rate = ceilings.matmul_rate(options.device, work.dtype_name, options.quick)
    return max(cost.bytes / ceilings.bandwidth(options.device, options.quick), cost.flops / rate)


def _group(op: Op[Any], work: Work, options: Options) -> Iterator[Line]:
    label = work.label(op.name)
    ways = list(op.ways(work))
    present = [way for way in ways if way.build is not None and not way.reason]
    once = [max(floor(way.cost or op.cost(work), work, options) * ALLOWANCE, options.min_time) for way in present]
    fixed = 8 * sum(once)  # warm-up and the check in float64
    rounds = min(options.rounds, int((options.budget - fixed) / sum(once)))
    fewest = min(options.rounds, FEWEST_ROUNDS)
    if rounds < fewest:
        needed = fixed + fewest * sum(once)
        yield Absent(label, "all ways", f"left out: estimated {needed:.3g} s, the budget is {options.budget:g} s")
        return
    yield from (Absent(label, way.name, way.reason) for way in ways if way not in present)
    case = op.make(work, 0)
    checked: dict[str, tuple[Way[Any], Verdict | None]] = {}
    for way, found in _check(op, case, present):
        if isinstance(found, Verdict) and not found.ratio <= (limit := LIMIT if way.ours else RIVAL_LIMIT):
            times_as_bad = f"{found.ratio:.1f} times that of separate torch operations (limit {limit:g})"
            yield Absent(label, way.name, f"error {found.error:.1e} is {times_as_bad}", wrong=True)
        elif isinstance(found, str):
            yield Absent(label, way.name, found)
        else:
            checked[way.name] = (way, found)
    if not any(way.ours for way, _ in checked.values()):
        return
    times = _time(op, work, case, [way for way, _ in checked.values()], replace(options, rounds=rounds))
    for name, (way, judged) in checked.items():
        yield _result(label, way, times[name], judged, way.cost or op.cost(work), work, options)


def _check(op: Op[Any], case: Any, ways: Sequence[Way[Any]]) -> Iterator[tuple[Way[Any], Verdict | str | None]]:
    """For each way its verdict, None where it computes something else, or why it cannot run."""
    rows = sample_rows(case.work.tokens, case.work.device)
    with nullcontext() if op.training else torch.no_grad():
        exact, unfused = op.exact(case, rows), op.unfused(case)
        for way in ways:
            build = way.to_check or way.build
            assert build is not None
            try:
                with use_backend(way.backend):
                    outputs = build(case)()
                    found = verdict(op, outputs, unfused, exact, rows) if way.same else None
            except Exception as error:  # a rival of another version must not end the run
                if way.ours and "cannot serve" not in str(error):
                    raise
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                yield way, f"cannot run here ({type(error).__name__}: {text})"
            else:
                yield way, found


def _time(op: Op[Any], work: Work, case: Any, ways: Sequence[Way[Any]], options: Options) -> dict[str, Times]:
    needed = -(-2 * ceilings.cache_bytes(options.device) // max(case.bytes, 1))
    count = max(1, min(needed, POOL_LIMIT[options.device], POOL_BYTES[options.device] // max(case.memory, 1)))
    if options.quick:
        count = min(count, 2)
    cases = [case, *(op.make(work, seed) for seed in range(1, count))]
    pools = {}
    for way in ways:
        assert way.build is not None
        with use_backend(way.backend):
            pools[way.name] = Pool([way.build(each) for each in cases], way.graph, way.backend)
    return measure(pools, options.device, options.rounds, options.min_time, op.training)


def _result(
    label: str, way: Way[Any], times: Times, judged: Verdict | None, cost: Cost, work: Work, options: Options
) -> Result:
    rate = ceilings.matmul_rate(options.device, work.dtype_name, options.quick)
    moved = cost.bytes / times.median / ceilings.bandwidth(options.device, options.quick)
    return Result(
        label,
        way.name,
        times.median * 1e3,
        times.ratio,
        p10=times.p10 * 1e3,
        p90=times.p90 * 1e3,
        bytes=cost.bytes,
        flops=cost.flops,
        bandwidth=moved,
        compute=cost.flops / times.median / rate,
        error=None if judged is None else judged.ratio,
        mode=times.mode,
    )
