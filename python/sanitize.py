"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer (GCC): `make sanitize`.

Builds the compiled module in build/sanitize and puts it in the place of dpg_fast._C for: two planted faults, which must be
caught, the tests of tests/kernels that use it, and the mutation sweep. A report is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"
REPORT = ("ERROR: AddressSanitizer", "runtime error:")

#: Planted in a build with DPG_FAST_SANITIZE, with the words of the report.
FAULTS = {"write_behind": (8, "heap-buffer-overflow"), "add_one": (2**63 - 1, "signed integer overflow")}

#: torch.compile, Triton's interpreter and emulated GPUs do not use the compiled module.
TESTS = ["-m", "not slow", "-k", "not compile and not triton and not cuda and not accelerators", "tests/kernels"]
SWEEP = 5000


def build() -> None:
    """Configures and compiles, about a minute."""
    cmake = [sys.executable, "-m", "cmake"]
    options = ["-DDPG_FAST_SANITIZE=ON", "-DDPG_FAST_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([*cmake, "-S", ROOT, "-B", BUILD, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*cmake, "--build", BUILD, "--parallel", "2"], check=True)


def environment() -> dict[str, str]:
    """For processes that load the instrumented module."""
    # The second, or ASan finds no function that throws: Python itself is not C++.
    names = ["-print-file-name=libasan.so", "-print-file-name=libstdc++.so.6"]
    libraries = [
        subprocess.run(["g++", name], check=True, capture_output=True, text=True).stdout.strip() for name in names
    ]
    return os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        # Python keeps memory to its end, and some tests ask for more memory than there is.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_WAIT_POLICY": "passive",
    }


def within(module: str, arguments: list[str]) -> None:
    """Runs a module, or a planted fault, with the instrumented dpg_fast._C in this process."""
    sys.path.insert(0, str(ROOT))
    import torch  # noqa: F401  first, as in dpg_fast/kernels/_cpu.py

    (path,) = BUILD.glob("_C.*.so")
    spec = importlib.util.spec_from_file_location("dpg_fast._C", path)
    assert spec is not None and spec.loader is not None
    compiled = sys.modules["dpg_fast._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiled)
    from dpg_fast.kernels import _cpu

    assert _cpu.C is compiled, _cpu.MISSING
    if module in FAULTS:
        getattr(compiled, module)(FAULTS[module][0])
    else:
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(tests: list[str]) -> int:
    """Status 1 after a report, a failed test or a planted fault that went unnoticed."""
    build()
    env = environment()

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-W", "ignore", __file__, "--within", *arguments]
        done = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, errors="replace")
        return done.returncode, done.stderr

    for fault, (_, words) in FAULTS.items():
        status, text = run(fault)
        if not status or words not in text:
            print(f"the planted fault {fault} was not reported:\n{text}")
            return 1
        print(f"planted fault {fault}: caught, {words}", flush=True)
    good = True
    # Not captured, since a report would go with the process that made it.
    for arguments in (
        ["pytest", "-q", "--capture=no", "-p", "no:cacheprovider", *(tests or TESTS)],
        ["tests.kernels.mutations", "--count", str(SWEEP)],
    ):
        status, text = run(*arguments)
        reported = any(words in text for words in REPORT)
        good = good and not status and not reported
        print(text if reported or status else f"{arguments[0]}: no report", flush=True)
    return int(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        within(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))
