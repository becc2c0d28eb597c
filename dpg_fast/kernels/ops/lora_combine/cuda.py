"""The CUDA backend of lora_combine."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda


def verify(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(S, bank=(codes.shape[1], S.shape[1]))


def run(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
    """Launches on the current stream of S's device; see `lora_combine` for the arguments."""
    tokens, K = S.shape[0], codes.shape[1]
    r = S.shape[1] // max(groups * K, 1)
    u = torch.empty((groups, tokens, r), dtype=torch.float32, device=S.device)
    _cuda.launch(
        "lora_combine",
        S.device,
        _cuda.TYPE_ID[S.dtype],
        S.data_ptr(),
        S.stride(0),
        codes.data_ptr(),
        codes.shape[0],
        slots.data_ptr(),
        u.data_ptr(),
        tokens,
        groups,
        K,
        r,
    )
    return u
