"""The Triton backend of lora_shrink, and the same pass over a bank for gradients.

Rows of the bank are the long side of each product, tokens the short one: [bank rows, d] @ [d, tokens]. So the
kind of matrix instruction follows from the bank alone. d is cut into pieces that are summed in a fixed order
by a second kernel (no atomics); how many depends on d, K and r only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import (
    config,
    fitting,
    launch,
    launch_plain,
    power_of_2,
    product,
    slots_of,
    token_bucket,
    tuned,
)

ROWS = 128  # bank rows per product, at most
PIECES = 16  # of d, at most
PLANES = 32  # partial results, at most


class ShrinkCut(NamedTuple):
    """How a bank [K, r, d] is cut up; the same for any number of tokens."""

    RANK: int  # r, padded
    KB: int  # bank entries per product
    BD: int  # values of d per product
    PIECE: int  # values of d per program
    pieces: int
    GROUP: int  # products' worth of bank entries per program
    groups: int

    @property
    def planes(self) -> int:
        """Partial results for each token."""
        return self.pieces * self.groups


def plan(d: int, K: int, r: int, dtype: torch.dtype) -> ShrinkCut:
    """The order of all sums over d and k."""
    rank = power_of_2(r)
    kb = max(16 // rank, min(power_of_2(K), max(ROWS // rank, 1)), 1)
    bd = 32 if dtype == torch.float32 else 64
    piece = max(triton.cdiv(triton.cdiv(d, PIECES), bd), triton.cdiv(256, bd)) * bd
    pieces = max(triton.cdiv(d, piece), 1)
    products = max(triton.cdiv(K, kb), 1)
    group = triton.cdiv(products, max(PLANES // pieces, 1))
    return ShrinkCut(rank, kb, bd, piece, pieces, group, triton.cdiv(products, group))


#: Candidates: with 4 warps or more, all use the same matrix instruction for the same bank. At most 32 tokens: with 64,
#: registers spill.
SHRINK_CONFIGS = [
    config(4, 3, BT=16),
    config(8, 3, BT=16),
    config(4, 3, BT=32),
    config(8, 2, BT=32),
]


@tuned(SHRINK_CONFIGS, key=["TOKENS", "d", "K", "R"], prune=fitting)
@triton.jit(do_not_specialize=["T", "S", "TOKENS"])
def shrink_kernel(
    x: tl.tensor,
    A: tl.tensor,
    codes: tl.tensor,
    slots: tl.tensor,
    w: tl.tensor,
    u: tl.tensor,
    per_entry: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    d: tl.tensor,
    stride_x: tl.tensor,
    stride_g: tl.tensor,
    stride_k: tl.tensor,
    stride_j: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
    KB: tl.constexpr,
    BD: tl.constexpr,
    PIECE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    COMBINE: tl.constexpr,
    WEIGH: tl.constexpr,
    TOKENS: tl.tensor,
    BT: tl.constexpr,
) -> None:
    """One plane of u[g, t, j] = sum_k codes[slot, k] p[k, j] (COMBINE) and of per_entry[t, k] = sum_j w[t, j] p[k, j]
    (WEIGH), where p = A @ x[t] over one piece of d and one group of bank entries."""
    g = tl.program_id(2)
    plane = tl.program_id(1)
    piece = plane // GROUPS
    group = plane % GROUPS
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    slot, valid = slots_of(slots, tokens, T, S)
    x_rows = x + tokens.to(tl.int64)[None, :] * stride_x
    row = tl.arange(0, KB * RANK)
    j = tl.arange(0, RANK)
    entry = tl.arange(0, KB)
    first, last = piece * PIECE, tl.minimum(piece * PIECE + PIECE, d)
    total = tl.zeros([RANK, BT], dtype=tl.float32)
    if WEIGH:
        in_w = (j < R)[:, None] & valid[None, :]
        weights = tl.load(w + tokens.to(tl.int64)[None, :] * R + j[:, None], mask=in_w, other=0.0)
    for tile in range(group * GROUP, tl.minimum(group * GROUP + GROUP, (K + KB - 1) // KB)):
        k_row = tile * KB + row // RANK
        in_bank = (k_row < K) & (row % RANK < R)
        A_rows = A + g.to(tl.int64) * stride_g + k_row * stride_k + (row % RANK) * stride_j
        acc = tl.zeros([KB * RANK, BT], dtype=tl.float32)
        for start in range(first, last, BD):
            column = start + tl.arange(0, BD)
            inside = column < last
            a = tl.load(A_rows[:, None] + column[None, :], mask=in_bank[:, None] & inside[None, :], other=0.0)
            values = tl.load(x_rows + column[:, None], mask=inside[:, None] & (tokens < T)[None, :], other=0.0)
            acc = product(a, values, acc)
        split = tl.reshape(acc, [KB, RANK, BT])
        k = tile * KB + entry
        in_codes = (k < K)[:, None] & valid[None, :]
        if WEIGH:
            sums = tl.sum(split * weights[None, :, :], axis=1)
            where = (piece.to(tl.int64) * T + tokens)[None, :] * K + k[:, None]
            sums = tl.where(valid[None, :], sums, 0.0)
            tl.store(per_entry + where, sums, mask=(k < K)[:, None] & (tokens < T)[None, :])
        if COMBINE:
            code = tl.load(codes + slot[None, :] * K + k[:, None], mask=in_codes, other=0.0)
            split = split * code[:, None, :]
            part = tl.zeros([RANK, BT], dtype=tl.float32)
            for i in tl.static_range(KB):  # picks one entry at a time: their order is fixed, whatever the layout
                part += tl.sum(tl.where((entry == i)[:, None, None], split, 0.0), axis=0)
                if i % 8 == 7 or i == KB - 1:  # long chains of additions lose digits
                    total += part
                    part = tl.zeros([RANK, BT], dtype=tl.float32)
    if COMBINE:
        where = ((plane.to(tl.int64) * tl.num_programs(2) + g) * T + tokens)[None, :] * R + j[:, None]
        total = tl.where(valid[None, :], total, 0.0)
        tl.store(u + where, total, mask=(j < R)[:, None] & (tokens < T)[None, :])


@triton.jit(do_not_specialize=["size"])
def sum_planes_kernel(
    planes: tl.tensor, out: tl.tensor, size: tl.tensor, PLANES: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """out = sum of PLANES arrays of `size` float32, in order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.load(planes + i, mask=inside, other=0.0)
    for p in range(1, PLANES):
        total += tl.load(planes + tl.cast(size, tl.int64) * p + i, mask=inside, other=0.0)
    tl.store(out + i, total, mask=inside)


def sum_planes(planes: Tensor) -> Tensor:
    """[P, ...] -> [...], summed in order."""
    if planes.shape[0] == 1:
        return planes[0]
    out = torch.empty(planes.shape[1:], dtype=planes.dtype, device=planes.device)
    size = out.numel()
    if size:
        grid = (triton.cdiv(size, 256),)
        launch_plain(
            sum_planes_kernel, grid, planes, planes=planes, out=out, size=size, PLANES=planes.shape[0], BLOCK=256
        )
    return out


def shrink_planes(
    x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, w: Tensor | None = None, *, combine: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Partial sums: u [P, G, T, r] (`combine`), and with w [T, r] (G = 1) per_entry [P, T, K]."""
    banks = A if A.dim() == 4 else A[None]
    G, K, r, d = banks.shape
    tokens, cut = x.shape[0], plan(d, K, r, x.dtype)
    f32: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    u = torch.empty((cut.planes, G, tokens, r), **f32) if combine else None
    per_entry = None if w is None else torch.empty((cut.pieces, tokens, K), **f32)
    if tokens == 0 or r == 0 or K == 0 or G == 0:
        for t in (u, per_entry):
            if t is not None:
                t.zero_()
        return u, per_entry
    bucket = token_bucket(tokens)
    launch(
        shrink_kernel,
        lambda meta: (triton.cdiv(tokens, meta["BT"]), cut.planes, G),
        x,
        (bucket, d, K, r, combine, w is None),
        x=x,
        A=banks,
        codes=codes,
        slots=slots,
        w=w,
        u=u,
        per_entry=per_entry,
        T=tokens,
        S=codes.shape[0],
        d=d,
        stride_x=x.stride(0),
        stride_g=banks.stride(0),
        stride_k=banks.stride(1),
        stride_j=banks.stride(2),
        K=K,
        R=r,
        RANK=cut.RANK,
        KB=cut.KB,
        BD=cut.BD,
        PIECE=cut.PIECE,
        GROUP=cut.GROUP,
        GROUPS=cut.groups,
        COMBINE=combine,
        WEIGH=w is not None,
        TOKENS=bucket,
    )
    return u, per_entry


def run(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    """See `lora_shrink` for the arguments; A may have any strides but the last."""
    planes, _ = shrink_planes(x.detach(), A.detach(), codes.detach(), slots)
    assert planes is not None
    u = sum_planes(planes)
    return u if A.dim() == 4 else u[0]


def run_grad(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor, w: Tensor, combine: bool) -> tuple[Tensor, Tensor]:
    """(u, per_entry): lora_shrink (or an empty tensor), and per_entry[t, k] = w[t] . (A[k] @ x[t]), 0 for slot -1.

    x [T, d], A [K, r, d], codes [S, K], slots [T], w float32 [T, r] -> float32 [T, r], [T, K].
    """
    planes, entries = shrink_planes(x, A, codes, slots, w, combine=combine)
    assert entries is not None
    u = torch.empty((0, A.shape[1]), dtype=torch.float32, device=x.device) if planes is None else sum_planes(planes)[0]
    return u, sum_planes(entries)


@triton.jit(do_not_specialize=["T"])
def slot_sums_kernel(
    per_token: tl.tensor,
    slots: tl.tensor,
    out: tl.tensor,
    T: tl.tensor,
    K: tl.constexpr,
    BK: tl.constexpr,
    BT: tl.constexpr,
) -> None:
    """Row s of out: sum of the rows of per_token [T, K] whose slot is s."""
    s = tl.program_id(0)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    total = tl.zeros([BK], dtype=tl.float32)
    for start in range(0, T, BT):
        tokens = start + tl.arange(0, BT)
        mine = tl.load(slots + tokens, mask=tokens < T, other=-1) == s
        where = tokens.to(tl.int64)[:, None] * K + k[None, :]
        total += tl.sum(tl.load(per_token + where, mask=mine[:, None] & (k < K)[None, :], other=0.0), axis=0)
    tl.store(out + s.to(tl.int64) * K + k, total, mask=k < K)


def slot_sums(per_token: Tensor, slots: Tensor, rows: int) -> Tensor:
    """[S, K] float32 from [T, K]: no atomics, so the same bits every time."""
    tokens, K = per_token.shape
    out = torch.empty((rows, K), dtype=torch.float32, device=per_token.device)
    if rows and K:
        bk = min(power_of_2(K), 16)
        grid = (rows, triton.cdiv(K, bk))
        launch_plain(
            slot_sums_kernel,
            grid,
            out,
            per_token=per_token.contiguous(),
            slots=slots,
            out=out,
            T=tokens,
            K=K,
            BK=bk,
            BT=128,
        )
    return out
