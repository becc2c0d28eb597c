"""Backward passes of the LoRA ops, as dense products in float32 (float64 for float64 inputs); on GPUs, `_grad_triton`."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _grad_triton, _triton
from dpg_fast.kernels._checks import side_dtype


def codes_of_tokens(codes: Tensor, slots: Tensor) -> Tensor:
    """[T, K]: the codes of each token's slot, zero for slot -1."""
    rows = codes[slots.clamp(min=0).long()]
    return torch.where((slots >= 0)[:, None], rows, torch.zeros_like(rows))


def into_slots(per_token: Tensor, slots: Tensor, rows: int) -> Tensor:
    """[S, K]: sums the rows of [T, K] that share a slot; slot -1 is dropped."""
    if per_token.dtype == torch.float32 and _triton.serves_backward(per_token):
        return _grad_triton.slot_sums(per_token, slots, rows)
    kept = torch.where((slots >= 0)[:, None], per_token, torch.zeros_like(per_token))
    out = torch.zeros(rows, per_token.shape[1], dtype=per_token.dtype, device=per_token.device)
    return out.index_add(0, slots.clamp(min=0).long(), kept)


def shrink_backward(
    gu: Tensor, x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, A, codes) for u = lora_shrink(x, A, codes, slots); `needs` says which are wanted."""
    if _triton.serves_backward(x):
        return _grad_triton.shrink_backward(gu, x, A, codes, slots, needs)
    acc = side_dtype(x.dtype)
    banks = A.to(acc).reshape(-1, *A.shape[-3:])  # [G, K, r, d]
    gu = gu.to(acc).reshape(banks.shape[0], x.shape[0], A.shape[-2])
    spread = codes_of_tokens(codes, slots).to(acc)[None, :, :, None] * gu[:, :, None, :]  # [G, T, K, r]
    gx = gA = gcodes = None
    if needs[0]:
        gx = torch.einsum("gtkj,gkjd->td", spread, banks).to(x.dtype)
    if needs[1]:
        gA = torch.einsum("gtkj,td->gkjd", spread, x.to(acc)).reshape(A.shape).to(A.dtype)
    if needs[2]:
        products = torch.einsum("td,gkjd->gtkj", x.to(acc), banks)
        gcodes = into_slots(torch.einsum("gtj,gtkj->tk", gu, products), slots, codes.shape[0]).to(codes.dtype)
    return gx, gA, gcodes


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
    if _triton.serves_backward(B):
        return _grad_triton.expand_backward(gy, u, B, codes, slots, scale, needs)
    acc = side_dtype(B.dtype)
    K, r, d = B.shape
    g, u_acc = gy.to(acc), u.to(acc)
    c = codes_of_tokens(codes, slots).to(acc)
    gu = gB = gcodes = None
    if needs[0] or needs[2]:
        products = (g @ B.to(acc).reshape(K * r, d).t()).reshape(-1, K, r)
        if needs[0]:
            gu = (scale * torch.einsum("tk,tkj->tj", c, products)).to(u.dtype)
        if needs[2]:
            per_token = scale * torch.einsum("tj,tkj->tk", u_acc, products)
            gcodes = into_slots(per_token, slots, codes.shape[0]).to(codes.dtype)
    if needs[1]:
        coef = scale * (c[:, :, None] * u_acc[:, None, :]).reshape(-1, K * r)
        gB = (coef.t() @ g).reshape(K, r, d).to(B.dtype)
    return gu, gB, gcodes
