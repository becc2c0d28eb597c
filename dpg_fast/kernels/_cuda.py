"""The compiled CUDA kernels: whether they can serve given arguments, and launching them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from dpg_fast.kernels import _cpu

#: Dtypes of the activations, as the kernels number them.
TYPE_ID = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# None where torch is built without CUDA: no tensor can ask for them then.
_CURRENT_DEVICE = getattr(torch._C, "_cuda_getDevice", None)
_CURRENT_STREAM = getattr(torch._C, "_cuda_getCurrentRawStream", None)

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


def _scratch(like: Tensor, rows: int, width: int) -> Tensor:
    return torch.empty((rows, width), dtype=torch.float32, device=like.device)


def bind(
    addresses: dict[str, int] | None = None,
    device_type: int = 2,
    current_device: Callable[[], int] | None = _CURRENT_DEVICE,
    current_stream: Callable[[int], int] | None = _CURRENT_STREAM,
) -> None:
    """Says how the compiled module launches kernels by itself; each device must be admitted afterwards.

    Args:
        addresses: launchers of csrc/include/dpg/cuda_api.h by name; None: those in the module.
        device_type: of the tensors they take, as DLPack numbers them (2: CUDA).
        current_device, current_stream: () -> index of the current device, (index) -> its current stream.
    """
    if _cpu.C is not None:
        _admit.cache_clear()
        _cpu.C.bind_launchers(addresses or {}, device_type, current_device, current_stream, _scratch)


@functools.cache
def _admit(device: torch.device) -> None:
    """Lets calls with tensors on this device go straight to the compiled module from now on."""
    with torch.inference_mode(False):
        keys = torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr()
    _cpu.C.admit(device.index or 0, keys)


def address(t: Tensor | None) -> int:
    """Where t starts in device memory; 0 for no tensor."""
    return 0 if t is None else t.data_ptr()


def row_stride(bank: Tensor) -> int:
    """Elements between neighbouring rows (k, j) of a bank [K, r, d]."""
    return bank.stride(1) if bank.shape[1] > 1 else bank.stride(0)


def launch(name: str, device: torch.device, *args: int | float) -> None:
    """Launches a kernel of csrc/include/dpg/cuda_api.h on the current stream of the device, which verify has accepted.

    Raises:
        RuntimeError: CUDA refused the launch.
    """
    function = getattr(_cpu.C, "cuda_" + name)
    index = device.index
    _admit(device)
    if index == torch.cuda.current_device():
        function(*args, torch._C._cuda_getCurrentRawStream(index))
        return
    with torch.cuda.device(index):
        function(*args, torch._C._cuda_getCurrentRawStream(index))


bind()
