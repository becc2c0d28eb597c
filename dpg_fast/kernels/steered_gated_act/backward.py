"""Gradients of steered_gated_act, recomputed from its inputs. Roundings count as the identity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _triton
from dpg_fast.kernels._grad import expand_backward, into_slots
from dpg_fast.kernels._library import library
from dpg_fast.kernels.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.steered_gated_act.reference import activation
from dpg_fast.kernels.types import POLES

_TOKENS = 1024  # widened to float32 at a time


def activation_slope(x: Tensor, act: str) -> Tensor:
    """Derivative of the activation at x."""
    if act == "silu":
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))
    if act == "gelu":
        return 0.5 * (1 + torch.erf(x * math.sqrt(0.5))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    c, a = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(c * (x + a * x * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * a * x * x)


def gated_backward(
    gh: Tensor,
    gate: Tensor,
    up: Tensor,
    act: str,
    lora: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] | None,
    scale: float,
    steering: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    needs: tuple[bool, ...] = (True,) * 9,
) -> tuple[Tensor | None, ...]:
    """Gradients of (gate, up, u_gate, B_gate, u_up, B_up, codes, add, strengths).

    gh, gate, up [T, I]; lora (u_gate, B_gate, u_up, B_up, codes, slots); steering (clamp_mask, add,
    strengths, slots). `needs`: which are wanted; the others may be None.
    """
    if _triton.serves_backward(gate):
        return _backward_triton(gh, gate, up, act, lora, scale, steering, needs)
    dtype = gate.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    g, u = gate, up
    if lora is not None:
        u_gate, B_gate, u_up, B_up, codes, slots = lora
        g = lora_expanded_reference(gate, u_gate, B_gate, codes, slots, scale)
        u = lora_expanded_reference(up, u_up, B_up, codes, slots, scale)
    g, u, gh = g.to(acc), u.to(acc), gh.to(acc)
    raw = activation(g, act).to(dtype).to(acc)
    v, passed = raw, None
    g_add = g_strengths = None
    gv = gh * u
    if steering is not None:
        clamp_mask, add, strengths, steer_slots = steering
        of_token = strengths.to(acc)[steer_slots.clamp(min=0).long()]
        active = (of_token > 0) & (steer_slots >= 0)[:, None]
        weights = torch.where(active, of_token, torch.zeros_like(of_token))
        bits = (clamp_mask[None, :].int() >> torch.arange(POLES, device=g.device, dtype=torch.int32)[:, None]) & 1
        clamped = (active.to(acc) @ bits.to(acc)) > 0
        passed = ~(clamped & (raw > 0))
        v = torch.where(passed, raw, torch.zeros_like(raw)) + weights @ add.to(acc)
        v = v.to(dtype).to(acc)
        g_add = (weights.t() @ gv).to(add.dtype)
        per_token = torch.where(active, gv @ add.to(acc).t(), torch.zeros_like(of_token))
        g_strengths = into_slots(per_token, steer_slots, strengths.shape[0]).to(strengths.dtype)
    g_up = gh * v
    g_raw = gv if passed is None else torch.where(passed, gv, torch.zeros_like(gv))
    g_gate = g_raw * activation_slope(g, act)
    grads: tuple[Tensor | None, ...] = (None,) * 5
    if lora is not None:
        every = (True, True, True)
        gu_gate, gB_gate, gc_gate = expand_backward(g_gate, u_gate, B_gate, codes, slots, scale, every)
        gu_up, gB_up, gc_up = expand_backward(g_up, u_up, B_up, codes, slots, scale, every)
        assert gc_gate is not None and gc_up is not None  # every gradient was asked for
        grads = (gu_gate, gB_gate, gu_up, gB_up, gc_gate + gc_up)
    return (g_gate.to(dtype), g_up.to(dtype), *grads, g_add, g_strengths)


_run_grad = _triton.lazy("steered_gated_act", "run_grad")

library.define(
    "steered_gated_act_grad(Tensor gh, Tensor gate, Tensor up, str act, Tensor? u_gate, Tensor? B_gate, Tensor? u_up, "
    "Tensor? B_up, Tensor? codes, Tensor? slots, float scale, Tensor? clamp_mask, Tensor? add, Tensor? strengths, "
    "Tensor? steer_slots, bool want_v) -> (Tensor, Tensor, Tensor)"
)
library.impl("steered_gated_act_grad", lambda *args: _run_grad(*args), "CompositeExplicitAutograd")


@torch.library.register_fake("dpg_fast::steered_gated_act_grad", lib=library)
def _fake_grad(gh: Tensor, gate: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = gate.shape
    kind: dict[str, Any] = {"dtype": gate.dtype, "device": gate.device}
    g_v = torch.empty(shape if rest[-1] else (0, shape[1]), **kind)
    return torch.empty(shape, **kind), torch.empty(shape, **kind), g_v


def _backward_triton(
    gh: Tensor,
    gate: Tensor,
    up: Tensor,
    act: str,
    lora: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] | None,
    scale: float,
    steering: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The elementwise part in one kernel, in the dtype of gate; the rest as products."""
    want_v = steering is not None and (needs[7] or needs[8])
    flat = (*(lora or (None,) * 6), scale, *(steering or (None,) * 4))
    g_gate, g_up, g_v = torch.ops.dpg_fast.steered_gated_act_grad(gh, gate, up, act, *flat, want_v)
    grads: list[Tensor | None] = [None] * 5
    if lora is not None:
        u_gate, B_gate, u_up, B_up, codes, slots = lora
        *of_gate, codes_gate = expand_backward(
            g_gate, u_gate, B_gate, codes, slots, scale, (needs[2], needs[3], needs[6])
        )
        *of_up, codes_up = expand_backward(g_up, u_up, B_up, codes, slots, scale, (needs[4], needs[5], needs[6]))
        grads = [*of_gate, *of_up, None if codes_gate is None or codes_up is None else codes_gate + codes_up]
    g_add = g_strengths = None
    if steering is not None and want_v:
        g_add, g_strengths = _steering_gradients(g_v, *steering[1:])
    return (g_gate, g_up, *grads, g_add, g_strengths)


def _steering_gradients(g_v: Tensor, add: Tensor, strengths: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (add, strengths) from that of the steered values [T, I], some tokens at a time."""
    rows, tokens = strengths.shape[0], slots.shape[0]
    g_add, per_token = torch.zeros_like(add), []
    for begin in range(0, tokens, _TOKENS):
        slot, g = slots[begin : begin + _TOKENS], g_v[begin : begin + _TOKENS].to(add.dtype)
        of_token = strengths[slot.clamp(0, rows - 1).long()]
        active = (of_token > 0) & ((slot >= 0) & (slot < rows))[:, None]
        g_add += torch.where(active, of_token, 0.0).t() @ g
        per_token.append(torch.where(active, g @ add.t(), 0.0))
    joined = torch.cat(per_token) if per_token else add.new_zeros(0, POLES)
    return g_add, into_slots(joined, slots, rows)
