"""Gradients of steered_gated_act, recomputed from its inputs. Roundings count as the identity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _cpu, _triton, dispatch
from dpg_fast.kernels._checks import side_dtype
from dpg_fast.kernels._grad import expand_backward, into_slots
from dpg_fast.kernels._library import library
from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.ops.steered_gated_act.reference import activation, clamped_reference, steer_reference
from dpg_fast.kernels.types import ACTIVATIONS, POLES, Steering

_TOKENS = 256  # widened to float32, or steering's own gradient kept, at a time


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
    strengths, slots). `needs`: which are wanted; the others may be None. The elementwise part is one pass in the dtype
    of gate, the rest products.
    """
    want_v = steering is not None and (needs[7] or needs[8])
    g_add = g_strengths = None
    if want_v and steering is not None and gate.device.type == "cpu":
        g_gate, g_up, g_add, g_strengths = _in_pieces(gh, gate, up, act, lora, scale, steering)
    else:
        flat = (*(lora or (None,) * 6), scale, *(steering or (None,) * 4))
        g_gate, g_up, g_v = torch.ops.dpg_fast.steered_gated_act_grad(gh, gate, up, act, *flat, want_v)
        if want_v and steering is not None:
            g_add, g_strengths = _steering_gradients(g_v, *steering[1:])
    grads: list[Tensor | None] = [None] * 5
    if lora is not None:
        u_gate, B_gate, u_up, B_up, codes, slots = lora
        *of_gate, codes_gate = expand_backward(
            g_gate, u_gate, B_gate, codes, slots, scale, (needs[2], needs[3], needs[6])
        )
        *of_up, codes_up = expand_backward(g_up, u_up, B_up, codes, slots, scale, (needs[4], needs[5], needs[6]))
        grads = [*of_gate, *of_up, None if codes_gate is None or codes_up is None else codes_gate + codes_up]
    return (g_gate, g_up, *grads, g_add, g_strengths)


def _in_pieces(
    gh: Tensor,
    gate: Tensor,
    up: Tensor,
    act: str,
    lora: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] | None,
    scale: float,
    steering: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (gate, up, add, strengths), with that of the steered values for _TOKENS tokens at a time."""
    g_gate, g_up = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    mask, add, strengths, steer_slots = steering
    g_add, g_strengths = torch.zeros_like(add), torch.zeros_like(strengths)
    for begin in range(0, gate.shape[0], _TOKENS):
        piece = slice(begin, begin + _TOKENS)
        flat: tuple[Any, ...] = (None,) * 6
        if lora is not None:
            u_gate, B_gate, u_up, B_up, codes, slots = lora
            flat = (u_gate[piece], B_gate, u_up[piece], B_up, codes, slots[piece])
        flat = (*flat, scale, mask, add, strengths, steer_slots[piece])
        g_gate[piece], g_up[piece], g_v = torch.ops.dpg_fast.steered_gated_act_grad(
            gh[piece], gate[piece], up[piece], act, *flat, True
        )
        more_add, more_strengths = _steering_gradients(g_v, add, strengths, steer_slots[piece])
        g_add += more_add
        g_strengths += more_strengths
    return g_gate, g_up, g_add, g_strengths


_grad_triton = _triton.lazy("steered_gated_act", "run_grad")


def _grad_cpu(gh: Tensor, gate: Tensor, up: Tensor, act: str, *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """None: the compiled gradient does not take these."""
    kind: dict[str, Any] = {"dtype": gate.dtype, "device": gate.device}
    g_gate, g_up = torch.empty(gate.shape, **kind), torch.empty(gate.shape, **kind)
    g_v = torch.empty(gate.shape, **kind) if rest[-1] else None
    lora, steering = (rest[:7] if rest[0] is not None else None), (rest[7:11] if rest[7] is not None else None)
    gh = gh if gh.shape[-1] <= 1 or gh.stride(-1) == 1 else gh.contiguous()
    act_id = ACTIVATIONS.index(act)
    if not _cpu.call("steered_gated_act_grad", g_gate, g_up, g_v, gh, gate, up, act_id, lora, steering):
        return None
    return g_gate, g_up, torch.empty((0, gate.shape[1]), **kind) if g_v is None else g_v


def _grad_reference(gh: Tensor, gate: Tensor, up: Tensor, act: str, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """In plain PyTorch, _TOKENS tokens at a time in float32 (or float64)."""
    kind: dict[str, Any] = {"dtype": gate.dtype, "device": gate.device}
    g_gate, g_up = torch.empty(gate.shape, **kind), torch.empty(gate.shape, **kind)
    g_v = torch.empty(gate.shape if rest[-1] else (0, gate.shape[1]), **kind)
    acc = side_dtype(gate.dtype)
    u_gate, B_gate, u_up, B_up, codes, slots, scale, clamp_mask, add, strengths, steer_slots, want_v = rest
    for begin in range(0, gate.shape[0], _TOKENS):
        piece = slice(begin, begin + _TOKENS)
        g, u = gate[piece], up[piece]
        if u_gate is not None:
            g = lora_expanded_reference(g, u_gate[piece], B_gate, codes, slots[piece], scale)
            u = lora_expanded_reference(u, u_up[piece], B_up, codes, slots[piece], scale)
        g, gradient = g.to(acc), gh[piece].to(acc)
        v, of_v = activation(g, act).to(gate.dtype).to(acc), gradient * u.to(acc)
        if want_v:
            g_v[piece] = of_v
        if clamp_mask is not None:
            steering = Steering(clamp_mask, add, strengths, steer_slots[piece])
            of_v = of_v.masked_fill(clamped_reference(steering, v.dtype) & (v > 0), 0.0)
            v = steer_reference(v, steering).to(gate.dtype)
        g_gate[piece] = of_v * activation_slope(g, act)
        g_up[piece] = gradient * v
    return g_gate, g_up, g_v


library.define(
    "steered_gated_act_grad(Tensor gh, Tensor gate, Tensor up, str act, Tensor? u_gate, Tensor? B_gate, Tensor? u_up, "
    "Tensor? B_up, Tensor? codes, Tensor? slots, float scale, Tensor? clamp_mask, Tensor? add, Tensor? strengths, "
    "Tensor? steer_slots, bool want_v) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl(library, "steered_gated_act_grad", "CompositeExplicitAutograd")
def _grad(gh: Tensor, gate: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gate and up (each with its expand), and of steer(act) if wanted, else an empty tensor."""
    if _triton.serves_backward(gate):
        return _grad_triton(gh, gate, *rest)  # type: ignore[no-any-return]
    if dispatch.forced_backend() != "reference" and _cpu.verify(gate)[0]:
        grads = _grad_cpu(gh, gate, *rest)
        if grads is not None:
            return grads
    return _grad_reference(gh, gate, *rest)


@torch.library.register_fake("dpg_fast::steered_gated_act_grad", lib=library)
def _fake_grad(gh: Tensor, gate: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = gate.shape
    kind: dict[str, Any] = {"dtype": gate.dtype, "device": gate.device}
    g_v = torch.empty(shape if rest[-1] else (0, shape[1]), **kind)
    return torch.empty(shape, **kind), torch.empty(shape, **kind), g_v


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
