"""The Triton backend of lora_expand_add. One product per bank entry: coefficients [tokens, r] @ B[k] [r, columns]."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import (
    config,
    expanded,
    fitting,
    launch,
    rank_tile,
    rounded,
    slots_of,
    token_bucket,
    tuned,
    widened,
)

#: Candidates. At most 32 tokens: from 64 on, newer GPUs would use another matrix instruction. Eight warps for 128
#: columns: with four, the assembler prefers some spilled registers to fewer blocks at a time.
EXPAND_CONFIGS = [
    config(4, 3, BT=16, BN=64),
    config(8, 2, BT=16, BN=128),
    config(8, 2, BT=32, BN=128),
    config(8, 2, BT=32, BN=256),
]


@tuned(EXPAND_CONFIGS, key=["TOKENS", "d", "K", "R", "PLANES"], restore=["y"], prune=fitting)
@triton.jit(do_not_specialize=["T", "S", "TOKENS", "PLANES", "plane"])
def expand_kernel(
    y: tl.tensor,
    source: tl.tensor,
    u: tl.tensor,
    B: tl.tensor,
    codes: tl.tensor,
    slots: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    d: tl.tensor,
    scale: tl.tensor,
    stride_y: tl.tensor,
    stride_source: tl.tensor,
    stride_g: tl.tensor,
    stride_k: tl.tensor,
    stride_j: tl.tensor,
    plane: tl.tensor,
    G: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
    ADD: tl.constexpr,
    TOKENS: tl.tensor,
    PLANES: tl.tensor,
    BT: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """y = source + delta for valid tokens (ADD), or y = delta, 0 for the others; delta summed over G banks."""
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    slot, valid = slots_of(slots, tokens, T, S)
    acc = tl.zeros([BT, BN], dtype=tl.float32)
    for g in range(0, G):
        bank, inner = B + tl.cast(g, tl.int64) * stride_g, u + tl.cast(g, tl.int64) * T * R
        acc = expanded(
            acc, inner, bank, codes, tokens, slot, valid, columns, d, scale, stride_k, stride_j, plane,
            PLANES, K, R, RANK,
        )  # fmt: skip
    where = y + tokens.to(tl.int64)[:, None] * stride_y + columns[None, :]
    if ADD:
        inside = valid[:, None] & (columns < d)[None, :]
        from_where = source + tokens.to(tl.int64)[:, None] * stride_source + columns[None, :]
        acc += widened(tl.load(from_where, mask=inside, other=0.0))
    else:
        inside = (tokens < T)[:, None] & (columns < d)[None, :]
        acc = tl.where(valid[:, None], acc, 0.0)
    tl.store(where, rounded(acc, y.dtype.element_ty), mask=inside)


def expand(
    y: Tensor,
    u: Tensor,
    B: Tensor,
    codes: Tensor,
    slots: Tensor,
    scale: float,
    *,
    planes: int = 1,
    add: bool = True,
    source: Tensor | None = None,
) -> None:
    """The kernel on y [T, d], u [planes, G, T, r], B [G, K, r, d] (any strides but the last).

    source [T, d]: what the delta is added to, None for y itself.
    """
    source = y if source is None else source
    tokens, d = y.shape
    G, K, r, _ = B.shape
    if tokens == 0 or d == 0 or r == 0 or K == 0 or G == 0:
        if not add:
            y.zero_()
        return
    bucket = token_bucket(tokens)
    launch(
        expand_kernel,
        lambda meta: (triton.cdiv(tokens, meta["BT"]), triton.cdiv(d, meta["BN"])),
        y,
        (bucket, d, K, r, planes, add, G),
        y=y,
        source=source,
        u=u,
        B=B,
        codes=codes,
        slots=slots,
        T=tokens,
        S=codes.shape[0],
        d=d,
        scale=float(scale),
        stride_y=y.stride(0),
        stride_source=source.stride(0),
        stride_g=B.stride(0),
        stride_k=B.stride(1),
        stride_j=B.stride(2),
        plane=G * tokens * r,
        G=G,
        K=K,
        R=r,
        RANK=rank_tile(r, y.dtype),
        PLANES=planes,
        ADD=add,
        TOKENS=bucket,
    )


def run(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> None:
    """See `lora_expand_add` for the arguments."""
    expand(y.detach(), u.detach(), B.detach()[None], codes.detach(), slots, scale)


def delta(u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
    """[T, d] in B's dtype: the expand alone. u [G, T, r], B [G, K, r, d]: summed over G; 0 for slot -1."""
    out = torch.empty((slots.shape[0], B.shape[-1]), dtype=B.dtype, device=B.device)
    expand(out, u, B, codes, slots, scale, add=False)
    return out
