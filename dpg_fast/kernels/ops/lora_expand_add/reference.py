"""The definition of lora_expand_add, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def lora_delta_reference(u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float = 1.0) -> Tensor:
    """delta[t] = scale * sum_k codes[slots[t], k] * (B[k].T @ u[t]), 0 for slot -1.

    u [T, r], B [K, r, d] -> [T, d].
    """
    acc = torch.float64 if B.dtype == torch.float64 else torch.float32
    of_token = scale * codes.to(acc)[slots.clamp(min=0).long()]
    delta = torch.einsum("tk,tj,kjd->td", of_token, u.to(acc), B.to(acc))
    return torch.where((slots >= 0)[:, None], delta, torch.zeros_like(delta))


def lora_expanded_reference(
    y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float = 1.0
) -> Tensor:
    """y + delta, rounded once to y's dtype; rows with slot -1 are y's own, bit for bit.

    y [T, d] is not modified.
    """
    delta = lora_delta_reference(u, B, codes, slots, scale)
    return torch.where((slots >= 0)[:, None], (y.to(delta.dtype) + delta).to(y.dtype), y)


def lora_expand_add_reference(
    y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float = 1.0
) -> Tensor:
    """`lora_expanded_reference`, in place on y."""
    return y.copy_(lora_expanded_reference(y, u, B, codes, slots, scale))
