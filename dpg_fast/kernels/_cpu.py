"""The compiled module: loading it; the instruction set of its CPU kernels, and whether they can serve given arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch  # first: the compiled module then shares the OpenMP runtime that torch has loaded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _load() -> tuple[ModuleType | None, str, str]:
    try:
        from dpg_fast import _C  # type: ignore[attr-defined,unused-ignore]
    except ImportError as error:
        return None, f"compiled module not found ({error})", ""
    try:
        _C.serve(True, True)
        unreadable = _C.bind_torch(torch.Tensor, torch.nn.Parameter, torch.is_inference_mode_enabled, _samples())
    except (TypeError, AttributeError):
        return None, "compiled module is of another version than the package: install it again", ""
    return _C, "", f"torch {torch.__version__} {unreadable}" if unreadable else ""


def _samples() -> list[tuple[torch.Tensor, int, int, int, int, int]]:
    """Tensors that differ in every field that the compiled module reads, with the values; see csrc/view.h."""
    owner = bytearray(4 * 53)  # memory that torch does not own has an address and an owner apart
    with torch.inference_mode(False), torch.device("cpu"):  # whatever mode the package is imported in
        tensors = [torch.zeros(37), torch._neg_view(torch.zeros(101)), torch.frombuffer(owner, dtype=torch.float32)]
    samples = []
    for t in tensors:
        memory = t.untyped_storage()
        keys = torch._C._dispatch_keys(t).raw_repr()
        samples.append((t, t._cdata, keys, memory._cdata, memory.data_ptr(), memory.nbytes()))
    return samples


#: The compiled module, or None with the reason; and why it cannot read torch's tensors by itself, which the CPU kernels and
#: direct calls of the CUDA kernels need.
C: Any
C, MISSING, UNREADABLE = _load()


def isas() -> list[str]:
    """Instruction sets that are compiled in and run on this machine, weakest first."""
    return list(C.supported_isas()) if C is not None else []


def set_isa(name: str) -> None:
    """Chooses the instruction set of the CPU kernels for the whole process.

    Raises:
        RuntimeError: the compiled module is missing, or does not have `name` for this machine.
    """
    if C is None:
        raise RuntimeError(f"no CPU kernels: {MISSING}")
    if not C.set_isa(name):
        raise RuntimeError(f"instruction set {name!r} is not available here; available: {', '.join(isas())}")


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """`set_isa` for the length of a with block."""
    before = C.current_isa() if C is not None else ""
    set_isa(name)
    try:
        yield
    finally:
        C.set_isa(before)


def verify(*tensors: torch.Tensor | None) -> tuple[bool, str]:
    """Whether the CPU kernels take these tensors; the first one sets the dtype."""
    if C is None:
        return False, MISSING
    if UNREADABLE:
        return False, UNREADABLE
    given = [t for t in tensors if t is not None]
    for t in given:
        if t.device.type != "cpu":
            return False, f"tensors are on {t.device.type}"
    if given and given[0].dtype not in DTYPES:
        return False, f"dtype {given[0].dtype} (CPU kernels take float32, bfloat16 and float16)"
    return True, ""


def call(op: str, *args: Any) -> bool:
    """Calls a compiled op. False: it does not take these arguments, and has touched nothing."""
    return bool(getattr(C, op)(*map(_plain, args)))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach() if type(value) is torch.Tensor else value.detach().as_subclass(torch.Tensor)
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


if C is not None and os.environ.get("DPG_FAST_ISA"):
    set_isa(os.environ["DPG_FAST_ISA"])
