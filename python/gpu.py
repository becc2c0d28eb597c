"""Build, test and measure on a bare GPU machine: no pip, no network, no installed dpg_fast (see docs/gpu.md).

    python python/gpu.py headers                  # with a network: fill third_party/ with what such a machine lacks
    python python/gpu.py test --out build/gpu     # on the GPU machine: build in place, then tests/kernels and tests/model
    python python/gpu.py bench --out build/gpu    # likewise: build, then both benchmark suites

Needs nothing but the standard library. Each command ends within its time limit and writes logs and results to --out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THIRD_PARTY = ROOT / "third_party"
WHEELS = THIRD_PARTY / "wheels"
SITE = ROOT / "build" / "gpu-site"
BUILD = ROOT / "build" / f"gpu-{sys.version_info.major}.{sys.version_info.minor}"

#: module -> distribution, for what may be missing; those named together come together
CARRIED = {
    "pytest": "pytest", "pluggy": "pluggy", "iniconfig": "iniconfig", "pygments": "pygments", "packaging": "packaging",
    "hypothesis": "hypothesis", "sortedcontainers": "sortedcontainers", "peft": "peft", "psutil": "psutil",
    "liger_kernel": "liger-kernel",
}  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
KERNEL_SET = (
    "--models llama3-8b --sites down --tokens 1 8 64 2048 8192 --people 1 64 --dtype bfloat16 --budget 6 --rounds 9"
)


class Stop(Exception):
    """A run that cannot go on; the message is for people."""


class Machine:
    """The folder for results, the time that is left, and the environment of the commands."""

    def __init__(self, out: Path, limit: float) -> None:
        self.out = out
        self.end = time.monotonic() + limit
        out.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), *([str(SITE)] if SITE.exists() else []), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
        }
        self.environment.pop("TRITON_INTERPRET", None)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def run(self, command: Sequence[str], log: str, limit: float | None = None) -> int:
        """Run in the project's root, output to the screen and to a log; 124 when it was stopped for time."""
        seconds = min(self.left, limit or self.left)
        if seconds <= 0:
            print(f"no time is left for: {' '.join(command)}", flush=True)
            return 124
        print(f"$ {' '.join(command)}", flush=True)
        stopped = threading.Event()
        with (self.out / log).open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, text=True, errors="replace", start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip

            def stop() -> None:
                stopped.set()
                os.killpg(process.pid, signal.SIGKILL)

            timer = threading.Timer(seconds, stop)
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    file.write(line)
                    print(line, end="", flush=True)
                status = process.wait()
            finally:
                timer.cancel()
            if stopped.is_set():
                message = f"stopped after {seconds:.0f} s"
                file.write(message + "\n")
                print(message, flush=True)
                return 124
        return status


def headers(python: str) -> None:
    """Download wheels for Python 3.12 on Linux, unpack pybind11, copy Python's headers from `python` if it is there.

    Raises:
        Stop: pip fails.
    """
    WHEELS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(WHEELS)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    if subprocess.run([*command, "pybind11>=2.13", *CARRIED.values()], cwd=ROOT).returncode:
        raise Stop("pip could not download the wheels")
    target = THIRD_PARTY / "pybind11"
    shutil.rmtree(target, ignore_errors=True)
    wheel = max(WHEELS.glob("pybind11-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(THIRD_PARTY, [name for name in archive.namelist() if name.startswith("pybind11/")])
    wheel.unlink()
    print(f"{target.relative_to(ROOT)}: pybind11 from {wheel.name}")
    print(f"{WHEELS.relative_to(ROOT)}: {', '.join(sorted(path.name for path in WHEELS.glob('*.whl')))}")
    code = "import sys, sysconfig; print(*sys.version_info[:2], sep='.'); print(sysconfig.get_path('include'))"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        asked = None
    if asked is None or asked.returncode:
        print(f"no {python} here: Python's headers are not copied (most machines have their own)")
        return
    version, include = asked.stdout.split("\n")[:2]
    if (Path(include) / "Python.h").exists():
        copy = THIRD_PARTY / f"python{version}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(include, copy)
        print(f"{copy.relative_to(ROOT)}: headers of {python}")


def unpack_missing() -> list[str]:
    """Unpack the carried wheel of each module that this Python lacks; the modules that remain absent."""
    absent = []
    for module, distribution in CARRIED.items():
        if importlib.util.find_spec(module) is not None or (SITE / module).exists() or (SITE / f"{module}.py").exists():
            continue
        wheels = sorted(WHEELS.glob(f"{distribution.replace('-', '_')}-*.whl"))
        if not wheels:
            absent.append(module)
            continue
        SITE.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[-1]) as archive:
            archive.extractall(SITE)
    return absent


def build(machine: Machine) -> None:
    """Build dpg_fast/_C in place with CMake.

    Raises:
        Stop: a tool is missing, or the build fails.
    """
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    cuda = os.environ.get("DPG_FAST_CUDA", "ON")
    if nvcc is None and cuda == "ON":
        raise Stop("nvcc is neither on PATH nor in /usr/local/cuda/bin; the CUDA kernels cannot be built")
    if shutil.which("cmake") is None:
        raise Stop("cmake is not on PATH")
    if nvcc is not None:
        machine.environment["PATH"] = os.pathsep.join([str(Path(nvcc).parent), machine.environment.get("PATH", "")])
    command = ["cmake", "-S", ".", "-B", str(BUILD), "-DDPG_FAST_IN_PLACE=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-DDPG_FAST_CUDA={cuda}", *(["-G", "Ninja"] if shutil.which("ninja") else [])]
    include = Path(sysconfig.get_path("include"))
    carried = THIRD_PARTY / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (include / "Python.h").exists():
        if not (carried / "Python.h").exists():
            raise Stop(
                f"Python.h is neither in {include} nor in {carried.relative_to(ROOT)}: run `make gpu-headers` first"
            )
        command.append(f"-DPython_INCLUDE_DIR={carried}")
    if header := os.environ.get("DPG_PYBIND11_INCLUDE"):
        command.append(f"-DDPG_PYBIND11_INCLUDE={header}")
    elif importlib.util.find_spec("pybind11") is None and not (THIRD_PARTY / "pybind11").exists():
        raise Stop(
            "pybind11 is missing: run `make gpu-headers` where there is a network and bring third_party/ along, or set "
            "DPG_PYBIND11_INCLUDE to a folder that holds pybind11/pybind11.h"
        )
    jobs = str(os.cpu_count() or 2)
    for words in (command, ["cmake", "--build", str(BUILD), "-j", jobs]):
        if status := machine.run(words, "build.log", 300):
            raise Stop(f"the build failed with status {status}; see {machine.out / 'build.log'}")


def describe(machine: Machine, absent: Sequence[str]) -> None:
    """Print what the run happens on."""
    code = (
        "import torch; g = torch.cuda.is_available(); print('torch', torch.__version__, 'CUDA', torch.version.cuda, '|', "
        "torch.cuda.get_device_name() if g else 'no GPU is available')"
    )
    machine.run([sys.executable, "-c", code], "build.log", 120)
    if absent:
        names = ", ".join(absent)
        print(f"absent: {names} (neither installed nor in third_party/wheels); what needs them is left out or fails")


def test(machine: Machine, arguments: Sequence[str]) -> int:
    """Run the tests of kernels and model.

    Raises:
        Stop: pytest is missing.
    """
    found = [SITE, *(Path(path) for path in sys.path)]
    if not any((path / "pytest").is_dir() for path in found):
        raise Stop(
            "the tests need pytest, which is neither installed nor in third_party/wheels: run `make gpu-headers` where there is "
            "a network and bring third_party/ along"
        )
    which = list(arguments) or ["tests/kernels", "tests/model"]
    junit = machine.out / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "15"]
    return machine.run([*command, f"--junitxml={junit}", *which], "test.log")


def bench(machine: Machine, device: str, quick: bool) -> int:
    """Run the kernel suite on a bounded set and the model suite."""
    command = [sys.executable, "-m", "benchmarks.run", "--device", device, "--out", str(machine.out)]
    small = ["--quick"] if quick else []
    share = 0.55 * machine.left
    kernels = ["--suite", "kernels", *(small or KERNEL_SET.split()), "--time-limit", f"{share - 15:.0f}"]
    first = machine.run([*command, *kernels], "bench.log", share + 30)
    model = ["--suite", "model", *small, "--time-limit", f"{machine.left - 20:.0f}"]
    second = machine.run([*command, *model], "bench.log")
    return first or second


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and run one command; 2 when something that it needs is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("headers", "test", "bench"))
    parser.add_argument("tests", nargs="*", help="for test: what pytest is given (default: tests/kernels tests/model)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder for logs and results")
    parser.add_argument("--limit", type=float, default=530.0, help="seconds for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="for bench")
    parser.add_argument("--quick", action="store_true", help="for bench: tiny shapes")
    parser.add_argument("--python", default="python3.12", help="for headers: the interpreter whose headers are copied")
    parser.add_argument("--no-build", action="store_true", help="use dpg_fast/_C as it is")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.command == "headers":
            headers(options.python)
            return 0
        absent = unpack_missing()
        machine = Machine(options.out.resolve(), options.limit)
        describe(machine, absent)
        if not options.no_build:
            build(machine)
        status = (
            test(machine, options.tests) if options.command == "test" else bench(machine, options.device, options.quick)
        )
    except Stop as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    print(f"results in {machine.out}; status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
