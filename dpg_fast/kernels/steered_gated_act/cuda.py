"""The CUDA backend: the elementwise part, without the ride-along expands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _cpu
from dpg_fast.kernels.types import ACTIVATIONS

_TYPE_ID = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def verify(gate: Tensor, up: Tensor, act: str, u_gate: Tensor | None, *rest: Any) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    if _cpu.C is None:
        return False, _cpu.MISSING
    if not _cpu.C.cuda_archs:
        return False, "built without CUDA kernels (no nvcc when it was built)"
    if gate.device.type != "cuda":
        return False, f"tensors are on {gate.device.type}"
    if torch.version.hip is not None:
        return False, "this torch runs on ROCm"
    if gate.dtype not in _TYPE_ID:
        return False, f"dtype {gate.dtype} (the CUDA kernel takes float32, bfloat16 and float16)"
    if u_gate is not None:
        return False, "ride-along LoRA expands are not available on CUDA in this version"
    if torch.cuda.get_device_capability(gate.device) < (8, 0):
        return False, "needs compute capability 8.0 or newer"
    return True, ""


def run(gate: Tensor, up: Tensor, act: str, *rest: Any) -> Tensor:
    """Launches on the current stream of gate's device; see `steered_gated_act` for the arguments."""
    clamp_mask, add, strengths, slots = rest[7:]
    tokens, width = gate.shape
    h = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    with torch.cuda.device(gate.device):
        _cpu.C.cuda_steered_gated_act(
            _TYPE_ID[gate.dtype],
            ACTIVATIONS.index(act),
            gate.data_ptr(),
            gate.stride(0),
            up.data_ptr(),
            up.stride(0),
            h.data_ptr(),
            width,
            tokens,
            width,
            0 if clamp_mask is None else clamp_mask.data_ptr(),
            0 if add is None else add.data_ptr(),
            0 if strengths is None else strengths.data_ptr(),
            0 if strengths is None else strengths.shape[0],
            0 if slots is None else slots.data_ptr(),
            torch.cuda.current_stream(gate.device).cuda_stream,
        )
    return h
