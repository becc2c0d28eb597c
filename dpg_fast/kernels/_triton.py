"""The Triton backends, seen from outside: whether they can serve, and loading them. Does not import Triton.

Triton is optional and slow to import, so its kernels (`<op>/triton.py`) load at the first call that uses them, and are
compiled and tuned at the first call of a size: run each size once before capturing CUDA graphs.
On CPU tensors they run under Triton's interpreter, when asked for: TRITON_INTERPRET=1 before Triton is
imported, and the backend "triton" forced. That is for tests; automatic choice on the CPU stays with C++.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dpg_fast.kernels import dispatch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_RANK = 128


def _found() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


_INSTALLED = _found()  # once: torch.compile follows `serves_backward`, and torch 2.11 does not let it into importlib


def installed() -> bool:
    """Whether Triton can be imported (not whether it works)."""
    return _INSTALLED


def interpreting() -> bool:
    """Whether Triton's kernels run under its interpreter in this process, on CPU tensors."""
    if not installed():
        return False
    triton = sys.modules.get("triton")
    if triton is None:
        return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    # The choice is made when a kernel is defined; Triton's own library was defined when it was imported.
    return type(triton.language.cdiv).__name__ == "InterpretedFunction"


@cache
def _new_enough(index: int) -> bool:
    """Whether bfloat16 and tf32 products exist there; true where no GPU can be asked (fake tensors, ROCm)."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(index) >= (8, 0)


def verify(*tensors: torch.Tensor | None, rank: int = 1) -> tuple[bool, str]:
    """Whether the Triton kernels take these tensors, and why not; the first one sets device and dtype."""
    if not installed():
        return False, "Triton is not installed"
    first = next(t for t in tensors if t is not None)
    if first.device.type == "cuda":
        if interpreting():
            return False, "TRITON_INTERPRET is set: Triton runs under its interpreter, on CPU tensors"
        if not _new_enough(first.device.index or 0):
            return False, "needs compute capability 8.0 or newer"
    elif first.device.type != "cpu":
        return False, f"tensors are on {first.device.type} (the Triton kernels run on CUDA and ROCm GPUs)"
    elif not interpreting() or dispatch.forced_backend() != "triton":
        how = 'set TRITON_INTERPRET=1 before Triton is imported, and force the backend "triton"'
        return False, f"tensors are on cpu; {how}, to run the Triton kernels under their interpreter"
    if first.dtype not in DTYPES:
        return False, f"dtype {first.dtype} (the Triton kernels take float32, bfloat16 and float16)"
    if rank > MAX_RANK:
        return False, f"rank {rank} (the Triton kernels take ranks up to {MAX_RANK})"
    return True, ""


def serves_backward(t: torch.Tensor, rank: int = 1) -> bool:
    """Whether gradients of an op on `t` with this rank come from the Triton kernels: on GPUs, unless another way is forced."""
    forced = dispatch.forced_backend()
    if forced == "triton" or (forced in (None, "cuda") and t.device.type == "cuda"):
        return verify(t, rank=rank)[0]
    return False


def lazy(op: str, function: str = "run") -> Callable[..., Any]:
    """`dpg_fast.kernels.ops.<op>.triton.<function>`, imported when it is first called."""
    found: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal found
        if found is None:
            found = getattr(importlib.import_module(f"dpg_fast.kernels.ops.{op}.triton"), function)
        return found(*args)

    return call
