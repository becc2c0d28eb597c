"""The CUDA backend of activation_stats."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import _cuda
from dpg_fast.kernels.types import ACTIVATIONS


def verify(
    gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor
) -> tuple[bool, str]:
    """Whether the CUDA kernel takes these arguments, and why not."""
    return _cuda.verify(gate)


def run(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    """Launches on the current stream of gate's device; see `activation_stats` for the arguments."""
    _cuda.launch(
        "activation_stats",
        gate.device,
        _cuda.TYPE_ID[gate.dtype],
        ACTIVATIONS.index(act),
        gate.data_ptr(),
        gate.stride(0),
        slots.data_ptr(),
        edges.data_ptr(),
        histogram.shape[2],
        positive.data_ptr(),
        histogram.data_ptr(),
        int(histogram.dtype == torch.int64),
        positive.shape[0],
        *gate.shape,
    )
