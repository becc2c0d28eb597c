"""The definition of add_rmsnorm, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.types import RideAlong


def add_rmsnorm_reference(
    y: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    unit_offset: bool = False,
    lora: RideAlong | None = None,
) -> tuple[Tensor, Tensor]:
    """y, residual [T, d], weight [d] -> (h, out) [T, d].

    Every intermediate is rounded to the dtype of y where separate torch operations and Hugging Face's norms round.
    """
    dtype = y.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    if lora is not None:
        y = lora_expanded_reference(y, lora.u, lora.B, lora.codes, lora.slots, lora.scale)
    h = residual + y
    wide = h.to(acc)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if unit_offset:
        return h, (normed * (1.0 + weight.to(acc))).to(dtype)
    return h, weight * normed.to(dtype)
