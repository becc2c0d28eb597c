"""The Triton backend of lora_add: the shrink, and an expand that sums the shrink's partial results itself."""

from __future__ import annotations

from torch import Tensor

from dpg_fast.kernels._triton_jit import capturing
from dpg_fast.kernels.ops.lora_expand_add.triton import expand
from dpg_fast.kernels.ops.lora_shrink.triton import shrink_planes, sum_planes

#: Up to this many tokens, reading every partial result once per block of columns beats one more launch.
FEW_TOKENS = 16


def run(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> None:
    """See `lora_add` for the arguments."""
    u, _ = shrink_planes(x.detach(), A.detach(), codes_a.detach(), slots)
    assert u is not None
    if x.shape[0] > FEW_TOKENS and not capturing(x):  # a warm-up with few tokens has not loaded the kernel that sums
        u = sum_planes(u)[None]
    expand(y.detach(), u, B.detach()[None], codes_b.detach(), slots, scale, planes=u.shape[0])
