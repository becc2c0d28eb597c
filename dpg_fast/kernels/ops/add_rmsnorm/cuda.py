"""The CUDA backend of add_rmsnorm: one launch, and one more where an expand rides along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda


def verify(
    y: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool, u: Any, B: Tensor | None, *rest: Any
) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(y, bank=None if B is None else (B.shape[0], B.shape[1]))


def run(
    y: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    unit_offset: bool,
    u: Tensor | None,
    B: Tensor | None,
    codes: Tensor | None,
    slots: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Launches on the current stream of y's device; see `add_rmsnorm` for the arguments."""
    tokens, d = y.shape
    h, out = (torch.empty(y.shape, dtype=y.dtype, device=y.device) for _ in range(2))
    address = _cuda.address
    lora: tuple[int | float, ...] = (0, 0, 0, 0, 0, 0, 0.0, 0, 0)
    if u is not None:
        assert B is not None and codes is not None
        lora = (
            *(u.data_ptr(), B.data_ptr(), _cuda.row_stride(B), codes.data_ptr(), codes.shape[0]),
            *(address(slots), scale, B.shape[0], B.shape[1]),
        )
    _cuda.launch(
        "add_rmsnorm",
        y.device,
        _cuda.TYPE_ID[y.dtype],
        y.data_ptr(),
        y.stride(0),
        residual.data_ptr(),
        residual.stride(0),
        weight.data_ptr(),
        float(eps),
        int(unit_offset),
        h.data_ptr(),
        out.data_ptr(),
        tokens,
        d,
        *lora,
    )
    return h, out
