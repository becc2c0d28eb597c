"""The Triton backend of add_rmsnorm: the expand into h, then one program for each token.

A row's sum of squares needs all of its columns, an expand many programs for each row: so these are two launches. The
second one's layout, and with it the order of the sum, follows from d alone; it is not tuned.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import launch_plain, power_of_2, rounded, widened
from dpg_fast.kernels.ops.lora_expand_add.triton import expand

BLOCK = 4096  # columns at a time, at most


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    y: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    h: tl.tensor,
    out: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    d: tl.tensor,
    eps: tl.tensor,
    stride_y: tl.tensor,
    stride_r: tl.tensor,
    EXPANDED: tl.constexpr,
    OFFSET: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """h = residual + y, or + what the expand left in h for a token with a slot (EXPANDED); out = its norm."""
    dtype = h.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    of_y = d  # columns that come from y; a token without a slot reads nothing of h, which nobody has written
    if EXPANDED:
        slot = tl.load(slots + token)
        of_y = tl.where((slot >= 0) & (slot < rows), 0, d)
    squares = tl.zeros([BN], dtype=tl.float32)
    for start in range(0, d, BN):
        column = start + tl.arange(0, BN)
        inside = column < d
        value = tl.load(y + token * stride_y + column, mask=column < of_y, other=0.0)
        if EXPANDED:
            made = tl.load(h + token * d + column, mask=inside & (column >= of_y), other=0.0)
            value = tl.where(column < of_y, value, made)
        more = tl.load(residual + token * stride_r + column, mask=inside, other=0.0)
        total = rounded(widened(more) + widened(value), dtype)
        tl.store(h + token * d + column, total, mask=inside)
        squares += widened(total) * widened(total)
    scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(squares, axis=0) / d + eps))
    tl.debug_barrier()  # h is read again, perhaps by other threads
    for start in range(0, d, BN):
        column = start + tl.arange(0, BN)
        inside = column < d
        normed = widened(tl.load(h + token * d + column, mask=inside, other=0.0)) * scale
        factor = widened(tl.load(weight + column, mask=inside, other=0.0))
        normed = normed * (1.0 + factor) if OFFSET else widened(rounded(normed, dtype)) * factor
        tl.store(out + token * d + column, rounded(normed, dtype), mask=inside)


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
    """See `add_rmsnorm` for the arguments."""
    tokens, d = y.shape
    y, residual, weight = y.detach(), residual.detach(), weight.detach()
    h, out = (torch.empty(y.shape, dtype=y.dtype, device=y.device) for _ in range(2))
    if tokens == 0 or d == 0:
        return h, out
    expanded = u is not None and B is not None and 0 not in B.shape
    if expanded:
        assert u is not None and B is not None and codes is not None and slots is not None
        expand(h, u.detach(), B.detach()[None], codes.detach(), slots, scale, source=y)
    block = min(power_of_2(d), BLOCK)
    launch_plain(
        norm_kernel,
        (tokens,),
        y,
        y=y,
        residual=residual,
        weight=weight,
        h=h,
        out=out,
        slots=slots if expanded else None,
        rows=codes.shape[0] if expanded and codes is not None else 0,
        d=d,
        eps=float(eps),
        stride_y=y.stride(0),
        stride_r=residual.stride(0),
        EXPANDED=expanded,
        OFFSET=unit_offset,
        BN=block,
        num_warps=max(1, min(8, block // 512)),
    )
    return h, out
