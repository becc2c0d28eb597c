"""Times of single ops at decode sizes, in a CUDA graph, from memory: what a layer of the model launches."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_run.place import Place, entered
from benchmarks.gpu_run.record import Item, Values
from benchmarks.kernels import ceilings, lora_case
from benchmarks.kernels.shapes import CODES, MODELS, Model, Work
from benchmarks.kernels.suite import OPS
from benchmarks.kernels.timing import Pool, measure
from benchmarks.kernels.way import Way
from dpg_fast import kernels

TOKENS = (64, 1, 8)
#: first the whole of an op, as the kernel suite has it, then what a layer launches beside its products
SUITE = ("gated_act_steered_lora", "lora_add", "add_rmsnorm")
RIVALS = {
    "gated_act_steered_lora": ("F.silu(gate) * up", "separate torch operations"),
    "lora_add": ("base product alone", "merged weights", "addmm of width K r"),
    "add_rmsnorm": ("residual + y, LlamaRMSNorm",),
}
Calls = dict[str, Callable[[], object]]


def of_suite(place: Place, name: str, work: Work) -> Values:
    """One op of the kernel suite: its baseline, ours on CUDA, and the rivals that cost nothing to build."""
    op = OPS[name]
    ways: Sequence[Way] = [
        way
        for way in op.ways(work)
        if way.build is not None and not way.reason
        if (way.ours and way.backend in (None, "cuda")) or way.name in RIVALS[name]
    ]
    return timed(place, lambda seed: _calls(op.make(work, seed), ways), op.cost(work).bytes)


def _calls(case: object, ways: Sequence[Way]) -> Calls:
    built = [(way.name, way.build) for way in ways]
    return {name: build(case) for name, build in built if build is not None}


def linears(model: Model) -> dict[str, tuple[int, tuple[int, ...]]]:
    """(in, outputs) of the products of a layer whose linears with one input are stacked."""
    return {
        "qkv": (model.hidden, (model.query, model.kv, model.kv)),
        "o": (model.query, (model.hidden,)),
        "gate, up": (model.hidden, (model.mlp, model.mlp)),
        "down": (model.mlp, (model.hidden,)),
    }


def stacked_add(place: Place, work: Work, d_in: int, widths: tuple[int, ...]) -> Values:
    """The expands of one stacked product, beside a copy of y of the same size."""
    model, K, total = work.model, CODES, sum(widths)

    def make(seed: int) -> Calls:
        g, randn = _random(place, work, seed)
        S, B, y = (
            randn(work.tokens, len(widths) * K * model.rank),
            randn(K, model.rank, total),
            randn(work.tokens, total),
        )
        codes, slots = torch.randn(work.people, K, generator=g, device=place.device), lora_case.slots_of(work)
        other = torch.empty_like(y)
        return {
            "copy of y": lambda: other.copy_(y),
            "lora_stacked_add": lambda: kernels.lora_stacked_add(y, S, B, codes, codes, slots, widths, 1.0),
        }

    size = work.dtype.itemsize
    return timed(place, make, size * (K * model.rank * total + 2 * work.tokens * total))


def combine(place: Place, work: Work) -> Values:
    """The inner products of gate and up combined by codes, beside a copy of them."""
    model, K = work.model, CODES

    def make(seed: int) -> Calls:
        g, randn = _random(place, work, seed)
        S = randn(work.tokens, 2 * K * model.rank)
        codes, slots = torch.randn(work.people, K, generator=g, device=place.device), lora_case.slots_of(work)
        other = torch.empty_like(S)
        return {
            "copy of S": lambda: other.copy_(S),
            "lora_combine": lambda: kernels.lora_combine(S, codes, slots, 2),
        }

    return timed(place, make, work.dtype.itemsize * work.tokens * 2 * K * model.rank)


def product(place: Place, work: Work, d_in: int, widths: tuple[int, ...]) -> Values:
    """The base product with N outputs, and with the bank's rows behind them: does the wider one cost more than its bytes?"""
    total, extra = sum(widths), len(widths) * CODES * work.model.rank
    padded = -(-(total + extra) // 64) * 64

    def make(seed: int) -> Calls:
        _, randn = _random(place, work, seed)
        x, W = randn(work.tokens, d_in), randn(padded, d_in)
        outputs = {f"N {total}": total, f"N {total} + {extra}": total + extra, f"N {padded}, a multiple of 64": padded}
        return {name: partial(F.linear, x, W[:count]) for name, count in outputs.items()}

    return timed(place, make, work.dtype.itemsize * total * d_in)


def _random(place: Place, work: Work, seed: int) -> tuple[torch.Generator, Callable[..., Tensor]]:
    g = torch.Generator(place.device).manual_seed(seed)
    return g, lambda *shape: torch.randn(shape, generator=g, device=place.device).to(work.dtype)


def timed(place: Place, make: Callable[[int], Calls], size: int) -> Values:
    """Microseconds, range and ratio to the first of each call; argument sets rotate so that they exceed the cache.

    Args:
        make: seed -> calls by name, the first of which is the baseline.
        size: bytes that our call moves at least.
    """
    count = 2 if place.rehearsal else max(1, min(256, -(-2 * ceilings.cache_bytes(place.device) // max(size, 1))))
    sets = [make(seed) for seed in range(count)]
    backend = kernels.dispatch.forced_backend()
    pools = {name: Pool([calls[name] for calls in sets], True, backend) for name in sets[0]}
    rounds, min_time = (2, 1e-5) if place.rehearsal else (11, 2e-3)
    times = measure(pools, place.device, rounds, min_time, False)
    found = {
        name: {
            "us": t.median * 1e6, "p10": t.p10 * 1e6, "p90": t.p90 * 1e6, "ratio": t.ratio, "mode": t.mode,
            "GB/s at least": size / t.median / 1e9,
        }
        for name, t in times.items()
    }  # fmt: skip
    del sets, pools
    gc.collect()
    return {"sets": count, "bytes at least": size, **found}


def items(place: Place) -> Iterator[Item]:
    """T 64 first: the flagship's figure; ceilings of the card with them."""
    model, dtype = MODELS[place.model], "bfloat16"
    quick = place.rehearsal

    def ceiling() -> Values:
        rate = ceilings.matmul_rate(place.device, dtype, quick)
        return {"copy GB/s": ceilings.bandwidth(place.device, quick) / 1e9, "bf16 TFLOP/s": rate / 1e12}

    yield Item("ceilings", ceiling)
    for tokens in (8,) if quick else TOKENS:
        at = f"T {tokens}, {tokens} personalities"
        mlp = Work(model, "mlp", tokens, tokens, dtype, place.device)
        down = Work(model, "down", tokens, tokens, dtype, place.device)
        for name in SUITE:
            work = down if OPS[name].on_linear else mlp
            yield Item(f"{name}, {at}", partial(of_suite, place, name, work))
        for site, (d_in, widths) in linears(model).items():
            if site != "gate, up":  # its expands ride along with the activation
                yield Item(f"lora_stacked_add {site}, {at}", partial(stacked_add, place, down, d_in, widths))
            yield Item(f"product {site}, {at}", partial(product, place, down, d_in, widths))
        yield Item(f"lora_combine, {at}", partial(combine, place, down))


def once(place: Place) -> None:
    """For a profiler: the flagship's kernels at 64 tokens and at a prompt, two calls each."""
    model = MODELS[place.model]
    for tokens in (64, 64 if place.rehearsal else 8192):
        mlp = Work(model, "mlp", tokens, 1, "bfloat16", place.device)
        ours = [way for way in OPS["gated_act_steered_lora"].ways(mlp) if way.ours and way.backend in (None, "cuda")]
        down = Work(model, "down", tokens, 1, "bfloat16", place.device)
        stacked = [way for way in OPS["lora_add"].ways(down) if "stacked" in way.name and way.backend in (None, "cuda")]
        for op, work, ways in ((OPS["gated_act_steered_lora"], mlp, ours), (OPS["lora_add"], down, stacked)):
            for call in _calls(op.make(work, 0), ways).values():
                for _ in range(2):
                    call()
    place.wait()


if __name__ == "__main__":
    with entered("--rehearsal" in sys.argv) as found:
        once(found)
