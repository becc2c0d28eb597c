"""The definition of lora_stacked_add, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dpg_fast.kernels.ops.lora_combine.reference import lora_combine_reference
from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expand_add_reference


def lora_stacked_add_reference(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: Sequence[int],
    scale: float = 1.0,
) -> Tensor:
    """`lora_expand_add_reference` of each group of S on its own columns of y and B, in place on y."""
    u = lora_combine_reference(S, codes_a, slots, len(widths))
    begin = 0
    for group, width in enumerate(widths):
        columns = slice(begin, begin + width)
        lora_expand_add_reference(y[:, columns], u[group], B[:, :, columns], codes_b, slots, scale)
        begin += width
    return y
