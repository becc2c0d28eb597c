"""The accelerator backends that can run here, and arguments on their device.

On a machine with a GPU that is "triton" and, where built, "cuda" on CUDA tensors; elsewhere "triton" under Triton's
interpreter on CPU tensors (tests/__init__.py), and, where a GPU run is rehearsed, "cuda" under the emulator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch

from dpg_fast.kernels import explain, use_backend
from tests.kernels.emulated_cuda import serve_everywhere

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

needs_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")

T = TypeVar("T")


def accelerators() -> list[str]:
    """Backends other than cpu and reference that serve at least one op on this machine."""
    found = []
    for name in ("cuda", "triton"):
        with use_backend(name):
            if any(row.ok for row in explain(DEVICE) if row.backend == name):
                found.append(name)
    return found


if not GPU and os.environ.get("DPG_FAST_GPU_REHEARSAL") == "1":
    serve_everywhere()

ACCELERATORS = accelerators()


@contextmanager
def forced(backend: str) -> Iterator[None]:
    """`use_backend`; a refusal of the arguments skips the test, with the backend's reason."""
    with use_backend(backend):
        try:
            yield
        except RuntimeError as error:
            if f"backend {backend!r} was requested but cannot serve" not in str(error):
                raise
            pytest.skip(str(error))


def on_device(value: T, device: str = DEVICE) -> T:
    """The same structure (tensors, tuples, named tuples, dataclasses with tensors) with tensors on the device."""
    v: Any = value
    if isinstance(v, torch.Tensor):
        if v.storage_offset() or not v.is_contiguous():  # keeps views into wider tensors what they are
            whole = torch.empty(0, dtype=v.dtype).set_(v.untyped_storage()).to(device)
            return whole.as_strided(v.shape, v.stride(), v.storage_offset())  # type: ignore[return-value]
        return v.to(device)  # type: ignore[return-value]
    if isinstance(v, tuple):
        parts = [on_device(part, device) for part in v]
        return type(v)(*parts) if hasattr(v, "_fields") else tuple(parts)  # type: ignore[return-value]
    if hasattr(v, "__dataclass_fields__"):
        return type(v)(**{name: on_device(part, device) for name, part in vars(v).items()})
    return value
