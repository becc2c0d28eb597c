"""The Triton backend of steered_gated_act, and the elementwise part of its gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels._triton_jit import (
    activation,
    activation_slope,
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

#: Candidates; those with 16 or 32 tokens also serve the expands, whose products need them.
GATED_CONFIGS = [
    config(4, 2, BT=16, BN=32),
    config(8, 2, BT=16, BN=128),
    config(8, 2, BT=32, BN=128),
    config(4, 2, BT=1, BN=1024),
    config(4, 2, BT=4, BN=512),
    config(8, 2, BT=8, BN=512),
]


def _fitting(configs: list[triton.Config], named: dict[str, Any], **rest: Any) -> list[triton.Config]:
    known = {**named, **rest}
    return fitting([c for c in configs if c.kwargs["BT"] >= 16], known) if known["LORA"] else configs


@triton.jit
def poles_of(strengths: tl.tensor, slot: tl.tensor, valid: tl.tensor) -> tl.tensor:
    """Bit p: pole p is active for the token."""
    poles = tl.zeros_like(slot)
    for p in range(0, 10):
        s = tl.load(strengths + slot * 10 + p, mask=valid, other=0.0)
        poles |= tl.where(s > 0.0, 1 << p, 0)
    return poles


@triton.jit
def is_clamped(clamp_mask: tl.tensor, poles: tl.tensor, columns: tl.tensor, width: tl.tensor) -> tl.tensor:
    """Whether an active pole of the token caps the neuron."""
    mask = tl.load(clamp_mask + columns, mask=columns < width, other=0).to(tl.int32)
    return (mask[None, :] & poles[:, None]) != 0


@triton.jit
def steered(
    v: tl.tensor,
    clamped: tl.tensor,
    poles: tl.tensor,
    add: tl.tensor,
    strengths: tl.tensor,
    slot: tl.tensor,
    valid: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """v capped at zero where clamped, plus strength * add of the active poles, in order."""
    total = tl.zeros_like(v)
    for p in range(0, 10):
        s = tl.load(strengths + slot * 10 + p, mask=valid, other=0.0)
        s = tl.where(s > 0.0, s, 0.0)
        if tl.max(s, axis=0) > 0.0:  # no token here has this pole: its values need not be read
            row = tl.load(add + p * width + columns, mask=columns < width, other=0.0)
            strength = tl.broadcast_to(s[:, None], v.shape)
            more = tl.fma(strength, tl.broadcast_to(row[None, :], v.shape), total)
            total = tl.where(strength > 0.0, more, total)
    capped = tl.where(clamped & (v > 0.0), 0.0, v)
    return tl.where((poles != 0)[:, None], capped + total, v)


@tuned(GATED_CONFIGS, key=["TOKENS", "width", "K", "R", "LORA", "STEER"], prune=_fitting)
@triton.jit(do_not_specialize=["T", "S", "steer_S", "TOKENS"])
def gated_kernel(
    gh: tl.tensor,
    gate: tl.tensor,
    up: tl.tensor,
    out: tl.tensor,
    out_up: tl.tensor,
    out_v: tl.tensor,
    u_gate: tl.tensor,
    B_gate: tl.tensor,
    u_up: tl.tensor,
    B_up: tl.tensor,
    codes: tl.tensor,
    slots: tl.tensor,
    clamp_mask: tl.tensor,
    add: tl.tensor,
    strengths: tl.tensor,
    steer_slots: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    steer_S: tl.tensor,
    width: tl.tensor,
    scale: tl.tensor,
    stride_gh: tl.tensor,
    stride_gate: tl.tensor,
    stride_up: tl.tensor,
    gate_k: tl.tensor,
    gate_j: tl.tensor,
    up_k: tl.tensor,
    up_j: tl.tensor,
    ACT: tl.constexpr,
    LORA: tl.constexpr,
    STEER: tl.constexpr,
    GRADIENT: tl.constexpr,
    WANT_V: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
    TOKENS: tl.tensor,
    BT: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """h into `out`; with GRADIENT those of gate and up into `out` and `out_up`, of steer(act) into `out_v`."""
    dtype = out.dtype.element_ty
    tokens = tl.program_id(0) * BT + tl.arange(0, BT)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (tokens < T)[:, None] & (columns < width)[None, :]
    rows = tokens.to(tl.int64)[:, None]
    g = widened(tl.load(gate + rows * stride_gate + columns[None, :], mask=inside, other=0.0))
    u = widened(tl.load(up + rows * stride_up + columns[None, :], mask=inside, other=0.0))
    if LORA:
        slot, valid = slots_of(slots, tokens, T, S)
        zero = tl.zeros([BT, BN], dtype=tl.float32)
        more = expanded(
            zero, u_gate, B_gate, codes, tokens, slot, valid, columns, width, scale, gate_k, gate_j, 0, 1, K, R, RANK
        )
        g = tl.where(valid[:, None], widened(rounded(g + more, dtype)), g)
        more = expanded(
            zero, u_up, B_up, codes, tokens, slot, valid, columns, width, scale, up_k, up_j, 0, 1, K, R, RANK
        )
        u = tl.where(valid[:, None], widened(rounded(u + more, dtype)), u)
    raw = widened(rounded(activation(g, ACT), dtype))
    v = raw
    if STEER:
        steer_slot, steer_valid = slots_of(steer_slots, tokens, T, steer_S)
        poles = poles_of(strengths, steer_slot, steer_valid)
        clamped = is_clamped(clamp_mask, poles, columns, width)
        v = steered(raw, clamped, poles, add, strengths, steer_slot, steer_valid, columns, width)
        v = widened(rounded(v, dtype))
    where = rows * width + columns[None, :]
    if GRADIENT:
        gradient = widened(tl.load(gh + rows * stride_gh + columns[None, :], mask=inside, other=0.0))
        of_v = gradient * u
        if WANT_V:
            tl.store(out_v + where, rounded(of_v, dtype), mask=inside)
        if STEER:
            of_v = tl.where(clamped & (raw > 0.0), 0.0, of_v)
        tl.store(out + where, rounded(of_v * activation_slope(g, ACT), dtype), mask=inside)
        tl.store(out_up + where, rounded(gradient * v, dtype), mask=inside)
    else:
        tl.store(out + where, rounded(v * u, dtype), mask=inside)


def _launch(
    gh: Tensor | None,
    out: Tensor,
    out_up: Tensor | None,
    out_v: Tensor | None,
    gate: Tensor,
    up: Tensor,
    act: str,
    lora: tuple[Tensor, ...] | None,
    scale: float,
    steering: tuple[Tensor, ...] | None,
) -> None:
    tokens, width = gate.shape
    if tokens == 0 or width == 0:
        return
    if lora is not None and 0 in lora[1].shape:
        lora = None  # a bank without entries adds nothing
    u_gate, B_gate, u_up, B_up, codes, slots = lora or (None,) * 6
    clamp_mask, add, strengths, steer_slots = steering or (None,) * 4
    K, r = (1, 1) if B_gate is None else B_gate.shape[:2]
    bucket = token_bucket(tokens)
    launch(
        gated_kernel,
        lambda meta: (triton.cdiv(tokens, meta["BT"]), triton.cdiv(width, meta["BN"])),
        gate,
        (bucket, width, K, r, lora is None, steering is None, gh is None, act, out_v is None),
        gh=gh,
        gate=gate,
        up=up,
        out=out,
        out_up=out_up,
        out_v=out_v,
        u_gate=u_gate,
        B_gate=B_gate,
        u_up=u_up,
        B_up=B_up,
        codes=codes,
        slots=slots,
        clamp_mask=clamp_mask,
        add=add,
        strengths=strengths,
        steer_slots=steer_slots,
        T=tokens,
        S=0 if codes is None else codes.shape[0],
        steer_S=0 if strengths is None else strengths.shape[0],
        width=width,
        scale=float(scale),
        stride_gh=0 if gh is None else gh.stride(0),
        stride_gate=gate.stride(0),
        stride_up=up.stride(0),
        gate_k=0 if B_gate is None else B_gate.stride(0),
        gate_j=0 if B_gate is None else B_gate.stride(1),
        up_k=0 if B_up is None else B_up.stride(0),
        up_j=0 if B_up is None else B_up.stride(1),
        ACT=act,
        LORA=lora is not None,
        STEER=steering is not None,
        GRADIENT=gh is not None,
        WANT_V=out_v is not None,
        K=K,
        R=r,
        RANK=rank_tile(r, gate.dtype),
        TOKENS=bucket,
    )


def _grouped(rest: tuple[Any, ...]) -> tuple[tuple[Tensor, ...] | None, float, tuple[Tensor, ...] | None]:
    """(lora, scale, steering) of the op's flat arguments after `act`."""
    plain = [t.detach() if isinstance(t, Tensor) else t for t in rest]
    return None if rest[0] is None else tuple(plain[:6]), rest[6], None if rest[7] is None else tuple(plain[7:11])


def run(gate: Tensor, up: Tensor, act: str, *rest: Any) -> Tensor:
    """See `steered_gated_act` for the arguments."""
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    _launch(None, h, None, None, gate.detach(), up.detach(), act, *_grouped(rest))
    return h


def run_grad(gh: Tensor, gate: Tensor, up: Tensor, act: str, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gate and up (each with its expand), and of steer(act) if wanted, else an empty tensor.

    gh, gate, up [T, I]; rest as for the op, then whether the last one is wanted. The intermediates are computed
    again; results in gate's dtype.
    """
    want_v = bool(rest[-1])
    shape = gate.shape
    kind: dict[str, Any] = {"dtype": gate.dtype, "device": gate.device}
    g_gate, g_up = torch.empty(shape, **kind), torch.empty(shape, **kind)
    g_v = torch.empty(shape if want_v else (0, shape[1]), **kind)
    gh = gh if gh.stride(-1) == 1 or gh.shape[-1] <= 1 else gh.contiguous()
    _launch(gh, g_gate, g_up, g_v if want_v else None, gate, up, act, *_grouped(rest))
    return g_gate, g_up, g_v
