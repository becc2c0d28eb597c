"""The Triton backend of lora_combine."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import launch_plain, power_of_2, slots_of, widened


@triton.jit
def combined(
    S: tl.tensor,
    codes: tl.tensor,
    slot: tl.tensor,
    valid: tl.tensor,
    rows: tl.tensor,
    g: tl.tensor,
    first: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    """u[t, j] = sum_k codes[slot, k] S[t, (g K + k) R + j] for RANK values of j from `first` on: [BT, RANK] float32.

    Summed in the order of k; rows: offsets in S.
    """
    j = first + tl.arange(0, RANK)
    inside = valid[:, None] & (j < R)[None, :]
    u = tl.zeros([slot.shape[0], RANK], dtype=tl.float32)
    for start in range(0, K, 8):  # sums of eight, summed: long chains of additions lose digits
        part = tl.zeros([slot.shape[0], RANK], dtype=tl.float32)
        for k in range(start, tl.minimum(start + 8, K)):
            code = tl.load(codes + slot * K + k, mask=valid, other=0.0)
            product = tl.load(S + rows[:, None] + (g * K + k) * R + j[None, :], mask=inside, other=0.0)
            part += widened(product) * code[:, None]
        u += part
    return u


@triton.jit(do_not_specialize=["T", "rows"])
def combine_kernel(
    S: tl.tensor,
    codes: tl.tensor,
    slots: tl.tensor,
    u: tl.tensor,
    T: tl.tensor,
    rows: tl.tensor,
    stride: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
    BT: tl.constexpr,
) -> None:
    """u[g, t] for a block of tokens of one group."""
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    g = tl.program_id(1)
    slot, valid = slots_of(slots, tokens, T, rows)
    values = combined(S, codes, slot, valid, tokens.to(tl.int64) * stride, g, 0, K, R, RANK)
    j = tl.arange(0, RANK)
    where = (g.to(tl.int64) * T + tokens)[:, None] * R + j[None, :]
    tl.store(u + where, values, mask=(tokens < T)[:, None] & (j < R)[None, :])


def run(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
    """See `lora_combine` for the arguments."""
    tokens, K = S.shape[0], codes.shape[1]
    rank = S.shape[1] // max(groups * K, 1)
    u = torch.empty((groups, tokens, rank), dtype=torch.float32, device=S.device)
    if tokens and rank:
        launch_plain(
            combine_kernel,
            (triton.cdiv(tokens, 16), groups),
            S,
            S=S.detach(),
            codes=codes.detach(),
            slots=slots,
            u=u,
            T=tokens,
            rows=codes.shape[0],
            stride=S.stride(0),
            K=K,
            R=rank,
            RANK=power_of_2(rank),
            BT=16,
        )
    return u
