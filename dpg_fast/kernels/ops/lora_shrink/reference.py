"""The definition of lora_shrink, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def lora_shrink_reference(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    """u[t] = sum_k codes[slots[t], k] * (A[k] @ x[t]), and 0 where slots[t] is -1.

    x [T, d], A [K, r, d] or [G, K, r, d], codes [S, K], slots [T] -> [T, r] or [G, T, r]; float32, float64
    for float64 x.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    per_entry = torch.einsum("td,...kjd->...tkj", x.to(acc), A.to(acc))
    of_token = codes.to(acc)[slots.clamp(min=0).long()]
    u = torch.einsum("tk,...tkj->...tj", of_token, per_entry)
    return torch.where((slots >= 0)[:, None], u, torch.zeros_like(u)).contiguous()
