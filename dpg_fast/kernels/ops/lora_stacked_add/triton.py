"""The Triton backend of lora_stacked_add: combine and expand of up to four linears in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import (
    expanded_from,
    fitting,
    launch,
    rank_tile,
    rounded,
    slots_of,
    token_bucket,
    tuned,
    widened,
)
from dpg_fast.kernels.ops.lora_combine.triton import combined
from dpg_fast.kernels.ops.lora_expand_add.triton import EXPAND_CONFIGS

GROUPS = 4  # in one launch


@tuned(EXPAND_CONFIGS, key=["TOKENS", "end_0", "end_3", "K", "R"], restore=["y"], prune=fitting)
@triton.jit(do_not_specialize=["T", "rows", "TOKENS"])
def stacked_kernel(
    y: tl.tensor,
    S: tl.tensor,
    B: tl.tensor,
    codes_a: tl.tensor,
    codes_b: tl.tensor,
    slots: tl.tensor,
    T: tl.tensor,
    rows: tl.tensor,
    scale: tl.tensor,
    end_0: tl.tensor,
    end_1: tl.tensor,
    end_2: tl.tensor,
    end_3: tl.tensor,
    stride_y: tl.tensor,
    stride_s: tl.tensor,
    stride_k: tl.tensor,
    stride_j: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
    TOKENS: tl.tensor,
    BT: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """y += expand of each group on its columns, which end at end_0 <= end_1 <= end_2 <= end_3."""
    block = tl.program_id(1)
    first, end, g = block * BN, end_0, 0  # blocks are numbered through the groups; each group starts a new one
    taken = (end_0 + BN - 1) // BN
    if block >= taken:
        first, end, g = end_0 + (block - taken) * BN, end_1, 1
    taken += (end_1 - end_0 + BN - 1) // BN
    if block >= taken:
        first, end, g = end_1 + (block - taken) * BN, end_2, 2
    taken += (end_2 - end_1 + BN - 1) // BN
    if block >= taken:
        first, end, g = end_2 + (block - taken) * BN, end_3, 3
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    columns = first + tl.arange(0, BN)
    slot, valid = slots_of(slots, tokens, T, rows)
    acc = tl.zeros([BT, BN], dtype=tl.float32)
    for rank in range(0, R, RANK):
        u = combined(S, codes_a, slot, valid, tokens.to(tl.int64) * stride_s, g, rank, K, R, RANK)
        acc = expanded_from(acc, u, B, codes_b, slot, valid, columns, end, scale, stride_k, stride_j, rank, K, R, RANK)
    where = y + tokens.to(tl.int64)[:, None] * stride_y + columns[None, :]
    inside = valid[:, None] & (columns < end)[None, :]
    acc += widened(tl.load(where, mask=inside, other=0.0))
    tl.store(where, rounded(acc, y.dtype.element_ty), mask=inside)


def run(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: list[int],
    scale: float,
) -> None:
    """See `lora_stacked_add` for the arguments."""
    tokens, (K, r, _) = y.shape[0], B.shape
    y, S, B, codes_a, codes_b = (t.detach() for t in (y, S, B, codes_a, codes_b))
    if tokens == 0 or K == 0 or r == 0:
        return
    bucket, begin = token_bucket(tokens), 0
    for group in range(0, len(widths), GROUPS):
        some = widths[group : group + GROUPS]
        ends = [sum(some[: i + 1]) for i in range(GROUPS)]
        columns = slice(begin, begin + ends[-1])
        begin += ends[-1]
        if ends[-1] == 0:
            continue

        def grid(meta: dict[str, int], some: list[int] = some) -> tuple[int, int]:
            return triton.cdiv(tokens, meta["BT"]), sum(triton.cdiv(w, meta["BN"]) for w in some)

        launch(
            stacked_kernel,
            grid,
            y,
            (bucket, ends[0], ends[3], K, r),
            y=y[:, columns],
            S=S[:, group * K * r :],
            B=B[:, :, columns],
            codes_a=codes_a,
            codes_b=codes_b,
            slots=slots,
            T=tokens,
            rows=codes_a.shape[0],
            scale=float(scale),
            end_0=ends[0],
            end_1=ends[1],
            end_2=ends[2],
            end_3=ends[3],
            stride_y=y.stride(0),
            stride_s=S.stride(0),
            stride_k=B.stride(0),
            stride_j=B.stride(1),
            K=K,
            R=r,
            RANK=rank_tile(r, y.dtype),
            TOKENS=bucket,
        )
