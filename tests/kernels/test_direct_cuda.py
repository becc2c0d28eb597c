"""Calls that go straight to the compiled module and from there to the CUDA launchers, on the emulator."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dpg_fast.kernels import _cpu, _cuda, dispatch, explain, lora_add, lora_shrink, use_backend
from tests.kernels import cases, mutations
from tests.kernels.accelerators import needs_gpu
from tests.kernels.emulated_cuda import addresses, direct_cuda, emulated_cuda
from tests.kernels.test_cuda import SIZES, arguments, everything

pytestmark = pytest.mark.skipif(_cpu.C is None, reason="compiled module missing")


@pytest.mark.parametrize("size", [(0, 6, 8, 64, 72), SIZES[1], SIZES[3]], ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_same_bits_as_the_checked_way(
    dtype: torch.dtype, size: tuple[int, int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sizes and strides differ, so that two arguments of a launcher that change places change the result."""
    c, gated, edges = arguments(size, dtype)
    with emulated_cuda():
        checked = everything(c, gated, edges)
    others: list[str] = []
    serve = dispatch.call
    monkeypatch.setattr(dispatch, "call", lambda op, *args: others.append(op) or serve(op, *args))
    with direct_cuda(), use_backend(None):
        direct = everything(c, gated, edges)[:-2]
        assert set(others) == {"activation_stats"}  # it has values of CPU tensors to check
        tables = [torch.zeros_like(t) for t in checked[-2:]]
        assert _cpu.C.activation_stats(gated[0], 0, gated[3].slots, edges, *tables)
    assert all(torch.equal(a, b) for a, b in zip(checked, [*direct, *tables], strict=True))


def _shrink(c: cases.Lora) -> torch.Tensor:
    return lora_shrink(c.x, c.A, c.codes_a, c.slots)


REFUSED = {
    "gradient": lambda c: c.A.requires_grad_(),
    "dtype": lambda c: setattr(c, "A", c.A.half()),
    "entries": lambda c: setattr(c, "A", torch.zeros(65, 2, 8)) or setattr(c, "codes_a", torch.zeros(4, 65)),
    "strides": lambda c: setattr(c, "A", c.A.transpose(0, 1).contiguous().transpose(0, 1)),
    "memory": lambda c: c.x.untyped_storage().resize_(8),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_is_unusual_is_left_to_the_checked_way(change: str) -> None:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    with direct_cuda():
        assert torch.isfinite(_shrink(c)).all()
        REFUSED[change](c)
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            _shrink(c)


class Watcher(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_other_devices_and_watchers_are_left_to_the_checked_way() -> None:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    refusal = pytest.raises(RuntimeError, match="'cuda' was requested but cannot serve")
    with direct_cuda():
        with Watcher(), refusal:
            _shrink(c)
        bind = functools.partial(_cuda.bind, addresses(), 1)
        bind(lambda: 1, lambda index: 0)  # another device is current
        _cpu.C.admit(0, torch._C._dispatch_keys(c.x).raw_repr())
        with refusal:
            _shrink(c)
        bind(lambda: 0, lambda index: 0)  # not admitted
        with refusal:
            _shrink(c)


def test_a_failed_launch_is_an_error() -> None:
    failing = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 700)
    text = ctypes.create_string_buffer(b"an illegal address")
    words = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(lambda error: ctypes.addressof(text))
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    with direct_cuda():
        given = dict.fromkeys(addresses(), ctypes.cast(failing, ctypes.c_void_p).value or 0)
        given["error_text"] = ctypes.cast(words, ctypes.c_void_p).value or 0
        _cuda.bind(given, 1, lambda: 0, lambda index: 0)
        _cpu.C.admit(0, torch._C._dispatch_keys(c.x).raw_repr())
        with pytest.raises(RuntimeError, match="lora_shrink: an illegal address"):
            _shrink(c)


def test_the_stream_is_the_current_one() -> None:
    seen: list[int] = []
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 14)
    launcher = prototype(lambda *args: seen.append(args[-1]) or 0)
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    with direct_cuda():
        given = dict.fromkeys(addresses(), ctypes.cast(launcher, ctypes.c_void_p).value or 0)
        _cuda.bind(given, 1, lambda: 0, lambda index: (1 << 63) + 8 + index)
        _cpu.C.admit(0, torch._C._dispatch_keys(c.x).raw_repr())
        _shrink(c)
    assert seen == [(1 << 63) + 8]


def infinite(value: Any) -> bool:
    """Whether it holds an infinity, which the kernels may turn into NaN: a coefficient is a sum of two of 16 bits."""
    if isinstance(value, tuple):
        return any(map(infinite, value))
    return mutations.readable(value) and value.is_floating_point() and bool(value.isinf().any())


def run_directly(case: mutations.Case) -> str:
    """`mutations.run` on the emulator; what a device cannot report, or need not tell from NaN, is not expected of it."""
    with direct_cuda(), use_backend(None):
        answer = mutations.run(case)
    silent = ("accepted; the reference: IndexError", "edges must ascend")
    excused = any(words in answer for words in silent) or (
        "off by nan" in answer and infinite(tuple(mutations.build(case).values()))
    )
    return "excused" if excused else answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("count", [150, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutations(count: int) -> None:
    with direct_cuda():  # loads the emulator before the children are forked
        pass
    report = mutations.sweep(3, count, run=run_directly)
    assert sum(report.counts.values()) == count and report.counts["equal"] > count / 4
    assert report.counts["excused"] < count / 10
    assert not report.failures, report


def test_a_torch_that_cannot_be_read_keeps_the_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    expected = _shrink(c)
    with use_backend(None), monkeypatch.context() as patch:  # undone before the choice of backend is made again
        patch.setattr(_cpu, "UNREADABLE", "torch 9 has no DLPack C exchange table of version 1")
        dispatch.force_backend(None)
        assert not dispatch.direct and dispatch.select("lora_shrink", c.x, c.A, c.codes_a, c.slots).name == "reference"
        reasons = {r.backend: r.reason for r in explain("cpu") if r.op == "lora_shrink"}
        assert "torch 9" in reasons["cpu"] and "torch 9" not in reasons["cuda"]
        with emulated_cuda():
            assert dispatch.forced_backend() == "cuda" and not dispatch.direct
            torch.testing.assert_close(_shrink(c), expected)
    assert dispatch.forced_backend() is None and dispatch.direct


@needs_gpu
@pytest.mark.skipif(_cpu.C is None or not _cpu.C.cuda_archs, reason="built without CUDA kernels")
def test_cuda_tensors_take_the_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    given: list[Any] = [t.cuda() for t in (c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots)]
    call: Callable[[], Any] = functools.partial(lora_add, *given)
    with use_backend("cuda"):
        call()  # the checked way, which admits the device
        monkeypatch.setattr("dpg_fast.kernels._checks.check_tensors", lambda **tensors: pytest.fail("not direct"))
        call()
