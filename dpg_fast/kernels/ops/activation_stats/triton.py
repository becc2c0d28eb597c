"""The Triton backend of activation_stats: one program per block of tokens and neurons, integer atomics."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import activation, launch_plain, rounded, slots_of, widened


@triton.jit(do_not_specialize=["T", "S"])
def stats_kernel(
    gate: tl.tensor,
    slots: tl.tensor,
    edges: tl.tensor,
    positive: tl.tensor,
    histogram: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    width: tl.tensor,
    stride: tl.tensor,
    ACT: tl.constexpr,
    EDGES: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """Adds the counts of a block of tokens to the rows of their slots; integer sums do not depend on the order."""
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    slot, valid = slots_of(slots, tokens, T, S)
    inside = valid[:, None] & (columns < width)[None, :]
    x = tl.load(gate + tokens.to(tl.int64)[:, None] * stride + columns[None, :], mask=inside, other=0.0)
    v = widened(rounded(activation(widened(x), ACT), gate.dtype.element_ty))
    counted = inside & (v == v)
    # Edges below v: guessed from the spacing, then corrected against the edges themselves.
    low, high = tl.load(edges), tl.load(edges + EDGES - 1)
    per_bin = (EDGES - 1) / tl.maximum(high - low, 1e-30)
    guess = tl.ceil((v - low) * per_bin)
    place = tl.where(guess > 0.0, tl.where(guess < EDGES, guess, EDGES), 0.0).to(tl.int32)
    for _ in tl.static_range(2):
        edge = tl.load(edges + tl.minimum(place, EDGES - 1), mask=counted, other=0.0)
        place += tl.where((place < EDGES) & (edge < v), 1, 0)
    for _ in tl.static_range(2):
        edge = tl.load(edges + tl.maximum(place - 1, 0), mask=counted, other=0.0)
        place -= tl.where((place > 0) & (edge >= v), 1, 0)
    cell = slot.to(tl.int64)[:, None] * width + columns[None, :]
    one = tl.full([BT, BN], 1, dtype=tl.int64)
    tl.atomic_add(positive + cell, one, mask=counted & (v > 0.0), sem="relaxed")
    where = histogram + cell * (EDGES + 1) + place
    tl.atomic_add(where, one.to(histogram.dtype.element_ty), mask=counted, sem="relaxed")


def run(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    """See `activation_stats` for the arguments."""
    tokens, width = gate.shape
    if tokens == 0 or width == 0:
        return
    launch_plain(
        stats_kernel,
        (triton.cdiv(tokens, 4), triton.cdiv(width, 128)),
        gate,
        gate=gate.detach(),
        slots=slots,
        edges=edges,
        positive=positive,
        histogram=histogram,
        T=tokens,
        S=positive.shape[0],
        width=width,
        stride=gate.stride(0),
        ACT=act,
        EDGES=edges.shape[0],
        BT=4,
        BN=128,
    )
