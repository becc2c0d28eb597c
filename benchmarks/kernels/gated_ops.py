"""The gated activation, plain, steered and with expands riding along, and its statistics, with their rivals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels import gated_case, npti
from benchmarks.kernels.gated_case import GatedCase
from benchmarks.kernels.linear_ops import own_ways
from benchmarks.kernels.shapes import Work
from benchmarks.kernels.stats_op import STATS
from benchmarks.kernels.way import Call, Cost, Op, Way
from dpg_fast import kernels

SILU_MUL = "F.silu(gate) * up"


def _silu_mul(work: Work, same: bool) -> Way[GatedCase]:
    """What the bare model does: the baseline."""
    return Way(SILU_MUL, lambda c: lambda: F.silu(c.gate) * c.up, same=same, cost=gated_case.plain_cost(work))


def _ours(lora: bool, steer: bool) -> Any:
    def build(c: GatedCase) -> Call:
        extra: dict[str, Any] = {"lora": c.lora if lora else None, "steering": c.steering if steer else None}
        return lambda: kernels.steered_gated_act(c.gate, c.up, "silu", **extra)

    return build


def _reference(lora: bool, steer: bool) -> Any:
    def build(c: GatedCase) -> Call:
        extra: dict[str, Any] = {"lora": c.lora if lora else None, "steering": c.steering if steer else None}
        return lambda: kernels.steered_gated_act_reference(c.gate, c.up, "silu", **extra)

    return build


def _liger(work: Work, training: bool = False) -> Way[GatedCase]:
    name = "Liger's SiLU-mul" + (", autograd" if training else "")
    if work.device != "cuda":
        return Way(name, reason="CUDA only")
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except Exception as error:  # it checks its surroundings when imported
        return Way(name, reason=f"liger_kernel cannot be imported ({type(error).__name__}: {error})")

    def build(c: GatedCase) -> Call:
        gate, up = c.gate.contiguous(), c.up.contiguous()  # the kernel copies anything else at every call
        return lambda: LigerSiLUMulFunction.apply(gate, up)

    def build_training(c: GatedCase) -> Call:
        leaves = [t.detach().contiguous().requires_grad_() for t in (c.gate, c.up)]
        # its backward overwrites the saved inputs, so each step starts from copies
        return lambda: torch.autograd.grad(LigerSiLUMulFunction.apply(*(t.clone() for t in leaves)), leaves, c.gh)

    cost = gated_case.plain_cost(work)
    return Way(name, build_training, same=False, cost=cost) if training else Way(name, build, cost=cost)


def _plain_ways(work: Work) -> Sequence[Way[GatedCase]]:
    return [
        _silu_mul(work, same=True),
        *own_ways(work, _ours(False, False)),
        Way("gate * sigmoid(gate) * up", lambda c: lambda: c.gate * torch.sigmoid(c.gate) * c.up),
        Way("torch reference", _reference(False, False)),
        _liger(work),
    ]


def _steered_ways(work: Work) -> Sequence[Way[GatedCase]]:
    return [
        _silu_mul(work, same=False),
        *own_ways(work, _ours(False, True)),
        *npti.ways(work),
        Way("separate torch operations", lambda c: lambda: gated_case.unfused(c, False, True)),
        Way("torch reference", _reference(False, True)),
    ]


def _lora_ways(work: Work) -> Sequence[Way[GatedCase]]:
    def merged_form(c: GatedCase) -> Call:
        """The expands in place on gate and up, then the steered activation."""
        assert c.lora.u_up is not None
        u_up = c.lora.u_up
        first, second = c.gate.contiguous(), c.up.contiguous()

        def run() -> Tensor:
            gate, up = first.clone(), second.clone()
            for y, u, B in ((gate, c.lora.u_gate, c.lora.B_gate), (up, u_up, c.lora.B_up)):
                kernels.lora_expand_add(y, u, B, c.lora.codes, c.lora.slots, c.lora.scale)
            return kernels.steered_gated_act(gate, up, "silu", steering=c.steering)

        return run

    return [
        _silu_mul(work, same=False),
        *own_ways(work, _ours(True, True)),
        Way("dpg_fast, three calls on copies", merged_form),
        Way("separate torch operations", lambda c: lambda: gated_case.unfused(c, True, True)),
        Way("torch reference", _reference(True, True)),
    ]


# ---------------------------------------------------------------- training


def _leaves(c: GatedCase) -> list[Tensor]:
    assert c.lora.u_up is not None
    tensors = (c.gate, c.up, c.lora.u_gate, c.lora.B_gate, c.lora.u_up, c.lora.B_up, c.lora.codes)
    return [t.detach().clone().requires_grad_() for t in tensors]


def _with_leaves(c: GatedCase, leaves: Sequence[Tensor]) -> GatedCase:
    gate, up, u_gate, B_gate, u_up, B_up, codes = leaves
    lora = c.lora._replace(u_gate=u_gate, B_gate=B_gate, u_up=u_up, B_up=B_up, codes=codes)
    return GatedCase(c.work, gate, up, lora, c.steering, c.gh, c.poles)


def _train(c: GatedCase) -> Call:
    leaves = _leaves(c)
    with_grad = _with_leaves(c, leaves)
    forward = _ours(True, True)(with_grad)
    return lambda: torch.autograd.grad(forward(), leaves, c.gh)


def _train_plain(c: GatedCase) -> Call:
    leaves = _leaves(c)
    with_grad = _with_leaves(c, leaves)
    return lambda: torch.autograd.grad(gated_case.unfused(with_grad, True, True), leaves, c.gh)


def _train_base(c: GatedCase) -> Call:
    leaves = [t.detach().clone().requires_grad_() for t in (c.gate, c.up)]
    return lambda: torch.autograd.grad(F.silu(leaves[0]) * leaves[1], leaves, c.gh)


def _exact_training(c: GatedCase, rows: Tensor) -> list[Tensor]:
    gradients = list(_train_plain(c.double())())
    return [g[rows] if per_token else g for g, per_token in zip(gradients, TOKEN_GRADIENTS, strict=True)]


def _training_ways(work: Work) -> Sequence[Way[GatedCase]]:
    plain = gated_case.plain_cost(work)
    baseline = Cost(plain.bytes + 5 * work.tokens * work.model.mlp * work.dtype.itemsize, 3 * plain.flops)
    return [
        Way("F.silu(gate) * up, autograd", _train_base, same=False, cost=baseline),
        *own_ways(work, _train),
        Way("separate torch operations, autograd", _train_plain),
        _liger(work, training=True),
    ]


TOKEN_GRADIENTS = (True, True, True, False, True, False, False)


def _op(name: str, ways: Any, cost: Any, lora: bool, steer: bool) -> Op[GatedCase]:
    def exact(c: GatedCase, rows: Tensor) -> list[Tensor]:
        d = c.double(rows)
        extra: dict[str, Any] = {"lora": d.lora if lora else None, "steering": d.steering if steer else None}
        return [kernels.steered_gated_act_reference(d.gate, d.up, "silu", **extra)]

    def unfused(c: GatedCase) -> list[Tensor]:
        return [gated_case.unfused(c, lora, steer)]

    return Op(name, "steered_gated_act", False, gated_case.make, ways, cost, exact, unfused, (True,))


OPS: tuple[Op[Any], ...] = (
    _op("gated_act", _plain_ways, gated_case.plain_cost, False, False),
    _op("gated_act_steered", _steered_ways, gated_case.steered_cost, False, True),
    _op("gated_act_steered_lora", _lora_ways, gated_case.lora_cost, True, True),
    STATS,
    Op(
        "train_gated",
        "steered_gated_act",
        False,
        gated_case.make,
        _training_ways,
        gated_case.training_cost,
        _exact_training,
        lambda c: list(_train_plain(c)()),
        TOKEN_GRADIENTS,
        training=True,
    ),
)
