"""The definition of lora_add, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expand_add_reference
from dpg_fast.kernels.ops.lora_shrink.reference import lora_shrink_reference


def lora_add_reference(
    y: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Shrink, then expand in place on y.

    x [T, d_in], A [K, r, d_in], B [K, r, d_out], codes [S, K], slots [T], y [T, d_out].
    """
    return lora_expand_add_reference(y, lora_shrink_reference(x, A, codes_a, slots), B, codes_b, slots, scale)
