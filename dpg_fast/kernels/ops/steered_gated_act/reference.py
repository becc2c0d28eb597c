"""The definition of steered_gated_act, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expanded_reference
from dpg_fast.kernels.types import POLES, GatedLora, Steering


def activation(x: Tensor, act: str) -> Tensor:
    """silu, gelu (erf) or gelu_tanh of x; identity for values that are activations already."""
    if act == "identity":
        return x
    if act == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if act == "gelu_tanh" else "none")


def _active(steering: Steering, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[T, 10]: each token's strengths, and which of them are positive."""
    of_token = steering.strengths.to(dtype)[steering.slots.clamp(min=0).long()]
    return of_token, (of_token > 0) & (steering.slots >= 0)[:, None]


def clamped_reference(steering: Steering, dtype: torch.dtype) -> Tensor:
    """bool [T, I]: whether an active pole of the token caps the neuron."""
    poles = torch.arange(POLES, device=steering.clamp_mask.device, dtype=torch.int32)
    bits = (steering.clamp_mask[None, :].int() >> poles[:, None]) & 1
    return (_active(steering, dtype)[1].to(dtype) @ bits.to(dtype)) > 0


def steer_reference(v: Tensor, steering: Steering) -> Tensor:
    """Clamp, then add. v [T, I] holds values of some dtype in float32 (or float64).

    The result is not rounded.
    """
    of_token, active = _active(steering, v.dtype)
    capped = torch.where(clamped_reference(steering, v.dtype), v.clamp(max=0), v)
    added = torch.where(active, of_token, torch.zeros_like(of_token)) @ steering.add.to(v.dtype)
    return torch.where(active.any(1)[:, None], capped + added, v)


def steered_gated_act_reference(
    gate: Tensor,
    up: Tensor,
    act: str | Callable[[Tensor], Tensor],
    *,
    lora: GatedLora | None = None,
    steering: Steering | None = None,
) -> Tensor:
    """gate, up [T, I] -> h [T, I]; ``act`` may be a function of [T, I] in the dtype of gate, too.

    Every intermediate is rounded to the dtype of gate, as separate torch ops would.
    """
    dtype = gate.dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    if lora is not None:
        u_gate, u_up = (lora.u_gate[0], lora.u_gate[1]) if lora.u_up is None else (lora.u_gate, lora.u_up)
        gate = lora_expanded_reference(gate, u_gate, lora.B_gate, lora.codes, lora.slots, lora.scale)
        up = lora_expanded_reference(up, u_up, lora.B_up, lora.codes, lora.slots, lora.scale)
    v = (activation(gate.to(acc), act) if isinstance(act, str) else act(gate)).to(dtype)
    if steering is not None:
        v = steer_reference(v.to(acc), steering).to(dtype)
    return (v.to(acc) * up.to(acc)).to(dtype)
