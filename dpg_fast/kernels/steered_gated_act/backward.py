"""Gradients of steered_gated_act, recomputed from its inputs. Roundings count as the identity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpg_fast.kernels._grad import expand_backward, into_slots
from dpg_fast.kernels.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.steered_gated_act.reference import activation
from dpg_fast.kernels.types import POLES


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
) -> tuple[Tensor | None, ...]:
    """Gradients of (gate, up, u_gate, B_gate, u_up, B_up, codes, add, strengths).

    gh, gate, up [T, I]; lora (u_gate, B_gate, u_up, B_up, codes, slots); steering (clamp_mask, add,
    strengths, slots).
    """
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
