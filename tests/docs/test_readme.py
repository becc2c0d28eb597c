"""Every code block of the README runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.cli.demo import adapter_directory
from tests.support import ROOT

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines() if line.strip()]

SLOW = ("benchmarks", "find", "calibrate", "--question")


def test_no_block_is_of_an_unknown_kind() -> None:
    assert {language for language, _ in BLOCKS} <= {"python", "bash", "mermaid"}
    assert PYTHON and SHELL


def test_python_blocks_run_in_order(smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "readme"}
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), scope)


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow if any(word in line for word in SLOW) else ()) for line in SHELL]
)
def test_shell_lines(line: str, smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    """Commands of the project run for real; building blocks that install or test are only resolved."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        command = ["make", "--dry-run", "-C", str(ROOT), *words[1:]]
    elif words[0] == "pip":
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", *words[2:]]
    elif words[0] == "dpg-fast":
        quick = ["--max-new-tokens", "4", "--no-speed"] if words[1] == "demo" else []
        quick += ["--traits", "E", "--repeats", "1", "--max-new-tokens", "2"] if words[2:3] == ["find"] else []
        if words[2:3] == ["calibrate"]:
            shutil.copytree(adapter_directory(), tmp_path / words[3])
            quick += ["--traits", "E", "--questions", "1", "--steps", "2", "--max-new-tokens", "2"]
        command = [sys.executable, "-c", "from dpg_fast.cli.app import main; main()", *words[1:], *quick]
    elif words[:2] == ["python", "-m"]:
        command = [sys.executable, *words[1:], "--rounds", "1"]
    else:
        raise AssertionError(f"no way to run {line!r}")
    in_root = words[0] in ("pip", "python")
    found = subprocess.run(command, cwd=ROOT if in_root else tmp_path, capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stdout + found.stderr
