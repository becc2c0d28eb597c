"""The CUDA backend of lora_shrink."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda


def verify(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(x, A.shape[-3], (A.shape[-3], A.shape[-2]))


def run(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    """Launches on the current stream of x's device; see `lora_shrink` for the arguments."""
    K, r, d = A.shape[-3:]
    tokens, groups = x.shape[0], A.shape[0] if A.dim() == 4 else 1
    u = torch.empty((*A.shape[:-3], tokens, r), dtype=torch.float32, device=x.device)
    _cuda.launch(
        "lora_shrink",
        x.device,
        _cuda.TYPE_ID[x.dtype],
        x.data_ptr(),
        x.stride(0),
        A.data_ptr(),
        codes.data_ptr(),
        codes.shape[0],
        slots.data_ptr(),
        u.data_ptr(),
        tokens,
        groups,
        K,
        r,
        d,
    )
    return u
