"""The whole run without a GPU: in a Python with the GPU machine's versions, over the emulator of the CUDA kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_run.carried import ROOT, THIRD_PARTY, Stop, fill, python_3_12
from benchmarks.gpu_run.stages import Stage

VENV = ROOT / ".venv-gpu"
VERSIONS = ROOT / "requirements" / "gpu-machine.txt"
#: brought by typer, which the machine has in a version without it
ABSENT = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typer")
SECONDS = 1200.0  # two cores, and an emulator in place of a GPU


def rehearse(out: Path, stages: Sequence[Stage]) -> int:
    """The exit status of the run.

    Raises:
        Stop: a Python like the GPU machine's cannot be had here.
    """
    python = replica()
    if not (THIRD_PARTY / "wheels").exists():
        fill()
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(python),
        "-m",
        "benchmarks.gpu_run",
        "run",
        "--rehearsal",
        "--out",
        str(out),
        "--limit",
        str(SECONDS),
    ]
    return subprocess.run(
        [*command, "--stages", *(stage.name for stage in stages)], cwd=ROOT, env=_environment()
    ).returncode


def replica() -> Path:
    """The Python of `VENV`, made or brought to the versions in `VERSIONS` first.

    Raises:
        Stop: there is no Python 3.12, or pip fails.
    """
    python, stamp = VENV / "bin" / "python", VENV / ".versions"
    wanted = VERSIONS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    base = python_3_12()
    if base is None:
        raise Stop(
            "a rehearsal needs Python 3.12, as the GPU machine has it: none works on PATH or among pyenv's versions"
        )
    print(f"{VENV.relative_to(ROOT)}: a Python with the GPU machine's versions (5 GB, several minutes)", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    for words in (
        [base, "-m", "venv", "--clear", str(VENV)],
        [*pip, "install", "--quiet", "--no-compile", "-r", str(VERSIONS)],
        [*pip, "uninstall", "--quiet", "--yes", *ABSENT],
    ):
        if subprocess.run(words, cwd=ROOT, env=_environment()).returncode:
            raise Stop(f"a rehearsal needs packages from the network, and this failed: {' '.join(words)}")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }


if __name__ == "__main__":
    try:
        print(replica())
    except Stop as reason:
        sys.exit(f"error: {reason}")
