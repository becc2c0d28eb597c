"""The compiled CPU kernels: loading, instruction set, and whether they can serve given arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch  # first: the compiled module then shares the OpenMP runtime that torch has loaded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _load() -> tuple[ModuleType | None, str]:
    try:
        from dpg_fast import _C  # type: ignore[attr-defined,unused-ignore]
    except ImportError as error:
        return None, f"compiled module not found ({error})"
    if not _C.bind_torch(torch.Tensor, torch.nn.Parameter):
        return None, f"torch {torch.__version__} has no DLPack C exchange table of version 1"
    return _C, ""


#: The compiled module, or None with the reason.
C: Any
C, MISSING = _load()


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
    given = [t for t in tensors if t is not None]
    for t in given:
        if t.device.type != "cpu":
            return False, f"tensors are on {t.device.type}"
    if given and given[0].dtype not in DTYPES:
        return False, f"dtype {given[0].dtype} (CPU kernels take float32, bfloat16 and float16)"
    return True, ""


if C is not None and os.environ.get("DPG_FAST_ISA"):
    set_isa(os.environ["DPG_FAST_ISA"])
