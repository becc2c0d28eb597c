"""Backward passes of the LoRA ops, as dense products in the dtype of the activations; on GPUs, `_grad_triton`.

Products of width K r (a bank's rows side by side) need coefficients or results [T, K r]: made for some tokens at a time,
so that beside the saved inputs and the gradients nothing wider than [T, r] and [T, K] outlives a piece.
Like separate torch operations would, they are rounded to the dtype of the activations.

Why: docs/decisions.md, "Gradients on the CPU".
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _grad_triton, _triton
from dpg_fast.kernels._checks import side_dtype

PIECE = 1 << 18  # values [tokens, K r] at a time
FEWEST = 64  # tokens at a time, however wide the bank: products of fewer waste the processor


def pieces(tokens: int, per_token: int) -> list[slice]:
    """Slices of the tokens, each of about PIECE values; at least one."""
    size = max(PIECE // max(per_token, 1), FEWEST)
    return [slice(begin, begin + size) for begin in range(0, max(tokens, 1), size)]


def codes_of_tokens(codes: Tensor, slots: Tensor) -> Tensor:
    """[T, K]: the codes of each token's slot, zero for slot -1."""
    return torch.nn.functional.pad(codes, (0, 0, 0, 1))[slots]  # -1 is the row of zeros at the end


def into_slots(per_token: Tensor, slots: Tensor, rows: int) -> Tensor:
    """[S, K]: sums the rows of [T, K] that share a slot; slot -1 is dropped."""
    if per_token.dtype == torch.float32 and _triton.serves_backward(per_token):
        return _grad_triton.slot_sums(per_token, slots, rows)
    kept = per_token.masked_fill((slots < 0)[:, None], 0.0)
    out = torch.zeros(rows, per_token.shape[1], dtype=per_token.dtype, device=per_token.device)
    return out.index_add_(0, slots.clamp(min=0), kept)


class _Sum:
    """A sum over pieces; of several, in float32 (float64 for float64)."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.total: Tensor | None = None

    def add(self, more: Tensor) -> None:
        if self.total is None:
            self.total = more
        else:
            self.total = self.total.to(side_dtype(self.dtype)).add_(more)

    def result(self, shape: torch.Size) -> Tensor:
        assert self.total is not None
        return self.total.to(self.dtype).view(shape)


def shrink_backward(
    gu: Tensor, x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, A, codes) for u = lora_shrink(x, A, codes, slots); `needs` says which are wanted."""
    if _triton.serves_backward(x, A.shape[-2]):
        return _grad_triton.shrink_backward(gu, x, A, codes, slots, needs)
    tokens, (K, r, d) = x.shape[0], A.shape[-3:]
    flat = A.reshape(-1, d)
    by_token = gu.reshape(-1, tokens, r).transpose(0, 1)[:, :, None, :]  # [T, G, 1, r]
    c = codes_of_tokens(codes, slots)
    parts = pieces(tokens, flat.shape[0])
    gx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs[0] and len(parts) > 1 else None
    gA, per_token = _Sum(A.dtype), []
    for piece in parts:
        if needs[0] or needs[1]:
            spread = (c[piece, None, :, None] * by_token[piece]).to(x.dtype).reshape(-1, flat.shape[0])
        if needs[0]:
            if gx is None:
                gx = spread @ flat
            else:
                gx[piece] = spread @ flat
        if needs[1]:
            gA.add(spread.t() @ x[piece])
        if needs[2]:
            products = (x[piece] @ flat.t()).view(-1, by_token.shape[1], K, r)
            per_token.append((products * by_token[piece]).sum((1, 3)))
    gcodes = into_slots(torch.cat(per_token), slots, codes.shape[0]).to(codes.dtype) if needs[2] else None
    return gx, gA.result(A.shape) if needs[1] else None, gcodes


def expand_backward(
    gy: Tensor,
    u: Tensor,
    B: Tensor,
    codes: Tensor,
    slots: Tensor,
    scale: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (u, B, codes) for y += expand(u, B, codes, slots, scale).

    `needs` says which are wanted.
    """
    if _triton.serves_backward(B, B.shape[-2]):
        return _grad_triton.expand_backward(gy, u, B, codes, slots, scale, needs)
    K, r, d = B.shape
    flat = B.reshape(K * r, d)
    c = codes_of_tokens(codes, slots).mul_(scale)
    gu, gB, per_token = [], _Sum(B.dtype), []
    for piece in pieces(gy.shape[0], K * r):
        if needs[0] or needs[2]:
            products = (gy[piece] @ flat.t()).view(-1, K, r)
            if needs[0]:
                gu.append((products * c[piece, :, None]).sum(1))
            if needs[2]:
                per_token.append((products * u[piece, None, :]).sum(2))
        if needs[1]:
            spread = (c[piece, :, None] * u[piece, None, :]).to(B.dtype).view(-1, K * r)
            gB.add(spread.t() @ gy[piece])
    return (
        torch.cat(gu) if needs[0] else None,
        gB.result(B.shape) if needs[1] else None,
        into_slots(torch.cat(per_token), slots, codes.shape[0]).mul_(scale) if needs[2] else None,
    )
