"""Names of accelerate: the hooks by which it puts a model on several devices, or keeps its weights elsewhere until they are used.

A hooked module has a ``forward`` of its own, which moves inputs and weights to the module's device and calls what was there
before. Importing this module does not import accelerate.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.compat.transformers_models import input_embedding

HOOK = "_hf_hook"
"""Attribute of a hooked module: its hook."""

INNER = "_old_forward"
"""Attribute of a hooked module: the forward that its hook surrounds."""

DEVICE_MAP = "hf_device_map"
"""Attribute of a model that was put on its devices by a map."""

_HOOKS_MODULE = "accelerate.hooks"


def innermost(module: nn.Module) -> str:
    """Name of the instance attribute that stands for what the module itself computes.

    ``"forward"``, which need not be there (a call then reaches the class's), or :data:`INNER` where ``forward`` is
    accelerate's. Anything else that somebody has put over accelerate's hook is ``"forward"``.
    """
    forward = module.__dict__.get("forward")
    ours = (
        isinstance(forward, functools.partial)
        and getattr(forward.func, "__module__", None) == _HOOKS_MODULE
        and forward.args == (module,)
    )
    return INNER if ours and INNER in module.__dict__ else "forward"


def runs_class_forward(module: nn.Module) -> bool:
    """Whether a call of the module comes to the forward of its class, hooks apart."""
    forward = module.__dict__.get(innermost(module))
    if forward is None:
        return True
    mine = isinstance(forward, MethodType) and forward.__self__ is module
    return mine and forward.__func__ is type(module).forward


def hooks_of(module: nn.Module) -> Iterator[Any]:
    """The hooks of one module, those in a sequence one by one."""
    waiting = [module.__dict__[HOOK]] if HOOK in module.__dict__ else []
    while waiting:
        hook = waiting.pop(0)
        inside = getattr(hook, "hooks", None)
        if inside is None:
            yield hook
        else:
            waiting[:0] = inside


def placed_by(model: nn.Module) -> tuple[Any, Any]:
    """What is another when accelerate has put the model elsewhere: its own hook and its map."""
    return model.__dict__.get(HOOK), model.__dict__.get(DEVICE_MAP)


def execution_device(model: nn.Module, name: str) -> torch.device:
    """Where the submodule ``name`` of ``model`` runs: where its weights lie, or to where a hook brings them.

    The meta device for weights that no hook brings.
    """
    module = model.get_submodule(name)
    weight = next(itertools.chain(module.parameters(), module.buffers(), model.parameters()))
    chain = list(_chain(model, name))
    for hook in chain:
        if type(hook).__name__ == "CpuOffload":  # moves the whole model when it is called
            return _device(hook.execution_device)
    return _runs_on(weight, chain)


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its input ids: where its embedding runs, or, without a known one, where its first weight lies."""
    embedding = input_embedding(model)
    name = next((name for name, module in model.named_modules() if module is embedding), None)
    return next(model.parameters()).device if name is None else execution_device(model, name)


def runs_on(*modules: nn.Module) -> torch.device:
    """Where modules that lie in each other run, by the weights of the first or else by their hooks, its own first."""
    weight = next(itertools.chain(modules[0].parameters(), modules[0].buffers()), None)
    return _runs_on(weight, [hook for module in modules for hook in hooks_of(module)])


def brings_weights(module: nn.Module) -> bool:
    """Whether a hook of this module may replace its weights, or do more than move inputs to where the weights stay."""
    return any(type(hook).__name__ != "AlignDevicesHook" or hook.offload for hook in hooks_of(module))


def weight_value(model: nn.Module, name: str) -> Tensor:
    """The parameter ``name`` of ``model``, read from where its hook keeps it when it is offloaded.

    A parameter on the meta device that no hook keeps is returned as it is.
    """
    parameter = model.get_parameter(name)
    if parameter.device.type != "meta":
        return parameter
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        for hook in hooks_of(model.get_submodule(".".join(parts[:depth]))):
            weights = getattr(hook, "weights_map", None)
            if weights is None:
                continue
            try:
                value: Tensor = weights[".".join(parts[depth:])]  # may read a file
            except KeyError:
                continue
            return value
    return parameter


def _runs_on(weight: Tensor | None, hooks: list[Any]) -> torch.device:
    if weight is not None and weight.device.type != "meta":
        return weight.device
    wanted = (getattr(hook, "execution_device", None) for hook in hooks)
    return next((_device(device) for device in wanted if device is not None), torch.device("meta"))


def _chain(model: nn.Module, name: str) -> Iterator[Any]:
    """The hooks of a submodule and of those around it, from the inside out."""
    parts = name.split(".") if name else []
    for depth in range(len(parts), -1, -1):
        yield from hooks_of(model.get_submodule(".".join(parts[:depth])))


def _device(device: Any) -> torch.device:
    """With an index, as tensors have it."""
    if isinstance(device, int):
        try:
            return torch.device(device)
        except RuntimeError:  # without an accelerator torch does not say what a number means
            return torch.device("cuda", device)
    device = torch.device(device)
    if device.index is None and device.type not in ("cpu", "meta"):
        index = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
        return torch.device(device.type, index)
    return device
