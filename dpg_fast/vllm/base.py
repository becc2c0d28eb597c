"""The base model as transformers names it, over the weights that vLLM has loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["named_as_transformers", "parts_of"]


def named_as_transformers(model: nn.Module, hf_config: Any) -> nn.Module:
    """A transformers model without memory of its own: its parameters are views of ``model``'s, or stay on the meta device.

    What vLLM has merged (q, k and v; gate and up) is cut; what a quantised layer keeps in another form stays on meta.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        made: nn.Module = AutoModelForCausalLM.from_config(hf_config)
    own = dict(model.named_parameters())
    for name, parameter in list(made.named_parameters()):
        found = _find(name, tuple(parameter.shape), made, own, model)
        if found is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(made.get_submodule(parent), leaf, nn.Parameter(found, requires_grad=False))
    return made


def parts_of(model: nn.Module, path: str) -> list[str]:
    """Paths in the transformers model of the linears that the layer ``path`` of vLLM's holds, in its order."""
    parent, _, name = path.rpartition(".")
    packed = getattr(model, "packed_modules_mapping", {}) or {}
    return [f"{parent}.{part}" for part in packed.get(name, [name])]


def _find(
    name: str, shape: tuple[int, ...], made: nn.Module, own: dict[str, nn.Parameter], model: nn.Module
) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    direct = own.get(name)
    if direct is not None:
        unpadded = direct.data[: shape[0]]  # embeddings are padded
        return unpadded if tuple(unpadded.shape) == shape else None
    for merged in _merged(model, path):
        whole = own.get(f"{merged}.{leaf}")
        if whole is None:
            continue
        begin = 0
        for part in parts_of(model, merged):
            rows = made.get_parameter(f"{part}.{leaf}").shape[0]
            if part == path:
                cut = whole.data[begin : begin + rows]
                return cut if tuple(cut.shape) == shape else None
            begin += rows
    return None


def _merged(model: nn.Module, path: str) -> Iterator[str]:
    parent, _, name = path.rpartition(".")
    for merged, parts in (getattr(model, "packed_modules_mapping", {}) or {}).items():
        if name in parts:
            yield f"{parent}.{merged}"
