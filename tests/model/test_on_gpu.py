"""A whole PersonalityModel on the CUDA kernels: emulated, on pretend devices, and on a GPU where there is one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu_run import model_smoke
from benchmarks.gpu_run.place import Place, entered
from benchmarks.gpu_run.record import Values
from benchmarks.model_gpu import Settings, check
from tests.kernels.accelerators import GPU, needs_gpu
from tests.support import ROOT

Check = Callable[[Place, Settings], Values]


@pytest.mark.skipif(GPU, reason="the emulator is for machines without a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_emulated_kernels_agree_with_the_reference(dtype: torch.dtype) -> None:
    with entered(rehearsal=True) as place:
        found = model_smoke.agrees(place, replace(Settings.tiny(), dtype=dtype))
    # a wider product, and a norm's mean square, may be summed in another order than the bare model's
    assert found["row without personality"] <= 2 * torch.finfo(dtype).eps
    assert found["model without personality"] == 0


@pytest.mark.skipif(GPU, reason="the emulator is for machines without a GPU")
def test_an_emulated_step_follows_a_change() -> None:
    with entered(rehearsal=True) as place:
        assert model_smoke.follows_a_change(place, Settings.tiny())["bits of eager steps"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["twin", "cuda"])
def test_a_decode_step_neither_waits_nor_copies(kind: str) -> None:
    """In a process of its own: pretend devices are there for good."""
    if kind == "cuda" and torch.version.cuda is None:
        pytest.skip("this torch was built without CUDA")
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.step_on_device", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "the step ran on" in done.stdout


@needs_gpu
@pytest.mark.parametrize("large", [False, True], ids=["tiny", "two layers of 8B"])
@pytest.mark.parametrize("what", [model_smoke.agrees, model_smoke.follows_a_change, model_smoke.generates])
def test_on_a_gpu(what: Check, large: bool) -> None:
    with entered(rehearsal=False) as place:
        found = what(place, model_smoke.settings_of(place, large=large))
    if what is model_smoke.follows_a_change:
        assert found["captured"]
    if what is model_smoke.generates:  # a second request finds the graphs of the first
        assert found["CUDA graphs recorded for each request"][1] == 0


@needs_gpu
def test_merged_weights_on_a_gpu() -> None:
    with entered(rehearsal=False) as place:
        check(place.device, place.settings)
