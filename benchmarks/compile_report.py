"""``python -m benchmarks.compile_report``: compile every CUDA and Triton kernel for its architectures, without a GPU.

Prints registers, shared memory, spills and stack of each kernel, as ptxas reports them. The exit status is 1 when something
does not compile, when a CUDA kernel or a Triton kernel for decoding spills registers, or when the machine code of a CUDA kernel
for sm_90a is not within the bounds of benchmarks/sass.py (where cuobjdump is found).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import sass
from dpg_fast.util.files import write_text

ROOT = Path(__file__).resolve().parent.parent
CUDA_ARCHS = {"sm_80": "arch=compute_80,code=sm_80", "sm_90a": "arch=compute_90a,code=sm_90a"}
TRITON_ARCHS = {"sm_80": 80, "sm_90": 90}
TARGETS = "dpg_fast.kernels.triton_targets"
BOUNDED_ARCH = "sm_90a"
NVCC_FLAGS = ("-cubin", "-std=c++17", "-O3", "-DNDEBUG", "-DDPG_CUDA", "-Xptxas", "-v")


@dataclass(frozen=True)
class Kernel:
    """What one kernel needs on one architecture.

    Attributes:
        registers: per thread.
        shared: bytes per block that are known when compiling.
        spill_stores, spill_loads, stack: bytes per thread. Where only their sum is known it is in spill_stores.
    """

    language: str
    source: str
    name: str
    arch: str
    registers: int
    shared: int
    spill_stores: int
    spill_loads: int
    stack: int

    @property
    def bad(self) -> bool:
        """A CUDA kernel, or a Triton kernel for decoding, that spills."""
        return (self.language == "CUDA" or "decode" in self.name.lower()) and self.spill_stores + self.spill_loads > 0


@dataclass(frozen=True)
class Failure:
    """What did not compile, and the compiler's words."""

    language: str
    source: str
    arch: str
    message: str


Found = Kernel | Failure

# ---------------------------------------------------------------- CUDA

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def read_ptxas(text: str, source: str) -> list[Kernel]:
    """The kernels in the output of ``ptxas -v``; names are demangled where a tool for that is found."""
    found: list[Kernel] = []
    for part in re.split(r"(?=^ptxas info\s*: Compiling entry function)", text, flags=re.M):
        entry, stack, used = _ENTRY.search(part), _STACK.search(part), _USED.search(part)
        if entry and stack and used:
            shared = _SHARED.search(part)
            frame, stores, loads = (int(n) for n in stack.groups())
            static = int(shared.group(1)) if shared else 0
            found.append(Kernel("CUDA", source, entry[1], entry[2], int(used[1]), static, stores, loads, frame))
    plain = demangle([kernel.name for kernel in found])
    return [Kernel(**{**asdict(kernel), "name": name}) for kernel, name in zip(found, plain, strict=True)]


def demangle(names: Sequence[str]) -> list[str]:
    """C++ names without arguments and namespaces; as they are when neither cu++filt nor c++filt is there."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        return list(names)
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    return [shorten(line) for line in done.stdout.splitlines()]


def shorten(name: str) -> str:
    """``void a::(anonymous namespace)::kernel<a::half, 8>(int, ...)`` as ``kernel<half, 8>``."""
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N_\w+::", "", name.removeprefix("void "))
    depth, end = 0, len(name)
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = position
            break
    return re.sub(r"\b(?:\w+::)+", "", name[:end])


def compile_cuda(source: Path, arch: str) -> list[Found]:
    """nvcc on one file for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *NVCC_FLAGS, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
        command += ["-gencode", CUDA_ARCHS[arch], "-o", str(Path(folder) / "out.cubin"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        text = done.stdout + done.stderr
        if done.returncode:
            return [Failure("CUDA", source.name, arch, text.strip()[-2000:])]
        found: list[Found] = list(read_ptxas(text, source.name))
        if arch == BOUNDED_ARCH and sass.disassembler():
            codes = sass.disassemble(Path(folder) / "out.cubin")
            for code, name in zip(codes, demangle([code.name for code in codes]), strict=True):
                found += [Failure("CUDA", f"{source.name}, {name}", arch, fault) for fault in sass.faults(code, name)]
    return found


def cuda_kernels(match: re.Pattern[str], jobs: int) -> Iterator[list[Found]]:
    """Every file in csrc/cuda whose name matches, for every architecture."""
    sources = [path for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu")) if match.search(path.name)]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda job: compile_cuda(*job), [(path, arch) for path in sources for arch in CUDA_ARCHS])


# ---------------------------------------------------------------- Triton


def _triton_names() -> list[str]:
    """In a worker: the names of all targets."""
    return [target.name for target in importlib.import_module(TARGETS).report_targets()]


def _compile_triton(index: int, name: str, arch: str) -> Found:
    """In a worker: one target for one architecture."""
    module = importlib.import_module(TARGETS)
    targets = _cached_targets(module)
    try:
        built = module.compile_target(targets[index], TRITON_ARCHS[arch])
    except Exception as error:  # the compiler's errors are of many classes; each is a failed kernel
        return Failure("Triton", name, arch, f"{type(error).__name__}: {error}"[:2000])
    stores = getattr(built, "spill_stores", None)
    loads = getattr(built, "spill_loads", 0)
    if stores is None:
        stores, loads = built.spilled, 0
    return Kernel("Triton", name.split("/")[0], name, arch, built.registers, built.shared, stores, loads, built.stack)


_targets: list[Any] = []


def _cached_targets(module: Any) -> list[Any]:
    if not _targets:
        _targets.extend(module.report_targets())
    return _targets


def triton_kernels(match: re.Pattern[str], jobs: int) -> Iterator[list[Found]]:
    """Every target whose name matches, for every architecture.

    Fresh processes compile, without TRITON_INTERPRET: kernels defined for the interpreter cannot be compiled.
    """
    before = os.environ.pop("TRITON_INTERPRET", None)
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            names = pool.submit(_triton_names).result()
            chosen = [(i, name) for i, name in enumerate(names) if match.search(name)]
            waiting = [pool.submit(_compile_triton, i, name, arch) for i, name in chosen for arch in TRITON_ARCHS]
            for future in waiting:
                yield [future.result()]
    finally:
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


def missing_cuda() -> str:
    """Why CUDA cannot be compiled here, or nothing."""
    return "" if shutil.which("nvcc") else "nvcc was not found"


def missing_disassembler() -> str:
    """Why machine code cannot be read here, or nothing."""
    return "" if sass.disassembler() else "cuobjdump was not found, neither on the path nor in the triton package"


def missing_triton() -> str:
    """Why Triton kernels cannot be compiled here, or nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return "" if importlib.util.find_spec(TARGETS) else f"{TARGETS} does not exist"


# ---------------------------------------------------------------- report


def table(kernels: Sequence[Kernel]) -> str:
    """Markdown."""
    head = "| language | kernel | arch | registers | shared | spill stores | spill loads | stack |"
    rows = [
        f"| {k.language} | `{k.name}`{' **spills**' if k.bad else ''} | {k.arch} | {k.registers} | {k.shared} | "
        f"{k.spill_stores} | {k.spill_loads} | {k.stack} |"
        for k in kernels
    ]
    return "\n".join([head, "|---|---|---|---:|---:|---:|---:|---:|", *rows]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Compile, print, save; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_report", description=__doc__)
    parser.add_argument("--only", choices=("cuda", "triton"), help="one language")
    parser.add_argument(
        "--match", type=re.compile, default=re.compile(""), help="file or target names (regular expression)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers running at once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--out", type=Path, help="directory for compile.md and compile.json")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    found: list[Found] = []
    skipped: dict[str, str] = {}
    for language, missing, compiler in (
        ("cuda", missing_cuda, cuda_kernels),
        ("triton", missing_triton, triton_kernels),
    ):
        if options.only not in (None, language):
            continue
        if reason := missing():
            skipped[language] = reason
            continue
        if language == "cuda" and (reason := missing_disassembler()):
            skipped["the bounds of the machine code"] = reason
        for batch in compiler(options.match, options.jobs):
            found += batch
            print(f"\r{len(found)} kernels", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    kernels = [item for item in found if isinstance(item, Kernel)]
    failures = [item for item in found if isinstance(item, Failure)]
    text = table(kernels)
    text += "".join(f"\nSkipped {language}: {reason}.\n" for language, reason in skipped.items())
    text += "".join(f"\nFAILED {f.language} {f.source} ({f.arch}):\n{f.message}\n" for f in failures)
    bad = [kernel for kernel in kernels if kernel.bad]
    text += "".join(f"\nFAILED {k.name} ({k.arch}): spills registers.\n" for k in bad)
    print(text)
    content = {
        "kernels": [asdict(kernel) for kernel in kernels],
        "failures": [asdict(failure) for failure in failures],
        "skipped": skipped,
    }
    for path in (options.json, options.out / "compile.json" if options.out else None):
        if path is not None:
            write_text(path, json.dumps(content, indent=1) + "\n")
    if options.out is not None:
        write_text(options.out / "compile.md", f"# Compiled kernels\n\n{text}")
    return 1 if failures or bad else 0


if __name__ == "__main__":
    sys.exit(main())
