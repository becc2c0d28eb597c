"""add_rmsnorm: residual, expand and norm after a linear layer, with Hugging Face's addition and LlamaRMSNorm as its rival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.kernels import lora_case
from benchmarks.kernels.linear_ops import own_ways
from benchmarks.kernels.lora_case import LoraCase
from benchmarks.kernels.shapes import CODES, Work
from benchmarks.kernels.way import Call, Cost, Op, Way
from dpg_fast import kernels

EPS = 1e-5


@dataclass(frozen=True)
class NormCase:
    """An adapted linear layer's output y [T, d] with its expand, the residual [T, d] and the next norm's weight [d]."""

    linear: LoraCase
    residual: Tensor
    weight: Tensor

    @property
    def work(self) -> Work:
        return self.linear.work

    @property
    def bytes(self) -> int:
        """Of the tensors that a call touches."""
        c = self.linear
        return sum(
            t.numel() * t.element_size() for t in (c.y, c.u, c.B, c.codes_b, c.slots, self.residual, self.weight)
        )

    @property
    def memory(self) -> int:
        """Bytes of all tensors."""
        return self.linear.memory + self.bytes

    @property
    def lora(self) -> kernels.RideAlong:
        """The expand of y."""
        c = self.linear
        return kernels.RideAlong(c.u, c.B, c.codes_b, c.slots, c.scale)


def _make(work: Work, seed: int) -> NormCase:
    linear = lora_case.make(work, seed)
    g = torch.Generator(work.device).manual_seed(seed + 1)
    residual = torch.randn(linear.y.shape, generator=g, device=work.device).to(work.dtype)
    weight = (1 + 0.2 * torch.randn(linear.y.shape[1], generator=g, device=work.device)).to(work.dtype)
    return NormCase(linear, residual, weight)


def _hugging_face(c: NormCase) -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm: nn.Module = LlamaRMSNorm(c.weight.shape[0], eps=EPS)
    norm.weight = nn.Parameter(c.weight, requires_grad=False)
    return norm


def _base(c: NormCase) -> Call:
    norm, y = _hugging_face(c), c.linear.y

    def run() -> tuple[Tensor, Tensor]:
        h = c.residual + y
        return h, norm(h)

    return run


def _plain(c: NormCase) -> Call:
    """The expand as one dense product of width K r, then what the bare model does."""
    norm, clean = _hugging_face(c), c.linear.y

    def run() -> tuple[Tensor, Tensor]:
        h = c.residual + lora_case.dense_expand(clean.clone(), c.linear.u, c.linear)
        return h, norm(h)

    return run


def _ours(c: NormCase) -> Call:
    return lambda: kernels.add_rmsnorm(c.linear.y, c.residual, c.weight, EPS, lora=c.lora)


def _ours_plain(c: NormCase) -> Call:
    return lambda: kernels.add_rmsnorm(c.linear.y, c.residual, c.weight, EPS)


def _apart(c: NormCase) -> Call:
    norm, clean, lora = _hugging_face(c), c.linear.y, c.lora

    def run() -> tuple[Tensor, Tensor]:
        h = c.residual + kernels.lora_expand_add(clean.clone(), *lora)
        return h, norm(h)

    return run


def _exact(c: NormCase, rows: Tensor) -> list[Tensor]:
    d = c.linear.double(rows)
    lora = kernels.RideAlong(d.u, d.B, d.codes_b, d.slots, d.scale)
    return list(
        kernels.add_rmsnorm_reference(d.y, c.residual[rows].double(), c.weight.double(), EPS, lora=lora)
    )  # fmt: skip


def _plain_cost(work: Work) -> Cost:
    """Reads y and the residual, writes h and the normed values; about six operations for each element."""
    elements = work.tokens * work.sizes[1]
    return Cost(work.dtype.itemsize * (4 * elements + work.sizes[1]), 6 * elements)


def _cost(work: Work) -> Cost:
    """Also the bank's B side, u and codes."""
    K, r, T, d = CODES, work.model.rank, work.tokens, work.sizes[1]
    return _plain_cost(work) + Cost(work.dtype.itemsize * K * r * d + 4 * (T * r + work.people * K), 2 * T * K * r * d)


def _plain_exact(c: NormCase, rows: Tensor) -> list[Tensor]:
    y = c.linear.y[rows].double()
    return list(kernels.add_rmsnorm_reference(y, c.residual[rows].double(), c.weight.double(), EPS))


def _ways(work: Work) -> Sequence[Way[NormCase]]:
    return [
        Way("residual + y, LlamaRMSNorm", _base, same=False, cost=_plain_cost(work)),
        *own_ways(work, _ours),
        Way("lora_expand_add, residual + y, LlamaRMSNorm", _apart),
        Way("separate torch operations", _plain),
    ]


def _plain_ways(work: Work) -> Sequence[Way[NormCase]]:
    return [Way("residual + y, LlamaRMSNorm", _base), *own_ways(work, _ours_plain)]


NORM: Op[NormCase] = Op(
    "add_rmsnorm",
    "add_rmsnorm",
    True,
    _make,
    _ways,
    _cost,
    _exact,
    lambda c: list(_plain(c)()),
    (True, True),
)

NORM_PLAIN: Op[NormCase] = Op(
    "add_rmsnorm_plain",
    "add_rmsnorm",
    True,
    _make,
    _plain_ways,
    _plain_cost,
    _plain_exact,
    lambda c: list(_base(c)()),
    (True, True),
)
