"""The CUDA backend of lora_add: two launches, shrink and expand, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda


def verify(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> tuple[bool, str]:
    """Whether the CUDA kernels take these arguments, and why not."""
    return _cuda.verify(y, A.shape[0], (A.shape[0], A.shape[1]))


def run(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> None:
    """Launches on the current stream of y's device; see `lora_add` for the arguments."""
    K, r, d_in = A.shape
    u = torch.empty((y.shape[0], r), dtype=torch.float32, device=y.device)
    _cuda.launch(
        "lora_add",
        y.device,
        _cuda.TYPE_ID[y.dtype],
        y.data_ptr(),
        y.stride(0),
        x.data_ptr(),
        x.stride(0),
        A.data_ptr(),
        B.data_ptr(),
        _cuda.row_stride(B),
        codes_a.data_ptr(),
        codes_b.data_ptr(),
        codes_a.shape[0],
        slots.data_ptr(),
        u.data_ptr(),
        scale,
        y.shape[0],
        K,
        r,
        d_in,
        y.shape[1],
    )
