"""Every op's CUDA kernel on a few sizes, against float64 and against itself in smaller batches.

``python -m benchmarks.gpu_run.smoke`` only runs them, for compute-sanitizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_run.place import Place, entered
from benchmarks.gpu_run.record import Item, Values
from benchmarks.machine import machine
from dpg_fast import kernels
from dpg_fast.kernels import GatedLora, RideAlong, Steering, use_backend
from dpg_fast.kernels.testing import error_ratio, poisoned_empty
from tests.kernels import cases
from tests.kernels.accelerators import on_device

#: (K, rank, d_in, width): a layer's kind of sizes, and odd ones whose rows lie on no 16 bytes
SHAPES = ((6, 16, 520, 264), (5, 3, 193, 131))
COUNTS = (1, 17, 64, 66)
LIMIT = 1.5
EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """Arguments of every op on the same T tokens: a LoRA's, the gated activation's, inner products S [T, 2 K r]."""

    lora: cases.Lora
    gate: Tensor
    up: Tensor
    gated: GatedLora
    steering: Steering
    S: Tensor

    def double(self) -> Case:
        """The same values in float64."""
        gated, steering = cases.double_lora(self.gated), cases.double_steering(self.steering)
        assert gated is not None and steering is not None
        tensors = (self.gate.double(), self.up.double(), gated, steering, self.S.double())
        return Case(self.lora.to(torch.float64), *tensors)

    def take(self, rows: Tensor) -> Case:
        """Some of the tokens."""
        c, g = self.lora, self.gated
        assert g.u_up is not None
        return Case(
            replace(c, y=c.y[rows], x=c.x[rows], slots=c.slots[rows]),
            self.gate[rows],
            self.up[rows],
            g._replace(u_gate=g.u_gate[rows], u_up=g.u_up[rows], slots=g.slots[rows]),
            self.steering._replace(slots=self.steering.slots[rows]),
            self.S[rows],
        )


def case(tokens: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> Case:
    """Random arguments."""
    K, rank, d_in, width = shape
    lora = cases.lora_case(tokens, K, rank, d_in, width, dtype)
    gate, up, gated, steering = cases.gated_case(tokens, K, rank, width, dtype)
    S = cases.randn(cases.generator(4), tokens, 2 * K * rank, dtype=dtype)
    return on_device(Case(lora, gate, up, gated, steering, S), device)


def _widths(c: Case) -> tuple[int, int]:
    width = c.lora.y.shape[1]
    return width // 2, width - width // 2


def _norm(c: Case, lora: RideAlong | None) -> tuple[Tensor, Tensor]:
    return kernels.add_rmsnorm(c.lora.y, c.lora.y.flip(1).contiguous(), c.lora.B[0, 0], EPS, lora=lora)


def _ride(c: Case) -> RideAlong:
    u = c.gated.u_gate[:, : c.lora.B.shape[1]]
    return RideAlong(u, c.lora.B, c.lora.codes_b, c.lora.slots, c.lora.scale)


#: op and variant -> its results, each with the token as first dimension
OPS: dict[str, Callable[[Case], tuple[Tensor, ...]]] = {
    "lora_shrink": lambda c: (kernels.lora_shrink(c.lora.x, c.lora.A, c.lora.codes_a, c.lora.slots),),
    "lora_combine": lambda c: tuple(kernels.lora_combine(c.S, c.lora.codes_a, c.lora.slots, 2)),
    "lora_expand_add": lambda c: (kernels.lora_expand_add(c.lora.y.clone(), *_ride(c)),),
    "lora_add": lambda c: (kernels.lora_add(c.lora.y.clone(), *list(vars(c.lora).values())[1:]),),
    "lora_stacked_add": lambda c: (
        kernels.lora_stacked_add(
            c.lora.y.clone(), c.S, c.lora.B, c.lora.codes_a, c.lora.codes_b, c.lora.slots, _widths(c), c.lora.scale
        ),
    ),
    "gated plain": lambda c: (kernels.steered_gated_act(c.gate, c.up, "gelu_tanh"),),
    "gated steered": lambda c: (kernels.steered_gated_act(c.gate, c.up, "silu", steering=c.steering),),
    "gated lora": lambda c: (kernels.steered_gated_act(c.gate, c.up, "silu", lora=c.gated),),
    "gated steered lora": lambda c: (
        kernels.steered_gated_act(c.gate, c.up, "silu", lora=c.gated, steering=c.steering),
    ),
    "add_rmsnorm": lambda c: _norm(c, None),
    "add_rmsnorm lora": lambda c: _norm(c, _ride(c)),
}


def _unfused(name: str, c: Case) -> tuple[Tensor, ...]:
    """The same as separate torch operations in the case's dtype, or the reference where it is such already."""
    if name == "lora_shrink":
        return (cases.unfused_shrink(c.lora),)
    if name == "lora_combine":
        K, rank = c.lora.A.shape[:2]
        codes = cases.token_codes(c.lora.codes_a, c.lora.slots).to(c.S.dtype)
        return tuple((c.S.view(-1, 2, K, rank) * codes[:, None, :, None]).sum(2).unbind(1))
    if name == "lora_expand_add":
        return (cases.unfused_add(c.lora.y, *_ride(c)),)
    if name == "lora_add":
        lora = c.lora
        return (cases.unfused_add(lora.y, cases.unfused_shrink(lora), lora.B, lora.codes_b, lora.slots, lora.scale),)
    if name.startswith("gated"):
        steering, lora = (c.steering if "steered" in name else None), (c.gated if "lora" in name else None)
        return (cases.unfused_gated(c.gate, c.up, "gelu_tanh" if name == "gated plain" else "silu", lora, steering),)
    with use_backend("reference"):
        return OPS[name](c)


def compare(c: Case) -> Values:
    """Error of every op over that of separate operations.

    Raises:
        AssertionError: above `LIMIT`, or a token's bits change with the batch; names every op where that is so.
    """
    tokens = c.lora.x.shape[0]
    d, found, wrong = c.double(), {}, []
    for name, op in OPS.items():
        with poisoned_empty():
            whole = op(c)
        with use_backend("reference"):
            exact = op(d)
        ratios = map(error_ratio, whole, _unfused(name, c), exact)
        found[name] = max(ratios)
        if not found[name] <= LIMIT:
            wrong.append(f"{name}: error {found[name]:.2f} times that of separate operations")
        for count in (n for n in COUNTS if n <= tokens):
            rows = torch.randperm(tokens, generator=cases.generator(count))[:count].to(c.gate.device)
            part = op(c.take(rows))
            if not all(torch.equal(full[rows], some) for full, some in zip(whole, part, strict=True)):
                wrong.append(f"{name}: other bits among {count} tokens than among {tokens}")
    if wrong:
        raise AssertionError("; ".join(wrong))
    return {"error / unfused": {name: round(value, 3) for name, value in found.items()}}


def statistics(device: str) -> Values:
    """activation_stats counts what the reference counts, but for values that a last bit moves over an edge."""
    g = cases.generator(5)
    gate = on_device(cases.randn(g, 300, 150, dtype=torch.bfloat16) * 2, device)
    slots = on_device(cases.random_slots(g, 300, 3), device)
    edges = torch.arange(300, dtype=torch.float64, device=device).mul(0.01).float()
    tables = []
    for backend in (None, "reference"):
        positive = torch.zeros(4, 150, dtype=torch.int64, device=device)
        histogram = torch.zeros(4, 150, 301, dtype=torch.int32, device=device)
        with use_backend(backend or kernels.dispatch.forced_backend()):
            kernels.activation_stats(gate, "silu", slots, edges, positive, histogram)
        tables.append((positive, histogram))
    (positive, histogram), (expected, bins) = tables
    moved = int((histogram - bins).abs().sum())
    if not torch.equal(positive, expected) or moved > 8:
        raise AssertionError(
            f"activation_stats: {moved} counts in other bins, positives equal: {positive.equal(expected)}"
        )
    return {"counts in other bins": moved}


def items(place: Place) -> Iterator[Item]:
    """The machine, then every op in every dtype."""
    yield Item("machine", lambda: dict(machine(place.device)) | memory(place))
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        for shape in SHAPES:
            name = f"{str(dtype).removeprefix('torch.')}, K {shape[0]} r {shape[1]}, {shape[2]} -> {shape[3]}"
            yield Item(name, lambda d=dtype, s=shape: compare(case(place.tokens, s, d, place.device)))  # type: ignore[misc]
    yield Item("activation_stats", lambda: statistics(place.device))


def memory(place: Place) -> Values:
    """What the GPU has."""
    if place.device != "cuda":
        return {}
    p: Any = torch.cuda.get_device_properties(0)
    return {"multiprocessors": p.multi_processor_count, "L2 bytes": p.L2_cache_size, "memory bytes": p.total_memory}


def once(place: Place) -> None:
    """Every op on sizes that take other paths, without comparisons."""
    for tokens in (17, 66):  # decode, and the other path for many tokens
        for shape in SHAPES:
            for dtype in (torch.bfloat16, torch.float32):
                c = case(tokens, shape, dtype, place.device)
                for op in OPS.values():
                    op(c)
    statistics(place.device)
    place.wait()
    print("all ops have run", flush=True)


if __name__ == "__main__":
    with entered("--rehearsal" in sys.argv) as found:
        once(found)
