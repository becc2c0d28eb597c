"""The Triton backend as such: when it serves, when it loads, and that its kernels compile for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dpg_fast.kernels import _triton, dispatch, explain, lora_shrink, use_backend
from tests.kernels import cases
from tests.kernels.accelerators import ACCELERATORS, DEVICE, needs_gpu, on_device

needs_triton = pytest.mark.skipif(not _triton.installed(), reason="Triton is not installed")


def python(code: str, *arguments: str, **env: str | None) -> str:
    """Output of code in a fresh interpreter; variables with None are unset."""
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    merged = {**os.environ, "PYTHONPATH": path, **env}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={k: v for k, v in merged.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_triton
@pytest.mark.skipif("triton" not in ACCELERATORS, reason="Triton can neither run on a GPU nor interpret here")
def test_serves_every_op() -> None:
    with use_backend("triton"):
        rows = [r for r in explain(DEVICE, torch.bfloat16) if r.backend == "triton"]
        assert {r.op for r in rows} == set(dispatch.OPS) and all(r.ok for r in rows), rows
        assert not any(r.ok for r in explain(DEVICE, torch.float64) if r.backend == "triton")
        c = on_device(cases.lora_case(2, 1, 129, 4, 4, torch.float32))
        with pytest.raises(RuntimeError, match="rank 129"):
            lora_shrink(c.x, c.A, c.codes_a, c.slots)


@needs_triton
def test_cpu_tensors_stay_with_the_compiled_kernels_unless_forced() -> None:
    code = """
import os, sys, torch
from dpg_fast.kernels import dispatch, explain, lora_shrink, use_backend
from dpg_fast.kernels.samples import sample_arguments
arguments = sample_arguments("lora_shrink", torch.device("cpu"), torch.float32)
print(dispatch.select("lora_shrink", *arguments).name, "triton" in sys.modules)
with use_backend("triton"):
    try:
        lora_shrink(*arguments)
        print("served", "triton" in sys.modules)
    except RuntimeError as error:
        print(error)
"""
    chosen, forced = python(code, TRITON_INTERPRET="1", DPG_FAST_BACKEND=None).splitlines()
    assert chosen in ("cpu False", "reference False") and forced == "served True"
    chosen, forced = python(code, TRITON_INTERPRET=None, DPG_FAST_BACKEND=None).splitlines()
    assert chosen in ("cpu False", "reference False")
    assert "tensors are on cpu; set TRITON_INTERPRET=1" in forced


def test_works_without_triton() -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
sys.modules["triton"] = None
import torch
from dpg_fast.kernels import explain, lora_shrink
u = lora_shrink(torch.ones(1, 4), torch.ones(3, 2, 4), torch.ones(1, 3), torch.zeros(1, dtype=torch.int32))
assert u.tolist() == [[12.0, 12.0]]
assert all("Triton is not installed" in r.reason for r in explain() if r.backend == "triton")
print("served")
"""
    assert python(code).strip() == "served"


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """To machine code for sm_90, without a GPU; and what must not depend on tuning does not."""
    code = """
import json, sys
from dpg_fast.kernels.triton_targets import compile_target, targets
small, large = ("smollm2-135m",), ("llama-8b",)
some = [*targets(("lora_add", "lora_stacked_add", "add_rmsnorm"), small, ("decode",), ("fp16",), all_candidates=False)]
some += targets(("slot_sums",), small, ("prefill",), ("fp32",))
some += [t for t in targets(("steered_gated_act", "steered_gated_act_grad"), small, ("prefill",), ("bf16",))
         if "silu/lora_steered" in t.name]
some += [t for t in targets(("activation_stats",), small, ("decode",), ("fp32",)) if "silu" in t.name]
tuned = [*targets(("lora_shrink",), large, ("prefill",), ("bf16",), all_candidates=True)]
some += [t for t in tuned if "BT=16,num_warps=4" in t.name or "BT=32,num_warps=8" in t.name]
some += [t for t in targets(("lora_expand_add",), large, ("prefill",), ("bf16",), all_candidates=True)
         if "BN=64" in t.name or "BN=256" in t.name]
print(json.dumps([compile_target(t, 90)._replace(ptx="") for t in some]))
"""
    out = python(code, TRITON_INTERPRET=None, TRITON_CACHE_DIR=str(tmp_path))
    compiled = [
        dict(zip(("name", "registers", "spilled", "stack", "shared", "matrix"), c, strict=False))
        for c in json.loads(out)
    ]
    assert len(compiled) >= 12
    for c in compiled:
        assert 0 < c["registers"] <= 255 and c["shared"] <= 227 * 1024, c
        assert c["spilled"] == 0, c
    for kernel in ("shrink_kernel", "expand_kernel", "gated_kernel"):
        used = {
            c["matrix"] for c in compiled if f"/{kernel}[" in c["name"] and ("llama" in c["name"] or "gated" in kernel)
        }
        assert len(used) == 1 and used != {""}, (kernel, used)


@needs_triton
def test_targets_refuse_the_interpreter() -> None:
    code = """
from dpg_fast.kernels.triton_targets import targets
try:
    list(targets())
except RuntimeError as error:
    print(error)
"""
    assert "TRITON_INTERPRET is set" in python(code, TRITON_INTERPRET="1")


@needs_gpu
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_tuning_does_not_change_a_bit(dtype: torch.dtype) -> None:
    from dpg_fast.kernels.ops.lora_expand_add.triton import expand_kernel
    from dpg_fast.kernels.ops.lora_shrink.triton import shrink_kernel
    from dpg_fast.kernels.ops.lora_stacked_add.triton import stacked_kernel
    from dpg_fast.kernels.ops.steered_gated_act.triton import gated_kernel
    from tests.kernels.test_accelerators import gated_case, lora_case, run_all

    c, gated = lora_case(77, 6, 16, 1000, 700, dtype), gated_case(77, 6, 16, 700, dtype)
    with use_backend("triton"):
        expected = run_all(c, gated)
        for kernel in (shrink_kernel, expand_kernel, stacked_kernel, gated_kernel):
            candidates = kernel.configs
            try:
                for candidate in candidates:
                    if kernel is gated_kernel and candidate.kwargs["BT"] < 16:
                        continue
                    kernel.configs = [candidate]
                    for a, b in zip(expected, run_all(c, gated), strict=True):
                        assert torch.equal(a, b), candidate
            finally:
                kernel.configs = candidates


@pytest.mark.parametrize("tuned", [True, False])
def test_loading_inside_a_capture_is_explained(tuned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's words name neither the kernel's absence nor what to do; other errors stay what they are."""
    jit = pytest.importorskip("dpg_fast.kernels._triton_jit")
    on = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    words = "Triton Error [CUDA]: operation not permitted when stream is capturing"

    class Kernel:
        configs = (SimpleNamespace(all_kwargs=dict),)

        def __getitem__(self, grid: object) -> Any:
            def run(**arguments: object) -> None:
                raise RuntimeError(words)

            return run

    kernel = Kernel()
    kernel.fn = kernel  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    def launch() -> None:
        if tuned:
            jit.launch(kernel, (1,), on, (1,))
        else:
            jit.launch_plain(kernel, (1,), on)

    with pytest.raises(RuntimeError, match="make the same call once before capturing"):
        launch()
    words = "out of memory"
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        launch()
