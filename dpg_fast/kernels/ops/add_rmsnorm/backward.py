"""Gradients of add_rmsnorm, from h. Roundings count as the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels._checks import side_dtype
from dpg_fast.kernels._grad import expand_backward, pieces
from dpg_fast.kernels.types import RideAlong


def add_rmsnorm_backward(
    gh: Tensor,
    gout: Tensor,
    h: Tensor,
    weight: Tensor,
    eps: float,
    unit_offset: bool,
    lora: RideAlong | None,
    needs: tuple[bool, bool, bool, bool] = (True,) * 4,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (y and residual alike, weight, u, B, codes).

    gh, gout, h [T, d]; `needs`: which of the last four are wanted. Widened to float32 for some tokens at a time.
    """
    acc = side_dtype(h.dtype)
    factor = weight.to(acc) + 1.0 if unit_offset else weight.to(acc)
    g = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    g_weight = torch.zeros(weight.shape, dtype=acc, device=h.device)
    for piece in pieces(h.shape[0], h.shape[1]):
        normed, outer = h[piece].to(acc), gout[piece].to(acc)
        scale = torch.rsqrt(normed.pow(2).mean(-1, keepdim=True) + eps)
        normed = normed * scale
        if needs[0]:
            g_weight += (outer * normed).sum(0)
        outer = outer * factor
        g[piece] = gh[piece] + scale * (outer - normed * (outer * normed).mean(-1, keepdim=True))
    of_lora: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if lora is not None:
        of_lora = expand_backward(g, lora.u, lora.B, lora.codes, lora.slots, lora.scale, needs[1:])
    return (g, g_weight.to(weight.dtype) if needs[0] else None, *of_lora)
