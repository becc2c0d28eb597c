"""The definition of lora_combine, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels._checks import side_dtype
from dpg_fast.kernels._grad import codes_of_tokens


def lora_combine_reference(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
    """u[g, t] = sum_k codes[slots[t], k] * S[t, g, k], and 0 where slots[t] is -1.

    S [T, G * K * r], codes [S, K], slots [T] -> [G, T, r]; float32, float64 for float64 S.
    """
    acc = side_dtype(S.dtype)
    K = codes.shape[1]
    parts = S.to(acc).view(S.shape[0], groups, K, S.shape[1] // max(groups * K, 1))
    u = (codes_of_tokens(codes, slots).to(acc)[:, None, :, None] * parts).sum(2)
    u = torch.where((slots >= 0)[:, None, None], u, torch.zeros_like(u))  # zero times an infinite S is not zero
    return u.transpose(0, 1).contiguous()
