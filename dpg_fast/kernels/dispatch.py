"""Which backend answers a kernel call, and why.

Each backend of an op brings a verifier that says whether it takes the arguments and, if not, why. The first
that accepts runs, in the order "cuda", "triton", "cpu", "reference". The environment variable
DPG_FAST_BACKEND (read at import) or `force_backend` names one instead; if it cannot serve, the call raises.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dpg_fast.kernels import _checks, _cpu

logger = logging.getLogger("dpg_fast.kernels")

OPS: tuple[str, ...] = (
    "lora_shrink",
    "lora_combine",
    "lora_expand_add",
    "lora_add",
    "lora_stacked_add",
    "steered_gated_act",
    "activation_stats",
    "add_rmsnorm",
)
ORDER: tuple[str, ...] = ("cuda", "triton", "cpu", "reference")
ABSENT = "not available in this version"

Verifier = Callable[..., tuple[bool, str]]


@dataclass(frozen=True)
class Backend:
    """One implementation of one op. `verify` and `run` take the arguments of the op."""

    name: str
    run: Callable[..., Any]
    verify: Verifier


class Served(NamedTuple):
    """One line of `explain()`."""

    op: str
    backend: str
    ok: bool
    reason: str


_backends: dict[str, dict[str, Backend]] = {op: {} for op in OPS}
_logged: set[tuple[str, str]] = set()
_forced: str | None = None

#: True while plain calls may go straight to the compiled kernels, and whether to those for CUDA (read by the ops on every call).
direct: bool = False
direct_cuda: bool = False


def register(op: str, name: str, run: Callable[..., Any], verify: Verifier) -> None:
    """Adds a backend to an op."""
    _backends[op][name] = Backend(name, _without_autocast(run) if name == "reference" else run, verify)


def _without_autocast(run: Callable[..., Any]) -> Callable[..., Any]:
    """Plain PyTorch as it stands: autocast would round an op's products, and change the dtype of what it returns."""

    @functools.wraps(run)
    def wrapped(first: torch.Tensor, *rest: Any) -> Any:
        if not torch.is_autocast_enabled(first.device.type):
            return run(first, *rest)
        with torch.autocast(first.device.type, enabled=False):
            return run(first, *rest)

    return wrapped


def forced_backend() -> str | None:
    """The backend that every call must use, or None."""
    return _forced


def force_backend(name: str | None) -> None:
    """Makes every op use one backend (None: automatic choice).

    Raises:
        ValueError: unknown name.
    """
    global _forced, direct, direct_cuda
    if name is not None and name not in ORDER:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(ORDER)}")
    _forced = name
    cpu, cuda = name in (None, "cpu"), name in (None, "cuda")
    if _cpu.C is not None:
        _cpu.C.serve(cpu, cuda)
    readable = _cpu.C is not None and not _cpu.UNREADABLE
    direct, direct_cuda = readable and (cpu or cuda), readable and cuda and bool(_cpu.C.cuda_archs)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """`force_backend` for the length of a with block."""
    before = _forced
    force_backend(name)
    try:
        yield
    finally:
        force_backend(before)


def select(op: str, *args: Any) -> Backend:
    """The backend for these arguments.

    Raises:
        RuntimeError: the forced backend cannot serve.
    """
    have = _backends[op]
    if _forced is not None:
        backend = have.get(_forced)
        ok, reason = backend.verify(*args) if backend else (False, ABSENT)
        if not ok or backend is None:
            raise RuntimeError(f"backend {_forced!r} was requested but cannot serve {op}: {reason}")
        return backend
    refused: list[tuple[str, str]] = []
    for name in ORDER:
        candidate = have.get(name)
        ok, reason = candidate.verify(*args) if candidate else (False, ABSENT)
        if ok and candidate is not None:
            if (op, name) not in _logged:
                _logged.add((op, name))
                logger.debug("%s: backend %s%s", op, name, "".join(f"; not {n}: {r}" for n, r in refused))
            return candidate
        refused.append((name, reason))
    raise RuntimeError(f"no backend serves {op}: " + "; ".join(f"{n}: {r}" for n, r in refused))


def call(op: str, *args: Any) -> Any:
    """Runs op on the selected backend.

    One that returns NotImplemented, having touched nothing, does not take these after all (memory not aligned, a written
    tensor that overlaps one that is read): the reference does.

    Raises:
        RuntimeError: the forced backend cannot serve.
        ValueError: a CPU tensor whose memory was freed or cut.
    """
    backend = select(op, *args)
    if backend.name != "reference":
        result = backend.run(*args)
        if result is not NotImplemented:
            return result
        if _forced is not None:
            raise RuntimeError(
                f"backend {_forced!r} was requested but cannot serve {op}: overlapping or unaligned memory"
            )
    for i, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            _checks.check_memory(f"argument {i + 1} of {op}", value)
    return _backends[op]["reference"].run(*args)


def explain(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> list[Served]:
    """Which backends could serve each op for tensors of this device and dtype, in order of preference."""
    from dpg_fast.kernels.samples import sample_arguments

    rows: list[Served] = []
    for op in OPS:
        try:
            args = sample_arguments(op, torch.device(device), dtype)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            rows.extend(Served(op, name, False, f"no tensors on {device}: {reason}") for name in ORDER)
            continue
        for name in ORDER:
            backend = _backends[op].get(name)
            ok, reason = backend.verify(*args) if backend else (False, ABSENT)
            rows.append(Served(op, name, ok, reason))
    return rows


def build_info() -> dict[str, Any]:
    """What is compiled in: instruction sets (all, usable here, chosen), OpenMP, CUDA, compiler, version."""
    c = _cpu.C
    return {
        "compiled": c is not None,
        "reason": _cpu.MISSING or _cpu.UNREADABLE,
        "isas": list(c.compiled_isas()) if c is not None else [],
        "isas_here": _cpu.isas(),
        "isa": c.current_isa() if c is not None else None,
        "openmp": bool(c.openmp) if c is not None else False,
        "threads": torch.get_num_threads(),
        "cuda_archs": [a for a in c.cuda_archs.split(",") if a] if c is not None else [],
        "compiler": c.compiler if c is not None else None,
        "version": c.version if c is not None else None,
        "forced_backend": _forced,
    }


force_backend(os.environ.get("DPG_FAST_BACKEND") or None)
