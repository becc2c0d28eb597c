"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from dpg_fast.kernels import dispatch


def machine(device: str) -> dict[str, str]:
    """Processor or GPU, threads, versions and the compiled module's settings."""
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for package in ("torch", "transformers", "peft"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    build = dispatch.build_info()
    found["compiled module"] = f"{build['isa']}, {build['compiler']}" if build["compiled"] else build["reason"]
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
