"""The compiled CUDA kernels: whether they can serve given arguments, and launching them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dpg_fast.kernels import _cpu

#: Dtypes of the activations, as the kernels number them.
TYPE_ID = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

#: Bank entries that a shrink can combine.
MAX_ENTRIES = 64


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def verify(first: Tensor, entries: int = 0, bank: tuple[int, int] | None = None) -> tuple[bool, str]:
    """Whether the CUDA kernels take tensors like `first`, and why not; entries: K of a shrink, bank: K and r of any bank."""
    if _cpu.C is None:
        return False, _cpu.MISSING
    if not _cpu.C.cuda_archs:
        return False, "built without CUDA kernels (no nvcc, or DPG_FAST_CUDA=OFF, when it was built)"
    if first.device.type != "cuda":
        return False, f"tensors are on {first.device.type}"
    if torch.version.hip is not None:
        return False, "this torch runs on ROCm"
    if first.dtype not in TYPE_ID:
        return False, f"dtype {first.dtype} (CUDA kernels take float32, bfloat16 and float16)"
    if bank is not None and 0 in bank:
        return False, "an empty bank"
    if entries > MAX_ENTRIES:
        return False, f"a bank of {entries} entries (the CUDA shrink takes up to {MAX_ENTRIES})"
    if _capability(first.device.index) < (8, 0):
        return False, "needs compute capability 8.0 or newer"
    return True, ""


def address(t: Tensor | None) -> int:
    """Where t starts in device memory; 0 for no tensor."""
    return 0 if t is None else t.data_ptr()


def row_stride(bank: Tensor) -> int:
    """Elements between neighbouring rows (k, j) of a bank [K, r, d]."""
    return bank.stride(1) if bank.shape[1] > 1 else bank.stride(0)


def launch(name: str, device: torch.device, *args: int | float) -> None:
    """Launches a kernel of csrc/include/dpg/cuda_api.h on the current stream of the device.

    Raises:
        RuntimeError: CUDA refused the launch.
    """
    function = getattr(_cpu.C, "cuda_" + name)
    index = device.index
    if index == torch.cuda.current_device():
        function(*args, torch._C._cuda_getCurrentRawStream(index))
        return
    with torch.cuda.device(index):
        function(*args, torch._C._cuda_getCurrentRawStream(index))
