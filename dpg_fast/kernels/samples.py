"""Small valid arguments of each op, in the form the backends receive them."""

from __future__ import annotations

from typing import Any

import torch


def sample_arguments(op: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    """Zero tensors: 2 tokens, 2 slots, K = 2, rank 2, width 8."""

    def zeros(*shape: int, dt: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dt, device=device)

    side = torch.float64 if dtype == torch.float64 else torch.float32
    x, bank, codes = zeros(2, 8), zeros(2, 2, 8), zeros(2, 2, dt=side)
    u, slots = zeros(2, 2, dt=side), zeros(2, dt=torch.int32)
    if op == "lora_shrink":
        return x, bank, codes, slots
    if op == "lora_expand_add":
        return x, u, bank, codes, slots, 1.0
    if op == "lora_add":
        return x, x.clone(), bank, bank, codes, codes, slots, 1.0
    if op == "lora_combine":
        return zeros(2, 4), codes, slots, 1
    if op == "lora_stacked_add":
        return x, zeros(2, 4), bank, codes, codes, slots, [8], 1.0
    if op == "activation_stats":
        edges = torch.tensor([0.0, 1.0], device=device)
        return x, "silu", slots, edges, zeros(2, 8, dt=torch.int64), zeros(2, 8, 3, dt=torch.int64)
    if op == "add_rmsnorm":
        return x, x.clone(), zeros(8), 1e-6, False, u, bank, codes, slots, 1.0
    steering = (zeros(8, dt=torch.int16), zeros(10, 8, dt=side), zeros(2, 10, dt=side), slots)
    return x, x.clone(), "silu", None, None, None, None, None, None, 1.0, *steering
