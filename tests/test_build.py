"""The package as it is built: one wheel with the compiled module; building needs neither torch nor nvcc."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.docs import load_script

needs_backend = pytest.mark.skipif(
    importlib.util.find_spec("scikit_build_core") is None or importlib.util.find_spec("pybind11") is None,
    reason="building needs scikit-build-core and pybind11",
)


def test_build_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not any("torch" in r for r in project["build-system"]["requires"])
    for source in (ROOT / "csrc").rglob("*.*"):
        includes = re.findall(r'#include [<"]([^">]+)', source.read_text())
        assert not any(i.startswith(("torch/", "ATen/", "c10/")) for i in includes), source


def test_only_the_bindings_know_python() -> None:
    for source in (ROOT / "csrc").rglob("*.*"):
        if source.name not in ("bindings.cpp", "bindings_ops.cpp", "bindings_cuda.cpp", "launchers.h", "view.h"):
            assert "pybind11" not in source.read_text() and "Python.h" not in source.read_text(), source


def test_version_is_stated_once() -> None:
    import dpg_fast

    parsed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in parsed["project"] and parsed["project"]["dynamic"] == ["version"]
    assert parsed["tool"]["scikit-build"]["metadata"]["version"]["input"] == "dpg_fast/__init__.py"
    assert dpg_fast.__version__ == load_script("release.py").version()


def test_kernel_translation_units_hold_no_shared_code() -> None:
    """Standard templates compiled with AVX-512 could be picked by the linker for machines without it."""
    for name in ("kernels.h", "vec_generic.h", "vec_avx2.h", "vec_avx512.h", "vec_math.h", "args.h"):
        text = (ROOT / "csrc" / "cpu" / name).read_text()
        assert not re.search(r"#include <(vector|string|algorithm|functional|memory|map)>", text), name


@pytest.mark.slow
@needs_backend
def test_wheel_without_nvcc(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-build-isolation", "--no-deps", "--quiet",
        "--wheel-dir", str(tmp_path / "wheels"),
        "--config-settings", "cmake.define.DPG_FAST_CUDA=OFF",
        "--config-settings", "cmake.build-type=Debug",
        "--config-settings", f"build-dir={tmp_path / 'build'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    wheels = list((tmp_path / "wheels").iterdir())
    assert len(wheels) == 1 and wheels[0].name.startswith("dpg_fast-")
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        compiled = [n for n in names if re.fullmatch(r"dpg_fast/_C\..*(so|pyd)", n)]
        assert len(compiled) == 1, names
        assert "dpg_fast/py.typed" in names and "dpg_fast/kernels/__init__.py" in names
        assert any(n.endswith("licenses/LICENSE") for n in names)
        kept = (".json", ".jsonl", ".safetensors")
        assets = [p.relative_to(ROOT).as_posix() for p in (ROOT / "dpg_fast").rglob("*") if p.suffix in kept]
        assert set(assets) <= set(names)
        assert not any(n.startswith(("csrc", "tests", "benchmarks", "build")) for n in names)
        module = Path(wheel.extract(compiled[0], tmp_path))
    assert b"libtorch" not in module.read_bytes()
    code = f"""
import torch, importlib.util
spec = importlib.util.spec_from_file_location("_C", {str(module)!r})
C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(C)
from dpg_fast.kernels._cpu import _samples
assert not C.bind_torch(torch.Tensor, torch.nn.Parameter, torch.is_inference_mode_enabled, _samples())
u = torch.empty(2, 2)
x, A, codes = torch.ones(2, 4), torch.ones(3, 2, 4), torch.ones(1, 3)
assert C.lora_shrink(u, x, A, codes, torch.tensor([0, -1], dtype=torch.int32))
print(u.tolist(), repr(C.cuda_archs))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "[[12.0, 12.0], [0.0, 0.0]] ''", ran.stdout + ran.stderr


def test_console_script_is_declared() -> None:
    try:
        entry_points = metadata.entry_points(group="console_scripts", name="dpg-fast")
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    if not entry_points:
        pytest.skip("the package is not installed")
    assert next(iter(entry_points)).value == "dpg_fast.cli.app:main"
