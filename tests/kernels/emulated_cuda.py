"""The CUDA kernels on CPU tensors: their sources, compiled with g++ against the emulator in tests/cuda_emulator."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dpg_fast.kernels import _cpu, _cuda, dispatch, use_backend
from tests.support import ROOT

#: environment variable with the file of a library built by a parent process
BUILT = "DPG_FAST_EMULATED_CUDA"
KEPT = ROOT / "build" / "emulator"
EMULATOR = ROOT / "tests" / "cuda_emulator"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function")


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels and the emulator as one shared library, built once per process; skips the test without g++."""
    loaded = ctypes.CDLL(library_file())
    loaded.dpg_cuda_error_text.restype = ctypes.c_char_p
    return loaded


def fingerprint(compiler: str) -> str:
    """Hash of the compiler's version, the flags and every source."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    found = hashlib.sha256(version + repr(FLAGS).encode())
    for folder in (ROOT / "csrc" / "cuda", ROOT / "csrc" / "include", EMULATOR):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:32]


@functools.cache
def library_file() -> str:
    """The library's file; a parent process that has one passes it on in `BUILT`.

    Kept in build/emulator under the hash of all that it is made from, because compiling takes most of a minute.
    """
    if os.environ.get(BUILT):
        return os.environ[BUILT]
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the CUDA emulator needs g++")
    kept = KEPT / f"{fingerprint(compiler)}.so"
    if kept.exists():
        return str(kept)
    KEPT.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=KEPT))
    include = [f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.name}.o")
        run(compiler, *FLAGS, *include, "-x", "c++", "-c", str(source), "-o", target)
        return target

    sources = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), EMULATOR / "emulator.cpp", EMULATOR / "faults.cpp"]
    try:
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compiled, sources))
        built = folder / "emulated.so"
        run(compiler, "-shared", "-o", str(built), *objects)
        built.replace(kept)
    finally:
        shutil.rmtree(folder)
    return str(kept)


def launch(name: str, device: torch.device, *args: int | float) -> None:
    """Stands in for `_cuda.launch`."""
    values = [ctypes.c_double(a) if isinstance(a, float) else ctypes.c_int64(a) for a in args]
    error = getattr(library(), "dpg_cuda_" + name)(*values, ctypes.c_void_p(0))
    if error:
        raise RuntimeError(f"{name}: {library().dpg_cuda_error_text(error).decode()}")


def serve_everywhere() -> None:
    """From here on the CUDA backend serves CPU tensors in this process, emulated."""
    _cuda.launch, _cuda.verify = launch, _verify


def _verify(first: torch.Tensor, entries: int = 0, bank: tuple[int, int] | None = None) -> tuple[bool, str]:
    return first.dtype in _cuda.TYPE_ID and not (bank is not None and 0 in bank), f"{first.dtype}, bank {bank}"


@contextmanager
def emulated_cuda(*, descending: bool = False) -> Iterator[None]:
    """Within the block every op runs its CUDA kernel, emulated; `descending`: a block's threads in reverse order."""
    library().dpg_emulator_set_order(ctypes.c_int64(descending))
    before = _cuda.launch, _cuda.verify
    serve_everywhere()
    try:
        with use_backend("cuda"):
            yield
    finally:
        _cuda.launch, _cuda.verify = before


def addresses() -> dict[str, int]:
    """Where the emulated launchers are, by name."""
    names = (*dispatch.OPS, "error_text")
    return {name: ctypes.cast(getattr(library(), f"dpg_cuda_{name}"), ctypes.c_void_p).value or 0 for name in names}


@contextmanager
def direct_cuda() -> Iterator[None]:
    """Within the block the compiled module itself launches the emulated kernels, for CPU tensors.

    Backend "cuda" is forced, and its other path refuses CPU tensors: what returns took the direct one.
    """
    library().dpg_emulator_set_order(ctypes.c_int64(0))
    _cuda.bind(addresses(), 1, lambda: 0, lambda index: 0)
    _cpu.C.admit(0, torch._C._dispatch_keys(torch.zeros(1)).raw_repr())
    try:
        with use_backend("cuda"):
            yield
    finally:
        _cuda.bind()
