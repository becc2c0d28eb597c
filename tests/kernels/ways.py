"""The ways an op can be computed in the tests: every instruction set, the emulated CUDA kernels, the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dpg_fast.kernels import use_backend, use_isa
from tests.kernels import cases
from tests.kernels.emulated_cuda import emulated_cuda

COMPILED = [*cases.ISAS, "cuda"]
WAYS = [*COMPILED, "reference"]


@contextmanager
def using(way: str) -> Iterator[str]:
    """Every op is computed this way within the block."""
    if way == "cuda":
        with emulated_cuda():
            yield way
    elif way == "reference":
        with use_backend("reference"):
            yield way
    else:
        with use_backend("cpu"), use_isa(way):
            yield way
