"""Every block of docs/assessment.md: the commands run on a tiny model, the Python runs as written, the JSON is read."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.evaluation.harness_tasks import TASKS, tasks_folder
from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.judges.agreement import read_ratings
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import bundled_inventory, parse_inventory
from tests.evaluation.test_drift import LengthJudge
from tests.support import ROOT

TEXT = (ROOT / "docs" / "assessment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S)
LINES = [line for kind, code in BLOCKS if kind == "bash" for line in code.splitlines() if line.strip()]
COMMANDS = [shlex.split(line) for line in LINES if line.startswith("dpg-fast")]
QUICK = {
    "questionnaire": ["--population", "3", "--forms", "2", "--batch-size", "64", "--inventory", "six.jsonl"],
    "compare": ["--resamples", "5"],
    "agreement": ["--resamples", "5"],
    "drift": ["--limit", "2", "--max-new-tokens", "3"],
}


@pytest.fixture
def model(tiny_llama: Any) -> PersonalityModel:
    wrapped = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(wrapped.hypernet, HyperNetwork)
    wrapped.hypernet.randomize_(torch.Generator().manual_seed(0))
    return wrapped.eval()


def test_no_block_is_of_an_unknown_kind() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "json"}
    assert {words[2] for words in COMMANDS} == set(QUICK)


@pytest.mark.slow
def test_commands_run_one_after_the_other(
    model: PersonalityModel, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpg_fast.cli.questionnaire._load", lambda *_: (model, byte_tokenizer))
    monkeypatch.setattr("dpg_fast.judges.choice.JudgeChoice.make", lambda *_: LengthJudge())
    items = bundled_inventory().items
    replace(bundled_inventory(), items=(*items[:2], *items[12:14], *items[24:26])).save(tmp_path / "six.jsonl")
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        rows = [{"id": n, "scores": {t.value: float(rng.integers(-5, 6)) for t in Trait}} for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in COMMANDS:
        quick = [word for word in QUICK[words[2]]]
        result = CliRunner().invoke(app, [*words[1:], *quick])
        assert result.exit_code == 0, f"{words}: {result.output}"
        for option in ("--out", "--report"):
            if option in words:
                assert (tmp_path / words[words.index(option) + 1]).exists()
    for folder in ("report", "comparison", "agreement", "chat_report", "both"):
        assert "<script" not in (tmp_path / folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_blocks_run(
    model: PersonalityModel, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpg_fast.cli.demo.load_demo_model", lambda: (model, byte_tokenizer))
    for kind, code in BLOCKS:
        if kind == "python":
            exec(compile(code, "assessment.md", "exec"), {"__name__": "docs"})
    assert (tmp_path / "mine" / "report.html").is_file()
    assert -5 <= float(capsys.readouterr().out.split()[-1]) <= 5


def test_json_blocks_are_read(tmp_path: Path) -> None:
    first, second = (code for kind, code in BLOCKS if kind == "json")
    assert [item.reverse for item in parse_inventory(first, "docs").items] == [False, True]
    (tmp_path / "judge.jsonl").write_text(second, encoding="utf-8")
    (scores,) = read_ratings(tmp_path / "judge.jsonl").scores.values()
    assert scores[Trait.EXTRAVERSION.position] == -3 and np.isfinite(scores).sum() == 1


def test_harness_command_is_understood() -> None:
    pytest.importorskip("lm_eval")
    from lm_eval._cli.harness import HarnessCLI

    (line,) = (line for line in LINES if line.startswith("lm_eval"))
    folder = str(tasks_folder())
    words = shlex.split(line.replace('"$(python -m dpg_fast.evaluation.harness_tasks)"', folder))
    options = HarnessCLI()._parser.parse_args(words[1:])
    assert options.include_path == folder and set(",".join(options.tasks).split(",") if isinstance(
        options.tasks, list) else options.tasks.split(",")) == set(TASKS)  # fmt: skip


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python")])
def test_script_lines_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    spec = importlib.util.spec_from_file_location("documented_script", ROOT / words[1])
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", words[1:])
    assert str(script.parse().out) == words[words.index("--out") + 1]
