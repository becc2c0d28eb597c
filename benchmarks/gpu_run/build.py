"""Build dpg_fast/_C inside the source tree, for the machine's own GPU alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_run.carried import ROOT, Stop, include_arguments

BUILD = ROOT / "build" / f"gpu-{sys.version_info.major}.{sys.version_info.minor}"
DEFAULT_ARCHITECTURE = "90a-real"  # H100, H200
#: the module may be there and yet refuse this torch
SERVES = """
import sys
from dpg_fast.kernels.dispatch import build_info
info = build_info()
print(info)
sys.exit(not (info["cuda_archs"] if {cuda} else info["compiled"]))
"""


def commands(environment: dict[str, str]) -> list[list[str]]:
    """CMake's two commands, and one that fails when the module cannot serve; nvcc's folder is put on the environment's PATH.

    Raises:
        Stop: a tool or header is missing.
    """
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    cuda = os.environ.get("DPG_FAST_CUDA", "ON")
    if nvcc is None and cuda == "ON":
        raise Stop("nvcc is neither on PATH nor in /usr/local/cuda/bin; the CUDA kernels cannot be built")
    if shutil.which("cmake") is None:
        raise Stop("cmake is not on PATH")
    if nvcc is not None:
        environment["PATH"] = os.pathsep.join([str(Path(nvcc).parent), environment.get("PATH", "")])
    configure = [
        "cmake",
        "-S",
        ".",
        "-B",
        str(BUILD),
        "-DDPG_FAST_IN_PLACE=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    configure += [f"-DDPG_FAST_CUDA={cuda}", f"-DCMAKE_CUDA_ARCHITECTURES={architecture()}"]
    configure += [*(["-G", "Ninja"] if shutil.which("ninja") else []), *include_arguments()]
    check = [sys.executable, "-c", SERVES.format(cuda=cuda == "ON")]
    return [configure, ["cmake", "--build", str(BUILD), "-j", str(os.cpu_count() or 2)], check]


def architecture() -> str:
    """Of the first GPU, as CMake names it; with the letter that opens Hopper's own instructions."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return DEFAULT_ARCHITECTURE
    asked = subprocess.run(
        [tool, "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
    )
    major, _, minor = (asked.stdout.splitlines() or [""])[0].strip().partition(".")
    if asked.returncode or not (major.isdecimal() and minor.isdecimal()):
        return DEFAULT_ARCHITECTURE
    return f"{major}{minor}{'a' if int(major) >= 9 else ''}-real"
