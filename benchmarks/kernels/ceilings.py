"""What this machine can do at most, measured in the same run: copy bandwidth and dense matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.shapes import DTYPES


def cache_bytes(device: str) -> int:
    """Size of the largest cache in front of memory: L2 of the GPU, L3 (or L2) of the processor; 32 MiB if unknown."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
    found = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index[23]/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdecimal():
            found.append(int(text[:-1]) << 10)
    return max(found)


@cache
def bandwidth(device: str, quick: bool = False) -> float:
    """Bytes read plus bytes written per second of a large copy."""
    size = 1 << (24 if quick else 27 if device == "cpu" else 30)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


@cache
def matmul_rate(device: str, dtype_name: str, quick: bool = False) -> float:
    """FLOP per second of a large square product of random numbers."""
    n = 256 if quick else 1024 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(DTYPES[dtype_name]) for _ in range(2))
    return 2 * n**3 / _best(lambda: a @ b, device)


def _best(call: Callable[[], Any], device: str) -> float:
    """Shortest of several measurements of one call: a ceiling is what the machine can do, not what it does on average."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        call()
    times = []
    for _ in range(8):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)
