"""Random arguments of the gated activation: outputs of gate and up, a steering table, expands that ride along."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.lora_case import slots_of
from benchmarks.kernels.shapes import CODES, Work
from benchmarks.kernels.way import Cost
from dpg_fast.kernels import POLES, GatedLora, Steering

NEURONS = 0.05
"""Share of a layer's neurons in one pole's list; the released lists for Llama-3-8B hold 2 to 7%."""


@dataclass(frozen=True)
class PoleList:
    """One pole's neurons in one layer, as NPTI stores them: index, 95th percentile, difference of probabilities."""

    index: Tensor
    p95: Tensor
    diff: Tensor

    @property
    def values(self) -> Tensor:
        """What full strength adds."""
        return self.p95 * torch.sigmoid(10 * (self.diff - 0.15))


@dataclass(frozen=True)
class GatedCase:
    """gate and up [T, I], halves of one product; lora, steering; gh [T, I] comes back in training.

    `poles` are the lists behind the steering table: pole p steers up its own neurons and caps those of p ^ 1.
    """

    work: Work
    gate: Tensor
    up: Tensor
    lora: GatedLora
    steering: Steering
    gh: Tensor
    poles: tuple[PoleList, ...]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        tensors = (self.gate, self.up, self.gh, *self.lora, *self.steering)
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    @property
    def memory(self) -> int:
        """The same."""
        return self.bytes

    def double(self, rows: Tensor | None = None) -> GatedCase:
        """The same values in float64, for some tokens or all."""

        def pick(t: Tensor) -> Tensor:
            t = t.double() if t.is_floating_point() else t
            return t if rows is None else t[rows]

        lora, steering = self.lora, self.steering
        assert lora.u_up is not None
        lora = GatedLora(
            pick(lora.u_gate), lora.B_gate.double(), pick(lora.u_up), lora.B_up.double(),
            lora.codes.double(), pick(lora.slots), lora.scale,
        )  # fmt: skip
        table = (steering.clamp_mask, steering.add.double(), steering.strengths.double())
        return replace(
            self, gate=pick(self.gate), up=pick(self.up), gh=pick(self.gh), lora=lora,
            steering=Steering(*table, pick(steering.slots)),
        )  # fmt: skip


def make(work: Work, seed: int) -> GatedCase:
    """Five poles of ten are active in every personality."""
    g = torch.Generator(work.device).manual_seed(seed)
    K, r, T, width = CODES, work.model.rank, work.tokens, work.model.mlp

    def randn(*shape: int, over: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=g, device=work.device) / over**0.5).to(work.dtype)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g, device=work.device)

    merged = randn(T, 2 * width)
    slots = slots_of(work)
    u_gate, u_up = (torch.randn(T, r, generator=g, device=work.device) for _ in range(2))
    B_gate, B_up = (randn(K, r, width, over=4 * r * K) for _ in range(2))
    codes = torch.randn(work.people, K, generator=g, device=work.device)
    lora = GatedLora(u_gate, B_gate, u_up, B_up, codes, slots, 1.0)
    count = max(1, round(NEURONS * width))
    poles = tuple(
        PoleList(torch.randperm(width, generator=g, device=work.device)[:count], rand(count), 0.1 + 0.2 * rand(count))
        for _ in range(POLES)
    )
    add = torch.zeros(POLES, width, device=work.device)
    mask = torch.zeros(width, dtype=torch.int16, device=work.device)
    for p, pole in enumerate(poles):
        add[p, pole.index] = pole.values
        mask[poles[p ^ 1].index] |= 1 << p
    signs = torch.randint(0, 2, (work.people, POLES // 2), generator=g, device=work.device)
    active = torch.stack([signs, 1 - signs], dim=2).view(work.people, POLES)
    strengths = active * (0.5 + rand(work.people, POLES))
    steering = Steering(mask, add, strengths.contiguous(), slots)
    return GatedCase(work, merged[:, :width], merged[:, width:], lora, steering, randn(T, width), poles)


def unfused(c: GatedCase, lora: bool, steer: bool) -> Tensor:
    """Separate torch operations in the dtype of gate."""
    gate, up = c.gate, c.up
    if lora:
        assert c.lora.u_up is not None
        gate, up = expanded(gate, c.lora.u_gate, c.lora.B_gate, c.lora), expanded(up, c.lora.u_up, c.lora.B_up, c.lora)
    v = F.silu(gate)
    if steer:
        mask, add, strengths, slots = c.steering
        of_token = strengths[slots.long()]
        bits = (mask.int() >> torch.arange(POLES, device=mask.device, dtype=torch.int32)[:, None]) & 1
        capped = (of_token > 0).to(v.dtype) @ bits.to(v.dtype) > 0
        v = torch.where(capped, v.clamp(max=0), v) + (of_token @ add).to(v.dtype)
    return v * up


def expanded(y: Tensor, u: Tensor, B: Tensor, lora: GatedLora) -> Tensor:
    """y plus the expand, one dense product of width K r."""
    K, r, d = B.shape
    spread = lora.codes[lora.slots.long()].to(y.dtype)[:, :, None] * u.to(y.dtype)[:, None, :]
    return torch.addmm(y, spread.reshape(-1, K * r), B.reshape(K * r, d), alpha=lora.scale)


def plain_cost(work: Work) -> Cost:
    """Reads gate and up, writes h; about ten operations for each element."""
    elements = work.tokens * work.model.mlp
    return Cost(3 * work.dtype.itemsize * elements, 10 * elements)


def steered_cost(work: Work) -> Cost:
    """Also the table and the strengths; two operations for each active pole."""
    width = work.model.mlp
    table = Cost(width * (4 * POLES + 2) + 4 * (work.people * POLES + work.tokens), 2 * 5 * work.tokens * width)
    return plain_cost(work) + table


def lora_cost(work: Work) -> Cost:
    """Also both banks' B side, u and codes."""
    K, r, T, width = CODES, work.model.rank, work.tokens, work.model.mlp
    moved = 2 * work.dtype.itemsize * K * r * width + 4 * (2 * T * r + work.people * K)
    return steered_cost(work) + Cost(moved, 2 * 2 * T * K * r * width)


def training_cost(work: Work) -> Cost:
    """Forward, then gate, up and the gradient read, two gradients written, and the products of the bank twice."""
    forward, elements = lora_cost(work), work.tokens * work.model.mlp
    return Cost(forward.bytes + 5 * work.dtype.itemsize * elements, 3 * forward.flops)
