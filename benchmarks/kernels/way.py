"""An op to measure, the ways to compute it, and what it costs at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from benchmarks.kernels.shapes import Work
from dpg_fast.kernels.testing import error_ratio, relative_error

LIMIT = 1.5
"""Our ops' largest error, in units of the unfused computation's; a rival's may be four times that."""
RIVAL_LIMIT = 6.0

Case = TypeVar("Case")
Call = Callable[[], Any]


class Cost(NamedTuple):
    """Bytes that have to move and floating-point operations, counting every tensor once."""

    bytes: int
    flops: int

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, tuple):
            return NotImplemented
        return Cost(self.bytes + other[0], self.flops + other[1])


@dataclass(frozen=True)
class Way(Generic[Case]):
    """One way to compute an op.

    Attributes:
        name: in the tables.
        build: argument set -> call without arguments that returns the op's outputs.
        same: it computes what the op computes; otherwise (the base product alone, say) it is not checked.
        ours: held to the strict limit.
        backend: dpg_fast's backend to force, None for its own choice.
        graph: it can be captured in a CUDA graph.
        cost: its own, where it is not the op's.
        to_check: replaces `build` in the correctness check (ways that draw random numbers).
        reason: why it is not there; then it is only listed.
    """

    name: str
    build: Callable[[Case], Call] | None = None
    same: bool = True
    ours: bool = False
    backend: str | None = None
    graph: bool = True
    cost: Cost | None = None
    to_check: Callable[[Case], Call] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Op(Generic[Case]):
    """One op of the suite.

    Attributes:
        name: in the tables and options.
        kernel: dpg_fast's op behind it.
        on_linear: measured on linear layers; otherwise on the MLP's activation.
        make: (work, seed) -> argument set.
        ways: the first one is the baseline of the ratios.
        cost: of the op.
        exact: (argument set, rows) -> outputs in float64, per-token ones for these rows alone.
        unfused: argument set -> outputs as separate torch operations in the same dtype compute them.
        per_token: for each output, whether its first dimension is tokens.
        training: gradients are computed.
        most_people: distinct personalities beyond which the op is not used.
        measure: (found, unfused, exact) -> error ratio.
    """

    name: str
    kernel: str
    on_linear: bool
    make: Callable[[Work, int], Case]
    ways: Callable[[Work], Sequence[Way[Case]]]
    cost: Callable[[Work], Cost]
    exact: Callable[[Case, Tensor], Sequence[Tensor]]
    unfused: Callable[[Case], Sequence[Tensor]]
    per_token: tuple[bool, ...]
    training: bool = False
    most_people: int = 64
    measure: Callable[[Tensor, Tensor, Tensor], float] = error_ratio


class Verdict(NamedTuple):
    """Largest error ratio over the outputs, and the relative error behind it."""

    ratio: float
    error: float


def verdict(op: Op[Any], found: Any, unfused: Sequence[Tensor], exact: Sequence[Tensor], rows: Tensor) -> Verdict:
    """Compare a way's outputs with float64; a wrong number of outputs or a wrong shape counts as infinitely wrong."""
    outputs = found if isinstance(found, (tuple, list)) else (found,)
    if len(outputs) != len(exact):
        return Verdict(float("inf"), float("inf"))
    worst = Verdict(0.0, 0.0)
    for value, base, true, per_token in zip(outputs, unfused, exact, op.per_token, strict=True):
        if value.shape != base.shape:
            return Verdict(float("inf"), float("inf"))
        if per_token:
            value, base = value[rows], base[rows]
        ratio = op.measure(value, base, true)
        if not ratio <= worst.ratio:
            worst = Verdict(ratio, relative_error(value, true))
    return worst


def sample_rows(tokens: int, device: str, most: int = 256) -> Tensor:
    """int64: at most `most` tokens, the first and the last among them."""
    if tokens <= most:
        return torch.arange(tokens, device=device)
    drawn = torch.randperm(tokens - 2, generator=torch.Generator().manual_seed(tokens))[: most - 2] + 1
    return torch.cat([torch.tensor([0, tokens - 1]), drawn]).sort().values.to(device)
