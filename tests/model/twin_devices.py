"""Two pretend devices, "twin:0" and "twin:1", whose tensors are held on the CPU and refuse to meet in one operation.

What one accelerator of torch does not let pass, these do not either: an operation on tensors of two devices is an error, and only
copies cross. Numbers are the CPU's. :func:`install` is for the rest of the process, so tests use a process of their own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

_library = torch.library.Library("aten", "IMPL")
CROSSING = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize", "to", "lift_fresh"}


class TwinTensor(torch.Tensor):
    """A tensor that says it lies on a twin device; its values are in ``held``."""

    held: Tensor

    @staticmethod
    def __new__(cls, value: Tensor, requires_grad: bool = False, device: Any = None) -> TwinTensor:
        if isinstance(value, TwinTensor):  # as nn.Parameter(value) is
            made: Any = value.detach().requires_grad_(requires_grad)
            made._is_param = True
            return made  # type: ignore[no-any-return]
        made = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            device=torch.device(device), requires_grad=requires_grad,
        )  # fmt: skip
        made.held = value
        return made  # type: ignore[no-any-return]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert a tensor on {self.device} to numpy")

    def __repr__(self, **kwargs: Any) -> str:
        return f"TwinTensor({self.held!r}, device={self.device})"


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.split("::")[1]
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    devices = {t.device for t in tensors if t.dim() or t.device.type != "cpu"}
    if len(devices) > 1 and name not in CROSSING:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {sorted(map(str, devices))}")
    target = next(iter(devices), torch.device("cpu"))
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
    elif args and isinstance(args[0], Tensor) and name != "_copy_from":
        target = args[0].device if args[0].dim() or len(devices) == 0 else target
    if target.type == "twin" and target.index is None:
        target = torch.device("twin", 0)
    inner = {**kwargs, **({"device": torch.device("cpu")} if kwargs.get("device") is not None else {})}
    unwrap = lambda value: value.held if isinstance(value, TwinTensor) else value  # noqa: E731
    with torch._C._AutoDispatchBelowAutograd():
        out = func(*tree_map(unwrap, args), **tree_map(unwrap, inner))
    given = {id(unwrap(t)): t for t in tensors}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, TwinTensor):
            return value
        if id(value) in given and any(
            a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments
        ):
            return given[id(value)]
        return TwinTensor(value, device=target) if target.type == "twin" else value

    return tree_map(wrap, out)


def _run_directly(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(func, args, kwargs)


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    held = [t.held if isinstance(t, TwinTensor) else t for t in (target, source)]
    held[0].copy_(held[1])
    return target


class _Mode(TorchDispatchMode):
    """Sees the operations that make tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "twin"
        if there or any(isinstance(value, TwinTensor) for value in tree_flatten((args, kwargs))[0]):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


class _Module(_DummyBackendModule):
    def device_count(self) -> int:
        return 2

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def install() -> None:
    """Add the devices to this process's torch."""
    _setup_privateuseone_for_python_backend("twin", _Module(), device_guard=_Guard())
    _library.impl("_copy_from", _copy, "PrivateUse1")
    for name in ("empty_strided", "empty.memory_format"):  # what torch.tensor calls below all modes
        packet, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, packet), overload or "default")
        _library.impl(name, functools.partial(_run_directly, func), "PrivateUse1")
    _Mode().__enter__()
