"""The CUDA backend of lora_expand_add."""

from __future__ import annotations

from torch import Tensor

from dpg_fast.kernels import _cuda


def verify(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(y, bank=(B.shape[0], B.shape[1]))


def run(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> None:
    """Launches on the current stream of y's device; see `lora_expand_add` for the arguments."""
    K, r, width = B.shape
    _cuda.launch(
        "lora_expand_add",
        y.device,
        _cuda.TYPE_ID[y.dtype],
        y.data_ptr(),
        y.stride(0),
        u.data_ptr(),
        B.data_ptr(),
        _cuda.row_stride(B),
        codes.data_ptr(),
        codes.shape[0],
        slots.data_ptr(),
        scale,
        y.shape[0],
        K,
        r,
        width,
    )
