"""What a bare GPU machine may lack, in third_party/: wheels, pybind11's headers, Python's headers.

Needs the standard library alone, since it runs before anything else there.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
THIRD_PARTY = ROOT / "third_party"
WHEELS = THIRD_PARTY / "wheels"
SITE = ROOT / "build" / f"gpu-site-{sys.version_info.major}.{sys.version_info.minor}"
LARGEST = 60 << 20  # bytes of third_party/ that may travel beside the sources

#: module -> distributions that are unpacked together when it is missing
CARRIED = {
    "pydantic": ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    "pytest": ("pytest", "pluggy", "iniconfig", "pygments", "packaging"),
    "xdist": ("pytest-xdist", "execnet"),
    "hypothesis": ("hypothesis", "sortedcontainers"),
    "peft": ("peft", "psutil"),
    "liger_kernel": ("liger-kernel",),
}
#: without these a run cannot begin
NEEDED = ("pydantic", "pytest", "xdist", "hypothesis")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class Stop(Exception):
    """A run that cannot go on; the message is for people."""


def fill(python: str | None = None) -> None:
    """Download the wheels, unpack pybind11, copy the headers of a Python 3.12.

    Args:
        python: whose headers are copied; by default the first 3.12 that works.

    Raises:
        Stop: pip fails, or third_party/ became larger than `LARGEST`.
    """
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(WHEELS)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    # pydantic names one version of its core; whatever needs torch must not bring it
    names = [name for group in CARRIED.values() for name in group if name not in CARRIED["pydantic"]]
    for words in (["pydantic"], ["--no-deps", "pybind11>=2.13", *names]):
        if subprocess.run([*command, *words], cwd=ROOT).returncode:
            raise Stop("pip could not download the wheels")
    shutil.rmtree(THIRD_PARTY / "pybind11", ignore_errors=True)
    wheel = max(WHEELS.glob("pybind11-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(THIRD_PARTY, [name for name in archive.namelist() if name.startswith("pybind11/")])
    wheel.unlink()
    _copy_headers(python)
    for path in sorted(THIRD_PARTY.glob("wheels/*")):
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.relative_to(ROOT)}")
    size = sum(path.stat().st_size for path in THIRD_PARTY.rglob("*") if path.is_file())
    print(f"{size / (1 << 20):.1f} MiB in {THIRD_PARTY.relative_to(ROOT)}; at most {LARGEST >> 20} may travel")
    if size > LARGEST:
        raise Stop(
            f"third_party/ holds {size / (1 << 20):.1f} MiB, more than {LARGEST >> 20}; delete what is not needed"
        )


def pythons() -> Iterator[str]:
    """Where a Python 3.12 may be: on PATH, and among pyenv's versions (whose shim fails for versions not selected)."""
    if found := shutil.which("python3.12"):
        yield found
    for root in (Path.home() / ".pyenv", Path("/opt/pyenv")):
        yield from map(str, sorted(root.glob("versions/3.12*/bin/python3.12"), reverse=True))


def python_3_12() -> str | None:
    """The first of `pythons` that runs and is 3.12."""
    return next((path for path in pythons() if (asked := _include(path)) and asked[0] == "3.12"), None)


def _include(python: str) -> tuple[str, Path] | None:
    """Its version and its folder of headers; None if it does not run."""
    code = "import sys, sysconfig; print(*sys.version_info[:2], sep='.'); print(sysconfig.get_path('include'))"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    if asked.returncode:
        return None
    version, include = asked.stdout.split("\n")[:2]
    return version, Path(include)


def _copy_headers(python: str | None) -> None:
    chosen = python or python_3_12()
    asked = None if chosen is None else _include(chosen)
    if asked is None or not (asked[1] / "Python.h").exists():
        print(f"no {python or 'Python 3.12'} with headers here: they are not carried (most machines have their own)")
        return
    copy = THIRD_PARTY / f"python{asked[0]}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(asked[1], copy)
    print(f"{copy.relative_to(ROOT)}: headers of {chosen}")


def unpack_missing() -> list[str]:
    """Unpack the carried wheels of each module that this Python lacks, and let this process see them.

    Returns:
        The modules that remain absent.

    Raises:
        Stop: one of `NEEDED` is among them.
    """
    absent = []
    if SITE.exists():
        _see(SITE)
    for module, distributions in CARRIED.items():
        if importlib.util.find_spec(module) is not None:
            continue
        wheels = [wheel for name in distributions for wheel in sorted(WHEELS.glob(f"{name.replace('-', '_')}-*.whl"))]
        if not wheels:
            absent.append(module)
            continue
        SITE.mkdir(parents=True, exist_ok=True)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(SITE)
        _see(SITE)
    if missing := [module for module in NEEDED if module in absent]:
        raise Stop(
            f"{', '.join(missing)}: neither installed nor in third_party/wheels; run `make gpu-headers` where there is a "
            "network, and bring third_party/ along"
        )
    return absent


def _see(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def include_arguments() -> list[str]:
    """For CMake: where the carried headers are, if this Python has none of its own.

    Raises:
        Stop: headers that the build needs are nowhere.
    """
    found: list[str] = []
    include = Path(sysconfig.get_path("include"))
    carried = THIRD_PARTY / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (include / "Python.h").exists():
        if not (carried / "Python.h").exists():
            raise Stop(
                f"Python.h is neither in {include} nor in {carried.relative_to(ROOT)}: run `make gpu-headers` first"
            )
        found.append(f"-DPython_INCLUDE_DIR={carried}")
    if importlib.util.find_spec("pybind11") is None and not (THIRD_PARTY / "pybind11").exists():
        raise Stop("pybind11 is missing: run `make gpu-headers` where there is a network, and bring third_party/ along")
    return found
