"""Backward passes of the LoRA ops on GPUs: the same algebra as `_grad`, with the forward's kernels.

The gradient of an expand is a shrink through the same bank, that of a shrink an expand. So beside the inputs and the
gradients themselves nothing wider than [T, r] and [T, K] is kept (float32), and coefficients [T, K r] for the product
that gives a bank's gradient, PIECE tokens at a time. Launches sit behind private
torch.library operators, which torch.compile can trace. Gradients, unlike results, may differ in the last bits
between batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _triton
from dpg_fast.kernels._library import library

PIECE = 8192  # tokens per product

_shrink_grad = _triton.lazy("lora_shrink", "run_grad")
_delta = _triton.lazy("lora_expand_add", "delta")
_slot_sums = _triton.lazy("lora_shrink", "slot_sums")

library.define(
    "lora_shrink_grad(Tensor x, Tensor A, Tensor codes, Tensor slots, Tensor w, bool combine) -> (Tensor, Tensor)"
)
library.define("lora_delta(Tensor u, Tensor B, Tensor codes, Tensor slots, float scale) -> Tensor")
library.define("slot_sums(Tensor per_token, Tensor slots, int rows) -> Tensor")
library.impl("lora_shrink_grad", lambda *args: _shrink_grad(*args), "CompositeExplicitAutograd")
library.impl("lora_delta", lambda *args: _delta(*args), "CompositeExplicitAutograd")
library.impl("slot_sums", lambda *args: _slot_sums(*args), "CompositeExplicitAutograd")


@torch.library.register_fake("dpg_fast::lora_shrink_grad", lib=library)
def _fake_shrink_grad(
    x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, w: Tensor, combine: bool
) -> tuple[Tensor, Tensor]:
    tokens = x.shape[0]
    kind: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    return torch.empty(tokens if combine else 0, A.shape[1], **kind), torch.empty(tokens, A.shape[0], **kind)


@torch.library.register_fake("dpg_fast::lora_delta", lib=library)
def _fake_delta(u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
    return torch.empty(slots.shape[0], B.shape[-1], dtype=B.dtype, device=B.device)


@torch.library.register_fake("dpg_fast::slot_sums", lib=library)
def _fake_slot_sums(per_token: Tensor, slots: Tensor, rows: int) -> Tensor:
    return torch.empty(rows, per_token.shape[1], dtype=per_token.dtype, device=per_token.device)


def slot_sums(per_token: Tensor, slots: Tensor, rows: int) -> Tensor:
    """[S, K]: sums of the rows of float32 [T, K] that share a slot, in the order of the tokens."""
    return torch.ops.dpg_fast.slot_sums(per_token, slots, rows)


def bank_gradient(values: Tensor, u: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
    """[K, r, d]: scale * sum_t codes[slots[t], k] u[t, j] values[t, d].

    values [T, d]; u float32 [T, r]. Coefficients are rounded to the dtype of values, products summed in float32.
    """
    tokens, rows = values.shape[0], codes.shape[0]
    total: Tensor | None = None
    for begin in range(0, max(tokens, 1), PIECE):
        piece = slice(begin, begin + PIECE)
        slot = slots[piece]
        valid = (slot >= 0) & (slot < rows)
        code = torch.where(valid[:, None], scale * codes[slot.clamp(0, rows - 1).long()], 0.0)
        coefficients = torch.where(valid[:, None, None], code[:, :, None] * u[piece][:, None, :], 0.0)
        product = coefficients.to(values.dtype).flatten(1).t() @ values[piece]
        if total is None:
            total = product if tokens <= PIECE else product.float()
        else:
            total += product
    assert total is not None
    return total.to(values.dtype).view(codes.shape[1], u.shape[1], values.shape[1])


def shrink_backward(
    gu: Tensor, x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, A, codes) for u = lora_shrink(x, A, codes, slots); `needs` says which are wanted."""
    banks = A if A.dim() == 4 else A[None]
    gu = gu.reshape(banks.shape[0], x.shape[0], A.shape[-2]).contiguous()
    gx = gA = gcodes = None
    if needs[0]:
        gx = torch.ops.dpg_fast.lora_delta(gu, banks, codes, slots, 1.0)
    if needs[1]:
        gA = torch.stack([bank_gradient(x, g, codes, slots, 1.0) for g in gu]).view(A.shape)
    if needs[2]:
        per_token = sum(
            torch.ops.dpg_fast.lora_shrink_grad(x, b, codes, slots, g, False)[1] for b, g in zip(banks, gu, strict=True)
        )
        gcodes = slot_sums(per_token, slots, codes.shape[0])
    return gx, gA, gcodes


def expand_backward(
    gy: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (u, B, codes) for y += expand(u, B, codes, slots, scale); `needs` says which are wanted."""
    gy = gy if gy.shape[-1] <= 1 or gy.stride(-1) == 1 else gy.contiguous()
    gu = gB = gcodes = None
    if needs[2]:
        combined, per_token = torch.ops.dpg_fast.lora_shrink_grad(gy, B, codes, slots, u, needs[0])
        gu = combined if needs[0] else None
        gcodes = slot_sums(per_token, slots, codes.shape[0]) * scale
    elif needs[0]:
        gu = torch.ops.dpg_fast.lora_shrink(gy, B, codes, slots)
    if needs[1]:
        gB = bank_gradient(gy, u, codes, slots, scale)
    return None if gu is None else gu * scale, gB, gcodes
