"""Choice of backend, errors for bad arguments, and the OpenMP runtime."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.kernels import (
    build_info,
    dispatch,
    explain,
    isas,
    lora_add,
    lora_expand_add,
    lora_shrink,
    set_isa,
    steered_gated_act,
    use_backend,
)
from tests.kernels import cases

needs_compiled = pytest.mark.skipif(not isas(), reason="the compiled module is not built")


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that finds the same package."""
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_explain_lists_every_op_and_backend_with_reasons() -> None:
    rows = explain()
    assert {(r.op, r.backend) for r in rows} == {(op, b) for op in dispatch.OPS for b in dispatch.ORDER}
    assert all(r.ok or r.reason for r in rows)
    assert all(r.ok for r in rows if r.backend == "reference")
    assert all(not r.ok and "riton" in r.reason for r in rows if r.backend == "triton")
    assert all(r.ok == bool(isas()) for r in rows if r.backend == "cpu")
    assert not any(r.ok for r in explain(dtype=torch.float64) if r.backend == "cpu")


def test_build_info() -> None:
    info = build_info()
    assert info["compiled"] == bool(isas())
    if info["compiled"]:
        assert info["isa"] in info["isas_here"] and set(info["isas_here"]) <= set(info["isas"])
        assert "generic" in info["isas"] and info["compiler"]


def test_forced_backend_that_cannot_serve_is_an_error() -> None:
    c = cases.lora_case(3, 2, 2, 8, 8, torch.float32)
    with (
        use_backend("cuda"),
        pytest.raises(RuntimeError, match=r"'cuda' .* cannot serve lora_add"),
    ):
        lora_add(c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots)
    d = c.to(torch.float64)
    with use_backend("triton"), pytest.raises(RuntimeError, match=r"'triton' .* cannot serve lora_shrink"):
        lora_shrink(d.x, d.A, d.codes_a, d.slots)
    with use_backend("cpu"), pytest.raises(RuntimeError, match=r"cpu.*(float64|not found)"):
        lora_shrink(d.x, d.A, d.codes_a, d.slots)
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        dispatch.force_backend("gpu")
    with pytest.raises(RuntimeError):
        set_isa("sse9")


@needs_compiled
def test_environment_variables() -> None:
    show = "from dpg_fast.kernels import build_info as b; i = b(); print(i['isa'], i['forced_backend'])"
    assert python(show, DPG_FAST_ISA="generic", DPG_FAST_BACKEND="reference").stdout.split() == [
        "generic",
        "reference",
    ]
    wrong = python(show, DPG_FAST_ISA="sse9")
    assert wrong.returncode != 0 and "sse9" in wrong.stderr


def test_works_without_the_compiled_module() -> None:
    code = """
import sys
sys.modules["dpg_fast._C"] = None
import torch
from dpg_fast.kernels import build_info, explain, lora_shrink, use_backend
slots = torch.tensor([0, -1], dtype=torch.int32)
u = lora_shrink(torch.ones(2, 4), torch.ones(3, 2, 4), torch.ones(1, 3), slots)
assert u.tolist() == [[12.0, 12.0], [0.0, 0.0]]
assert "compiled module not found" in build_info()["reason"]
assert any(r.backend == "cpu" and "compiled module not found" in r.reason for r in explain())
try:
    with use_backend("cpu"):
        lora_shrink(torch.ones(2, 4), torch.ones(3, 2, 4), torch.ones(1, 3), slots)
except RuntimeError as e:
    assert "compiled module not found" in str(e)
    print("served")
"""
    done = python(code)
    assert done.stdout.strip() == "served", done.stderr


@needs_compiled
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_compiled)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(backend: str, dtype: torch.dtype) -> None:
    c = cases.lora_case(7, 3, 4, 33, 17, dtype)
    y = torch.randn(7, 17).to(dtype)

    def results() -> list[torch.Tensor]:
        u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
        return [
            u,
            lora_expand_add(y.clone(), u, c.B, c.codes_b, c.slots, 0.5),
            lora_add(y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, 0.5),
            steered_gated_act(y, y.flip(0), "silu"),
        ]

    with use_backend(backend):
        plain = results()
        with torch.autocast("cpu", torch.bfloat16):
            under = results()
    for one, other in zip(plain, under, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_one_openmp_runtime() -> None:
    code = """
import torch
from dpg_fast.kernels import _cpu, build_info
_cpu.C.set_parallel_threshold(0)
import torch as t
from dpg_fast.kernels import lora_shrink
lora_shrink(t.ones(8, 64), t.ones(3, 8, 64), t.ones(1, 3), t.zeros(8, dtype=t.int32))
libs = {l.split()[-1] for l in open("/proc/self/maps") if "libgomp" in l or "libomp" in l or "libiomp" in l}
print(len(libs), build_info()["openmp"])
"""
    done = python(code)
    assert done.stdout.split() == ["1", "True"], done.stdout + done.stderr


def test_automatic_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    c = cases.lora_case(3, 2, 2, 8, 8, torch.float32).to(torch.float64)
    dispatch._logged.clear()
    with caplog.at_level(logging.DEBUG, logger="dpg_fast.kernels"):
        for _ in range(3):
            lora_shrink(c.x, c.A, c.codes_a, c.slots)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "backend reference" in lines[0] and "not cpu" in lines[0]


Change = Callable[[dict[str, Any]], None]


def arguments() -> dict[str, Any]:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    return {**vars(c)}


@pytest.mark.parametrize("backend", ["reference", *(["cpu"] if isas() else [])])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda a: a.update(slots=a["slots"].long()),
            TypeError,
            "slots must be torch.int32, got torch.int64",
        ),
        (
            lambda a: a.update(slots=a["slots"][:5]),
            ValueError,
            r"slots must have shape \[T\] = \[6\], got \[5\]",
        ),
        (lambda a: a.update(x=a["x"].int()), TypeError, "x must be float32"),
        (lambda a: a.update(A=a["A"].bfloat16()), TypeError, "A must be torch.float32"),
        (lambda a: a.update(B=a["B"].half()), TypeError, "B must be torch.float32"),
        (lambda a: a.update(A=a["A"][:, :, :7]), ValueError, r"A must have shape \[K, r, d_in\]"),
        (
            lambda a: a.update(A=a["A"].transpose(0, 1).contiguous().transpose(0, 1)),
            ValueError,
            "A must be contig",
        ),
        (
            lambda a: a.update(B=a["B"].transpose(0, 1).contiguous().transpose(0, 1)),
            ValueError,
            "evenly spaced",
        ),
        (lambda a: a.update(B=a["B"][:2]), ValueError, "B must have shape"),
        (lambda a: a.update(codes_a=a["codes_a"].double()), TypeError, "codes must be torch.float32"),
        (lambda a: a.update(codes_b=a["codes_b"][:, :2]), ValueError, r"codes_b must have shape \[S, K\]"),
        (lambda a: a.update(codes_b=a["codes_b"][:2]), ValueError, "codes_b"),
        (lambda a: a.update(y=a["y"].t().contiguous().t()), ValueError, "y must have unit stride"),
        (lambda a: a.update(y=a["y"][:5]), ValueError, "y must have shape"),
        (lambda a: a["slots"].fill_(4), IndexError, "slots must lie in"),
        (lambda a: a["slots"].fill_(-2), IndexError, "slots must lie in"),
    ],
)
def test_bad_arguments(backend: str, change: Change, error: type[Exception], message: str) -> None:
    a = arguments()
    change(a)
    before = a["y"].clone()
    with use_backend(backend), pytest.raises(error, match=message):
        lora_add(**a)
    assert torch.equal(a["y"], before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"act": "relu"}, ValueError, "unknown activation 'relu'; known: silu, gelu_tanh, gelu"),
        ({"up": torch.ones(6, 9)}, ValueError, "up must have shape"),
        ({"up": torch.ones(6, 10).half()}, TypeError, "up must be torch.float32"),
        ({"mask": torch.zeros(10, dtype=torch.int32)}, TypeError, "clamp_mask must be torch.int16"),
        ({"strengths": torch.zeros(5, 9)}, ValueError, "strengths"),
        ({"steer_slots": torch.full((6,), 5, dtype=torch.int32)}, IndexError, "slots must lie in"),
        ({"u": torch.zeros(3, 6, 2)}, ValueError, r"lora.u_gate must have shape \[2, T, r\]"),
    ],
)
def test_bad_gated_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    gate, up, lora, steering = cases.gated_case(6, 3, 2, 10, torch.float32)
    if "u" in change:
        lora = lora._replace(u_gate=change["u"], u_up=None)
    steering = steering._replace(
        clamp_mask=change.get("mask", steering.clamp_mask),
        strengths=change.get("strengths", steering.strengths),
        slots=change.get("steer_slots", steering.slots),
    )
    with pytest.raises(error, match=message):
        steered_gated_act(gate, change.get("up", up), change.get("act", "silu"), lora=lora, steering=steering)


def test_bad_u() -> None:
    c = cases.lora_case(6, 3, 2, 8, 10, torch.float32)
    with pytest.raises(ValueError, match=r"u must have shape \[T, r\] = \[6, 2\], got \[6, 3\]"):
        lora_expand_add(c.y, torch.zeros(6, 3), c.B, c.codes_b, c.slots)
    with pytest.raises(TypeError, match=r"u must be torch.float32"):
        lora_expand_add(c.y, torch.zeros(6, 2).half(), c.B, c.codes_b, c.slots)
