"""activation_stats: counting how often and how strongly neurons fire while a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.linear_ops import own_ways
from benchmarks.kernels.lora_case import slots_of
from benchmarks.kernels.shapes import Work
from benchmarks.kernels.way import Call, Cost, Op, Way
from dpg_fast import kernels

BINS = 301


@dataclass(frozen=True)
class StatsCase:
    """gate [T, I], slots [T], NPTI's bin edges; positive int64 [S, I] and histogram int32 [S, I, bins] are added to."""

    work: Work
    gate: Tensor
    slots: Tensor
    edges: Tensor
    positive: Tensor
    histogram: Tensor

    @property
    def bytes(self) -> int:
        """Of what a call touches: gate, and a bin and a counter for each element (not whole tables)."""
        return self.gate.numel() * (self.gate.element_size() + 12)

    @property
    def memory(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in (self.gate, self.positive, self.histogram))

    def tables(self) -> tuple[Tensor, Tensor]:
        """positive and histogram, set to zero."""
        return self.positive.zero_(), self.histogram.zero_()


def _make(work: Work, seed: int) -> StatsCase:
    g = torch.Generator(work.device).manual_seed(seed)
    gate = torch.randn(work.tokens, work.model.mlp, generator=g, device=work.device).to(work.dtype)
    edges = (torch.arange(BINS - 1, dtype=torch.float64) / 100).float().to(work.device)
    shape = (work.people, work.model.mlp)
    positive = torch.zeros(shape, dtype=torch.int64, device=work.device)
    histogram = torch.zeros(*shape, BINS, dtype=torch.int32, device=work.device)
    return StatsCase(work, gate, slots_of(work), edges, positive, histogram)


def _ours(c: StatsCase) -> Call:
    positive, histogram = c.tables()

    def run() -> tuple[Tensor, Tensor]:
        kernels.activation_stats(c.gate, "silu", c.slots, c.edges, positive, histogram)
        return positive, histogram

    return run


def _reference(c: StatsCase) -> Call:
    positive, histogram = c.tables()

    def run() -> tuple[Tensor, Tensor]:
        kernels.activation_stats_reference(c.gate, "silu", c.slots, c.edges, positive, histogram)
        return positive, histogram

    return run


def _plain(c: StatsCase) -> Call:
    """Activations kept, then counted by separate torch operations."""
    positive, histogram = c.tables()
    T, width = c.gate.shape
    slot = c.slots.long()
    column = torch.arange(width, device=c.gate.device)
    flat = histogram.view(-1)
    one = torch.ones((), dtype=histogram.dtype, device=histogram.device)

    def run() -> tuple[Tensor, Tensor]:
        v = F.silu(c.gate).float()
        positive.index_add_(0, slot, (v > 0).long())
        place = (slot[:, None] * width + column) * BINS + torch.bucketize(v, c.edges)
        flat.index_add_(0, place.view(-1), one.expand(T * width))
        return positive, histogram

    return run


def _exact(c: StatsCase, rows: Tensor) -> list[Tensor]:
    """Activations computed in float64, rounded to the dtype of gate and counted."""
    v = F.silu(c.gate.double()).to(c.gate.dtype).float()
    width, slot = v.shape[1], c.slots.long()
    positive = torch.zeros_like(c.positive).index_add_(0, slot, (v > 0).long())
    column = torch.arange(width, device=v.device)
    place = (slot[:, None] * width + column) * BINS + torch.bucketize(v, c.edges)
    return [positive, torch.bincount(place.view(-1), minlength=c.histogram.numel()).view(c.histogram.shape)]


def moved(found: Tensor, unfused: Tensor, exact: Tensor) -> float:
    """Counts in another place than in float64, over the unfused computation's; below one in 100,000 counts as that many."""
    floor = max(float(exact.sum()) * 1e-5, 1.0)
    errors = [float((t.long() - exact.long()).abs().sum()) / 2 for t in (found, unfused)]
    return errors[0] / max(errors[1], floor)


def _ways(work: Work) -> Sequence[Way[StatsCase]]:
    elements = work.tokens * work.model.mlp
    baseline = Cost(2 * work.dtype.itemsize * elements, 5 * elements)
    return [
        Way("F.silu(gate)", lambda c: lambda: F.silu(c.gate), same=False, cost=baseline),
        *own_ways(work, _ours),
        Way("separate torch operations", _plain),
        Way("torch reference", _reference),
    ]


def _cost(work: Work) -> Cost:
    """Reads gate; reads and writes one histogram bin and one counter for each element that counts (at most)."""
    elements = work.tokens * work.model.mlp
    return Cost(work.dtype.itemsize * elements + 2 * 4 * elements + 2 * 8 * work.people * work.model.mlp, 10 * elements)


STATS: Op[StatsCase] = Op(
    "activation_stats",
    "activation_stats",
    False,
    _make,
    _ways,
    _cost,
    _exact,
    lambda c: [table.clone() for table in _plain(c)()],
    (False, False),
    most_people=8,  # one table for each pole being counted; 64 tables of Llama-3-8B would be a gigabyte for each layer
    measure=moved,
)
