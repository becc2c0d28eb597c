"""python/gpu.py, which builds, tests and measures on machines without pip: what can be tried without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module whose folders are temporary."""
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "python" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "THIRD_PARTY", tmp_path / "third_party")
    monkeypatch.setattr(module, "WHEELS", tmp_path / "third_party" / "wheels")
    monkeypatch.setattr(module, "SITE", tmp_path / "site")
    return module


@pytest.mark.slow
def test_tests_run_and_leave_their_logs(tmp_path: Path) -> None:
    command = [sys.executable, "python/gpu.py", "test", "--no-build", "--out", str(tmp_path / "out")]
    command.append("tests/kernels/test_testing.py")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in (tmp_path / "out" / "test.log").read_text()
    assert "<testsuite" in (tmp_path / "out" / "junit.xml").read_text()


@pytest.mark.slow
def test_benchmarks_run_in_their_quick_form(tmp_path: Path) -> None:
    command = [sys.executable, "python/gpu.py", "bench", "--no-build", "--quick", "--device", "cpu"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    for suite in ("kernels", "model"):
        assert json.loads((tmp_path / f"{suite}_cpu.json").read_text())["results"]


def test_a_command_that_takes_too_long_is_stopped(gpu: ModuleType, tmp_path: Path) -> None:
    machine = gpu.Machine(tmp_path / "out", 1.5)
    start = time.monotonic()
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    assert machine.run([sys.executable, "-c", code], "x.log") == 124
    assert time.monotonic() - start < 20
    log = (tmp_path / "out" / "x.log").read_text()
    assert "begun" in log and "stopped after" in log
    assert machine.run([sys.executable, "-c", ""], "x.log") == 124  # no time is left


def test_a_missing_module_comes_from_its_wheel(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        gpu, "CARRIED", {"no_such_module": "no-such-module", "other_absent": "other-absent", "json": "json"}
    )
    gpu.WHEELS.mkdir(parents=True)
    with zipfile.ZipFile(gpu.WHEELS / "no_such_module-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("no_such_module/__init__.py", "here = True\n")
    assert gpu.unpack_missing() == ["other_absent"]
    machine = gpu.Machine(tmp_path / "out", 60)
    assert machine.run([sys.executable, "-c", "import no_such_module; assert no_such_module.here"], "x.log") == 0


def test_what_is_missing_is_said(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("DPG_FAST_CUDA", "OFF")
    assert gpu.main(["test", *out]) == 2
    assert "cmake is not on PATH" in capsys.readouterr().err
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert gpu.main(["test", "--no-build", *out]) == 2
    assert "the tests need pytest" in capsys.readouterr().err


def test_make_targets_take_another_folder() -> None:
    command = ["make", "--dry-run", "-C", str(ROOT), "test-gpu", "bench-gpu", "OUT=/elsewhere", "PYTHON=python9"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MAKEFLAGS": ""})
    assert "python9 python/gpu.py test --out /elsewhere" in done.stdout
    assert "python9 python/gpu.py bench --out /elsewhere" in done.stdout
