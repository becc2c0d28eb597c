"""Recipes load, and the commands of their README are understood."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.train import load_settings
from tests.support import ROOT

RECIPES = ROOT / "recipes"
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", (RECIPES / "README.md").read_text(encoding="utf-8"), re.M | re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
TRAINING = [f for f in sorted(RECIPES.glob("*.yaml")) if "hypernet" in yaml.safe_load(f.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_recipes_load(file: Path) -> None:
    load_settings(file)


@pytest.mark.parametrize("line", [line for line in LINES if "train_hypernet.py" in line])
def test_training_commands(line: str) -> None:
    words = shlex.split(line)
    named = words[words.index("--config") + 1]
    load_settings(ROOT / named, words[words.index("--config") + 2 :])


@pytest.mark.parametrize("line", [line for line in LINES if "evaluate_dpg.py" in line])
def test_evaluation_commands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("evaluate_dpg", ROOT / "python" / "evaluate_dpg.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = shlex.split(line)
    monkeypatch.setattr("sys.argv", words[1:])
    assert module.parse().adapter


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("dpg-fast data scripts")])
def test_data_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--dry-run"], env={"COLUMNS": "160"})
    assert result.exit_code == 0 and "Nothing was sent or written" in result.output, result.output


def test_every_kind_of_command_is_there() -> None:
    assert len(TRAINING) >= 2 and {"dpg-fast", "accelerate", "python"} <= {line.split()[0] for line in LINES}
