"""Random arguments of the LoRA ops, and the plain torch computations they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.shapes import CODES, Work
from benchmarks.kernels.way import Cost


@dataclass(frozen=True)
class LoraCase:
    """An adapted linear layer and its input.

    x [T, d_in], W [d_out, d_in], y [T, d_out] (W x), A [K, r, d_in], B [K, r, d_out], codes [S, K], slots [T],
    u [T, r] (the shrunk x); gy [T, d_out] is the gradient that comes back in training.
    """

    work: Work
    x: Tensor
    W: Tensor
    y: Tensor
    A: Tensor
    B: Tensor
    codes_a: Tensor
    codes_b: Tensor
    slots: Tensor
    u: Tensor
    gy: Tensor
    scale: float = 2.0

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    @property
    def memory(self) -> int:
        """The same."""
        return self.bytes

    def double(self, rows: Tensor | None = None) -> LoraCase:
        """The same values in float64, for some tokens or all."""
        changes: dict[str, Any] = {
            name: t.double() for name, t in vars(self).items() if isinstance(t, Tensor) and t.is_floating_point()
        }
        changes["slots"] = self.slots
        if rows is not None:
            changes |= {name: changes[name][rows] for name in ("x", "y", "u", "gy", "slots")}
        return replace(self, **changes)

    def materialised(self) -> tuple[Tensor, Tensor]:
        """A [S, r, d_in] and B [S, d_out, r] of every personality, the scale in B, in the case's dtype."""
        A = torch.einsum("sk,krd->srd", self.codes_a, self.A.float())
        B = torch.einsum("sk,kro->sor", self.codes_b, self.B.float()) * self.scale
        return A.to(self.x.dtype).contiguous(), B.to(self.x.dtype).contiguous()


def make(work: Work, seed: int) -> LoraCase:
    """Random values of the sizes that trained layers have: y, its delta and u are of the order of one."""
    g = torch.Generator(work.device).manual_seed(seed)
    d_in, d_out = work.sizes
    K, r, T = CODES, work.model.rank, work.tokens

    def randn(*shape: int, over: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=g, device=work.device) / over**0.5).to(work.dtype)

    x, W = randn(T, d_in), randn(d_out, d_in, over=d_in)
    A, B = randn(K, r, d_in, over=d_in * K), randn(K, r, d_out, over=4 * r * K)
    codes_a, codes_b = (torch.randn(work.people, K, generator=g, device=work.device) for _ in range(2))
    slots = slots_of(work)
    u = torch.einsum("tk,tkr->tr", codes_a[slots.long()], torch.einsum("td,krd->tkr", x, A).float())
    return LoraCase(work, x, W, F.linear(x, W), A, B, codes_a, codes_b, slots, u.contiguous(), randn(T, d_out))


def slots_of(work: Work) -> Tensor:
    """int32 [T]: the slot of each token's row."""
    rows = torch.tensor(work.person_of_row(), dtype=torch.int32)
    return rows.repeat_interleave(work.tokens // work.rows).to(work.device)


def dense_shrink(c: LoraCase) -> Tensor:
    """One product of width K r, then the combination by codes, in the dtype of x."""
    K, r, d = c.A.shape
    products = F.linear(c.x, c.A.view(K * r, d)).view(-1, K, r)
    return torch.einsum("tk,tkr->tr", c.codes_a[c.slots.long()].to(c.x.dtype), products)


def dense_expand(y: Tensor, u: Tensor, c: LoraCase) -> Tensor:
    """codes x u as one operand of width K r, and one product added to y (in place)."""
    K, r, d = c.B.shape
    spread = c.codes_b[c.slots.long()].to(y.dtype)[:, :, None] * u.to(y.dtype)[:, None, :]
    return y.addmm_(spread.view(-1, K * r), c.B.view(K * r, d), alpha=c.scale)


def base_cost(work: Work) -> Cost:
    """The base product."""
    d_in, d_out = work.sizes
    e, T = work.dtype.itemsize, work.tokens
    return Cost(e * (d_in * d_out + T * (d_in + d_out)), 2 * T * d_in * d_out)


def _side(work: Work, width: int) -> Cost:
    """One side of the bank with its codes: K r weights of `width`, u in float32."""
    K, r, T = CODES, work.model.rank, work.tokens
    moved = work.dtype.itemsize * K * r * width + 4 * (T * r + work.people * K) + 4 * T
    return Cost(moved, 2 * T * K * r * width)


def shrink_cost(work: Work) -> Cost:
    """Reads x, the A bank and codes; writes u."""
    return _side(work, work.sizes[0]) + Cost(work.dtype.itemsize * work.tokens * work.sizes[0], 0)


def expand_cost(work: Work) -> Cost:
    """Reads u, the B bank, codes and y; writes y."""
    return _side(work, work.sizes[1]) + Cost(2 * work.dtype.itemsize * work.tokens * work.sizes[1], 0)


def add_cost(work: Work) -> Cost:
    """The base product with the bank riding on it: x and y move once, u never leaves the chip."""
    d_in, d_out = work.sizes
    bank = Cost(work.dtype.itemsize * CODES * work.model.rank * (d_in + d_out), 0)
    flops = Cost(0, 2 * work.tokens * CODES * work.model.rank * (d_in + d_out))
    return base_cost(work) + bank + flops


def training_cost(work: Work) -> Cost:
    """Forward, and the gradients of x, of the bank and of the codes: each product of the forward comes back twice for the
    bank (for its weights and for its input) and once for the frozen base weights."""
    forward, base = add_cost(work), base_cost(work)
    return Cost(2 * forward.bytes, 3 * forward.flops - base.flops)
