"""The CUDA backend of steered_gated_act."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda
from dpg_fast.kernels.types import ACTIVATIONS


def verify(gate: Tensor, up: Tensor, act: str, u_gate: Any, B_gate: Tensor | None, *rest: Any) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(gate, bank=None if B_gate is None else (B_gate.shape[0], B_gate.shape[1]))


def run(
    gate: Tensor,
    up: Tensor,
    act: str,
    u_gate: Tensor | None,
    B_gate: Tensor | None,
    u_up: Tensor | None,
    B_up: Tensor | None,
    codes: Tensor | None,
    slots: Tensor | None,
    scale: float,
    clamp_mask: Tensor | None,
    add: Tensor | None,
    strengths: Tensor | None,
    steer_slots: Tensor | None,
) -> Tensor:
    """Launches on the current stream of gate's device; see `steered_gated_act` for the arguments."""
    tokens, width = gate.shape
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    address = _cuda.address
    lora: tuple[int | float, ...] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0)
    if u_gate is not None:
        assert B_gate is not None and u_up is not None and B_up is not None and codes is not None
        lora = (
            *(u_gate.data_ptr(), B_gate.data_ptr(), _cuda.row_stride(B_gate)),
            *(u_up.data_ptr(), B_up.data_ptr(), _cuda.row_stride(B_up)),
            *(codes.data_ptr(), codes.shape[0], address(slots), scale, B_gate.shape[0], B_gate.shape[1]),
        )
    _cuda.launch(
        "steered_gated_act",
        gate.device,
        _cuda.TYPE_ID[gate.dtype],
        ACTIVATIONS.index(act),
        gate.data_ptr(),
        gate.stride(0),
        up.data_ptr(),
        up.stride(0),
        h.data_ptr(),
        width,
        tokens,
        width,
        *lora,
        address(clamp_mask),
        address(add),
        address(strengths),
        0 if strengths is None else strengths.shape[0],
        address(steer_slots),
    )
    return h
