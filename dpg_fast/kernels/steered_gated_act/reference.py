"""The definition of steered_gated_act, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpg_fast.kernels.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.types import POLES, GatedLora, Steering


def activation(x: Tensor, act: str) -> Tensor:
    """silu, gelu (erf) or gelu_tanh of x."""
    if act == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if act == "gelu_tanh" else "none")


def steer_reference(v: Tensor, steering: Steering) -> Tensor:
    """Clamp, then add. v [T, I] holds values of some dtype in float32 (or float64).

    The result is not rounded.
    """
    clamp_mask, add, strengths, slots = steering
    of_token = strengths.to(v.dtype)[slots.clamp(min=0).long()]  # [T, 10]
    active = (of_token > 0) & (slots >= 0)[:, None]
    bits = (clamp_mask[None, :].int() >> torch.arange(POLES, device=v.device, dtype=torch.int32)[:, None]) & 1
    clamped = (active.to(v.dtype) @ bits.to(v.dtype)) > 0  # [T, I]
    capped = torch.where(clamped, v.clamp(max=0), v)
    added = torch.where(active, of_token, torch.zeros_like(of_token)) @ add.to(v.dtype)
    return torch.where(active.any(1)[:, None], capped + added, v)


def steered_gated_act_reference(
    gate: Tensor, up: Tensor, act: str, *, lora: GatedLora | None = None, steering: Steering | None = None
) -> Tensor:
    """gate, up [T, I] -> h [T, I].

    Every intermediate is rounded to the dtype of gate, as separate torch ops would.
    """
    dtype = gate.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    if lora is not None:
        u_gate, u_up = (lora.u_gate[0], lora.u_gate[1]) if lora.u_up is None else (lora.u_gate, lora.u_up)
        gate = lora_expanded_reference(gate, u_gate, lora.B_gate, lora.codes, lora.slots, lora.scale)
        up = lora_expanded_reference(up, u_up, lora.B_up, lora.codes, lora.slots, lora.scale)
    v = activation(gate.to(acc), act).to(dtype)
    if steering is not None:
        v = steer_reference(v.to(acc), steering).to(dtype)
    return (v.to(acc) * up.to(acc)).to(dtype)
