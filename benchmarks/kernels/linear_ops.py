"""The LoRA ops on a linear layer, with their rivals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels import lora_case, rivals
from benchmarks.kernels.lora_case import LoraCase
from benchmarks.kernels.shapes import Work
from benchmarks.kernels.way import Call, Op, Way
from dpg_fast import kernels

BASE = "base product alone"


def own_ways(work: Work, build: Any, suffix: str = "") -> list[Way[Any]]:
    """dpg_fast as it chooses by itself on the CPU, and every GPU backend."""
    if work.device == "cpu":
        return [Way(f"dpg_fast{suffix}", build, ours=True)]
    return [Way(f"dpg_fast{suffix}, {backend}", build, ours=True, backend=backend) for backend in ("cuda", "triton")]


def base(work: Work) -> Way[LoraCase]:
    """What the bare model does: the baseline."""
    return Way(BASE, lambda c: lambda: F.linear(c.x, c.W), same=False, cost=lora_case.base_cost(work))


# ---------------------------------------------------------------- lora_shrink


def _shrink(c: LoraCase) -> Call:
    return lambda: kernels.lora_shrink(c.x, c.A, c.codes_a, c.slots)


def _shrink_ways(work: Work) -> Sequence[Way[LoraCase]]:
    return [
        base(work),
        *own_ways(work, _shrink),
        Way("torch reference", lambda c: lambda: kernels.lora_shrink_reference(c.x, c.A, c.codes_a, c.slots)),
        Way("dense product of width K r, codes after it", lambda c: lambda: lora_case.dense_shrink(c)),
        rivals.gathered_shrink(work),
        rivals.vllm_shrink(work),
    ]


# ---------------------------------------------------------------- lora_expand_add


def _expand(c: LoraCase) -> Call:
    y = c.y.clone()
    return lambda: kernels.lora_expand_add(y, c.u, c.B, c.codes_b, c.slots, c.scale)


def _expand_reference(c: LoraCase) -> Call:
    y = c.y.clone()
    return lambda: kernels.lora_expand_add_reference(y, c.u, c.B, c.codes_b, c.slots, c.scale)


def _expand_dense(c: LoraCase) -> Call:
    y = c.y.clone()
    return lambda: lora_case.dense_expand(y, c.u, c)


def _exact_expand(c: LoraCase, rows: Tensor) -> list[Tensor]:
    d = c.double(rows)
    return [kernels.lora_expand_add_reference(d.y.clone(), d.u, d.B, d.codes_b, d.slots, d.scale)]


def _expand_ways(work: Work) -> Sequence[Way[LoraCase]]:
    return [
        base(work),
        *own_ways(work, _expand),
        Way("torch reference", _expand_reference),
        Way("addmm of width K r", _expand_dense),
        rivals.gathered_expand(work),
        rivals.vllm_expand(work),
    ]


# ---------------------------------------------------------------- a whole adapted linear


def _linear(c: LoraCase) -> Call:
    return lambda: kernels.lora_add(F.linear(c.x, c.W), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)


def _stacked(c: LoraCase) -> Call:
    """[W; A_0 ... A_K-1] is one weight, so that one product gives y and x A^T; one more call does the rest."""
    d_out, d_in = c.W.shape
    stacked = torch.cat([c.W, c.A.view(-1, d_in)])

    def run() -> Tensor:
        both = kernels.linear_product(c.x, stacked)
        return kernels.lora_stacked_add(
            both[:, :d_out], both[:, d_out:], c.B, c.codes_a, c.codes_b, c.slots, (d_out,), c.scale
        )

    return run


def _linear_reference(c: LoraCase) -> Call:
    return lambda: kernels.lora_add_reference(F.linear(c.x, c.W), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)


def _linear_dense(c: LoraCase) -> Call:
    return lambda: lora_case.dense_expand(F.linear(c.x, c.W), lora_case.dense_shrink(c), c)


def _linear_addmm(c: LoraCase) -> Call:
    A, B = c.materialised()
    a, b = A[0].t(), B[0].t()
    return lambda: F.linear(c.x, c.W).addmm_(c.x @ a, b)


def _merged(c: LoraCase) -> Call:
    A, B = (t.float() for t in c.materialised())
    W = (c.W.float() + B[0] @ A[0]).to(c.W.dtype)
    return lambda: F.linear(c.x, W)


def exact_linear(c: LoraCase, rows: Tensor) -> list[Tensor]:
    """The adapted linear in float64."""
    d = c.double(rows)
    y = F.linear(d.x, d.W)
    return [kernels.lora_add_reference(y, d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)]


def _linear_ways(work: Work) -> Sequence[Way[LoraCase]]:
    single = work.people == 1
    only_one = "one personality only"
    return [
        base(work),
        *own_ways(work, _linear),
        *own_ways(work, _stacked, " stacked"),
        Way("merged weights", _merged) if single else Way("merged weights", reason=only_one),
        rivals.peft_single(work),
        rivals.peft_mixed(work),
        Way("addmm, one adapter", _linear_addmm) if single else Way("addmm, one adapter", reason=only_one),
        Way("addmm of width K r", _linear_dense),
        rivals.gathered_linear(work),
        Way("torch reference", _linear_reference),
        rivals.vllm_linear(work),
    ]


# ---------------------------------------------------------------- training


def _leaves(c: LoraCase) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in (c.x, c.A, c.B, c.codes_a, c.codes_b)]


def _train(c: LoraCase) -> Call:
    x, A, B, codes_a, codes_b = leaves = _leaves(c)

    def step() -> tuple[Tensor, ...]:
        y = kernels.lora_add(F.linear(x, c.W), x, A, B, codes_a, codes_b, c.slots, c.scale)
        return torch.autograd.grad(y, leaves, c.gy)

    return step


def _train_plain(c: LoraCase, dtype: torch.dtype | None = None) -> Call:
    """Separate torch operations, differentiated by autograd."""
    x, A, B, codes_a, codes_b = leaves = _leaves(c)
    K, r, d_in = A.shape

    def step() -> tuple[Tensor, ...]:
        of_token_a, of_token_b = (codes[c.slots.long()].to(x.dtype) for codes in (codes_a, codes_b))
        u = torch.einsum("tk,tkr->tr", of_token_a, F.linear(x, A.view(K * r, d_in)).view(-1, K, r))
        spread = (of_token_b[:, :, None] * u[:, None, :]).reshape(-1, K * r)
        y = torch.addmm(F.linear(x, c.W), spread, B.view(K * r, -1), alpha=c.scale)
        return torch.autograd.grad(y, leaves, c.gy)

    return step


def _train_base(c: LoraCase) -> Call:
    x = c.x.detach().clone().requires_grad_()
    return lambda: torch.autograd.grad(F.linear(x, c.W), [x], c.gy)


def _exact_training(c: LoraCase, rows: Tensor) -> list[Tensor]:
    gradients = list(_train_plain(c.double())())
    gradients[0] = gradients[0][rows]
    return gradients


def _training_ways(work: Work) -> Sequence[Way[LoraCase]]:
    forward = lora_case.base_cost(work)
    return [
        Way("base product, gradient of its input", _train_base, same=False, cost=forward + forward),
        *own_ways(work, _train),
        Way("separate torch operations, autograd", _train_plain),
        rivals.peft_training(work),
    ]


OPS: tuple[Op[LoraCase], ...] = (
    Op(
        "lora_shrink",
        "lora_shrink",
        True,
        lora_case.make,
        _shrink_ways,
        lora_case.shrink_cost,
        lambda c, rows: [kernels.lora_shrink_reference((d := c.double(rows)).x, d.A, d.codes_a, d.slots)],
        lambda c: [lora_case.dense_shrink(c)],
        (True,),
    ),
    Op(
        "lora_expand_add",
        "lora_expand_add",
        True,
        lora_case.make,
        _expand_ways,
        lora_case.expand_cost,
        _exact_expand,
        lambda c: [lora_case.dense_expand(c.y.clone(), c.u, c)],
        (True,),
    ),
    Op(
        "lora_add",
        "lora_add",
        True,
        lora_case.make,
        _linear_ways,
        lora_case.add_cost,
        exact_linear,
        lambda c: [_linear_dense(c)()],
        (True,),
    ),
    Op(
        "train_linear",
        "lora_add",
        True,
        lora_case.make,
        _training_ways,
        lora_case.training_cost,
        _exact_training,
        lambda c: list(_train_plain(c)()),
        (True, False, False, False, False),
        training=True,
    ),
)
