"""Everything that unloading has to give back: classes, attributes and tensors of a model's modules."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.compat.accelerate import weight_value


def snapshot(base: nn.Module) -> dict[str, Any]:
    """Every module's class and attributes, and every tensor's identity, layout and bits."""
    found: dict[str, Any] = {}
    for name, module in base.named_modules(remove_duplicate=False):
        found[f"module {name}"] = (type(module), id(module), frozenset(module.__dict__), module.__dict__.get("forward"))
    tensors = (*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        identity, value = id(tensor), tensor
        if tensor.is_meta and isinstance(tensor, nn.Parameter):  # offloaded: another object after every forward
            identity, value = 0, weight_value(base, name)
        found[name] = (
            *(identity, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device, tensor.requires_grad),
            _bits(value),
        )
    return found


def _bits(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    if tensor.device.type == "meta":
        return 0
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    value = 0
    for part in flat.split(1 << 26):
        value = zlib.crc32(part.cpu().numpy(), value)
    return value


def left_behind(base: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in base.named_modules():
        left = [key for key in module.__dict__ if key.startswith("dpg_")]
        if type(module).__module__.startswith("dpg_fast."):
            left.append(type(module).__name__)
        if hasattr(module.__dict__.get("forward"), "dpg_root"):
            left.append("forward")
        yield from ((name or type(module).__name__, what) for what in left)
