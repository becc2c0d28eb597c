"""Names inside torch: hooks, children and weights of modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as _module


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called before or after the module's forward or in its backward pass."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def all_modules_hooked() -> bool:
    """Whether a hook was registered that is called for every module there is."""
    return bool(
        _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    )


def children_of(module: nn.Module) -> dict[str, Any]:
    """Attribute -> child module, as the module holds them now."""
    return module._modules


class Held(NamedTuple):
    """A linear layer whose weights lie in somebody's buffer, and what has to stay so for the buffer to be used for it.

    Attributes:
        layer: with its weight and bias there.
        weight, bias: where they lie (see `where`).
        holder: the module that calls the layer, where it must be a plain one of the holder's; else None.
    """

    layer: nn.Module
    weight: tuple[Any, ...]
    bias: tuple[Any, ...]
    holder: nn.Module | None


def where(tensor: Tensor | None) -> tuple[Any, ...]:
    """What is another when a tensor was moved, cast or replaced; empty for None."""
    return () if tensor is None else (tensor.data_ptr(), tensor.dtype, tensor.device)


def still_held(layers: Iterable[Held]) -> bool:
    """Whether nothing was attached to the layers, and their weights lie where they were put.

    It runs before every call of a model, for all its layers: no function is called for each.
    """
    for layer, weight, bias, holder in layers:
        if (
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or layer._backward_pre_hooks
            or "parametrizations" in layer._modules
        ):
            return False
        w, b = layer._parameters.get("weight"), layer._parameters.get("bias")
        if w is None or (w.data_ptr(), w.dtype, w.device) != weight:
            return False
        if (() if b is None else (b.data_ptr(), b.dtype, b.device)) != bias:
            return False
        if holder is not None:
            plain = type(layer) is nn.Linear and "forward" not in layer.__dict__
            if not plain or layer not in holder._modules.values():
                return False
    return True


class Placed(NamedTuple):
    """A module, the class and the ``forward`` of its own (or None) that it had, and its parent and name there."""

    module: nn.Module
    cls: type
    forward: Any
    parent: nn.Module
    name: str


def unmoved(modules: Iterable[Placed]) -> bool:
    """Whether each module is what it was, where it was; like `still_held` it runs before every call."""
    for module, cls, forward, parent, name in modules:
        if type(module) is not cls or module.__dict__.get("forward") is not forward:
            return False
        if parent._modules.get(name) is not module:
            return False
    return True
