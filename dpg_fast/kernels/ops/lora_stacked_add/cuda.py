"""The CUDA backend of lora_stacked_add: one launch for all groups."""

from __future__ import annotations

from torch import Tensor

from dpg_fast.kernels import _cuda

MAX_GROUPS = 8


def verify(
    y: Tensor, S: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, widths: list[int], scale: float
) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    if len(widths) > MAX_GROUPS:
        return False, f"{len(widths)} groups (the CUDA kernel takes up to {MAX_GROUPS})"
    return _cuda.verify(y, bank=(B.shape[0], B.shape[1]))


def run(
    y: Tensor, S: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, widths: list[int], scale: float
) -> None:
    """Launches on the current stream of y's device; see `lora_stacked_add` for the arguments."""
    K, r, _ = B.shape
    _cuda.launch(
        "lora_stacked_add",
        y.device,
        _cuda.TYPE_ID[y.dtype],
        y.data_ptr(),
        y.stride(0),
        S.data_ptr(),
        S.stride(0),
        B.data_ptr(),
        _cuda.row_stride(B),
        codes_a.data_ptr(),
        codes_b.data_ptr(),
        codes_a.shape[0],
        slots.data_ptr(),
        scale,
        y.shape[0],
        K,
        r,
        len(widths),
        *widths,
        *(0,) * (MAX_GROUPS - len(widths)),
    )
