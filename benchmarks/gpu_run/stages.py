"""The stages of a run, in order of worth, and how many seconds each may take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

#: the files with tests that need a GPU
KERNEL_TESTS = (
    "tests/kernels/test_accelerators.py",
    "tests/kernels/test_add_rmsnorm.py",
    "tests/kernels/test_triton.py",
)
MODEL_TESTS = ("tests/model/test_on_gpu.py",)
PYTEST = ("-m", "pytest", "-p", "benchmarks.gpu_run.pytest_lines", "-p", "no:cacheprovider", "-q", "--tb=short")


class Stage(NamedTuple):
    """One stage.

    Attributes:
        budget: seconds after which it is stopped; the last stage of a run has what is left.
        expected: seconds on 16 cores and an H200, estimated (docs/gpu.md has the arithmetic).
        what: it finds out.
        tests: what pytest is given; the stage's items are its tests.
    """

    name: str
    budget: float
    expected: float
    what: str
    tests: tuple[str, ...] = ()


#: `make gpu-run`: 455 s in all
FIRST = (
    Stage("build", 90, 50, "the compiled module, for this GPU alone"),
    Stage("smoke", 40, 20, "every op in every dtype: error against float64, bits in other batches"),
    Stage("sanitizer", 60, 45, "compute-sanitizer: accesses out of bounds, races"),
    Stage("model smoke", 60, 40, "whole models: numbers, captured steps that follow a change, CUDA graphs recorded"),
    Stage("op times", 50, 30, "what a layer launches, at 64, 1 and 8 tokens, in a graph, from memory"),
    Stage("whole model", 105, 85, "decode steps, prefill and training of an 8B shape, bare and with personalities"),
    Stage(
        "tests cuda",
        50,
        40,
        "tests that need a GPU, CUDA kernels",
        (*MODEL_TESTS, *KERNEL_TESTS, "-k", "cuda or on_gpu"),
    ),
)
#: `make gpu-rest`: what a second run is for
REST = (
    Stage("tests triton", 240, 120, "tests that need a GPU, Triton's kernels", (*KERNEL_TESTS, "-k", "triton")),
    Stage("rivals", 120, 90, "the whole model beside PEFT and merged weights"),
    Stage("profile", 60, 40, "Nsight Compute on the flagship's kernels"),
)
ALL = {stage.name: stage for stage in (*FIRST, *REST)}


def command(stage: Stage, out: Path, rehearsal: bool) -> list[str]:
    """The process that does a stage (not for "build")."""
    if stage.tests:
        workers = "2" if rehearsal else "8"
        return [
            sys.executable,
            *PYTEST,
            "-n",
            workers,
            "-m",
            "not slow",
            "--continue-on-collection-errors",
            *stage.tests,
        ]
    more = ["--rehearsal"] if rehearsal else []
    return [sys.executable, "-m", "benchmarks.gpu_run.worker", stage.name, "--out", str(out), *more]
