"""NVIDIA's tools around small programs: compute-sanitizer and Nsight Compute, where the machine lets them work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu_run.carried import ROOT
from benchmarks.gpu_run.record import Item, Skip, Values

SMOKE = ("-m", "benchmarks.gpu_run.smoke")
PROFILED = ("-m", "benchmarks.gpu_run.op_times")
#: what the tools say where they cannot work: under gVisor, or without the right to read counters
REFUSALS = ("Device not supported", "LibraryNotLoaded", "ERR_NVGPUCTRPERM", "Failed to initialize the profiler")
NAMESPACE = "3dpg4cuda"  # in the mangled names of our kernels: torch's own are not watched
ERRORS = 9


def sanitizer_items(rehearsal: bool) -> Iterator[Item]:
    """Out-of-bounds accesses first, then races in shared memory."""
    for tool in ("memcheck", "racecheck"):
        options = ["--tool", tool, "--error-exitcode", str(ERRORS), "--kernel-name", f"kns={NAMESPACE}"]
        yield Item(tool, partial(_run, "compute-sanitizer", options, SMOKE, rehearsal, None))


def profile_items(rehearsal: bool, out: Path) -> Iterator[Item]:
    """Every section for the flagship's kernels; the text goes into a file of its own."""
    options = ["--set", "full", "--clock-control", "none", "--kernel-name-base", "mangled"]
    options += ["--kernel-name", f"regex:{NAMESPACE}", "--launch-count", "8"]
    yield Item("ncu", partial(_run, "ncu", options, PROFILED, rehearsal, out / "ncu.txt"))


def _run(tool: str, options: Sequence[str], program: Sequence[str], rehearsal: bool, file: Path | None) -> Values:
    found = shutil.which(tool) or shutil.which(f"/usr/local/cuda/bin/{tool}")
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or a tensor's neighbour hides its end
    before = [found, *options] if found and not rehearsal else []
    words = [*before, sys.executable, *program, *(["--rehearsal"] if rehearsal else [])]
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = done.stdout
    print(text[-6000:], flush=True)
    refused = next((line.strip() for line in text.splitlines() if any(word in line for word in REFUSALS)), None)
    if before and refused is not None:
        raise Skip(f"{tool} does not work on this machine: {refused}")
    if done.returncode:
        raise RuntimeError(f"{tool if before else program[1]} ended with status {done.returncode}: {_said(text)}")
    if not before:
        raise Skip(
            f"{tool} is not {'used in a rehearsal' if found else 'on this machine'}; the program itself has run to its end"
        )
    if file is not None:
        file.write_text(text, encoding="utf-8")
    return {"said": _said(text)}


def _said(text: str) -> str:
    """The summary, or else the last lines."""
    summary = [line for line in text.splitlines() if "SUMMARY" in line]
    return " / ".join(summary or [line for line in text.splitlines() if line.strip()][-3:])[-1500:]
