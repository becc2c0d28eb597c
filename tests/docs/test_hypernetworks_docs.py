"""The commands of docs/hypernetworks.md are understood, and the comparison runs from end to end."""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_measuring_docs import _script
from tests.support import ROOT

TEXT = (ROOT / "docs" / "hypernetworks.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]
SCRIPT = ROOT / "python" / "evaluate_dpg.py"


@pytest.mark.parametrize("line", LINES)
def test_documented_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = shlex.split(line)
    monkeypatch.setattr(sys, "argv", words[1:])
    script = _script(ROOT / words[1])
    options = script.parse()
    if words[1] == "python/evaluate_dpg.py":
        plan = script.make_plan(options)
        assert plan.tasks and str(options.output) == "out"
    else:
        assert options.overrides or options.config


def test_the_script_ends_with_a_line_instead_of_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _script(SCRIPT)

    def load(name: str) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(script, "load_base", load)
    out = str(tmp_path / "out")
    for arguments, message in (
        (["--adapter", str(tmp_path)], "is not an adapter"),
        (["--lora", str(tmp_path)], "no PEFT adapter"),
        (["--adapter", "="], "NAME=DIR"),
        (["--tasks", "scripted"], "needs records"),
        (["--tasks", "new", "--trained", str(tmp_path / "none")], "none"),
        (["--api-model", "m", "--api-parameters", "[1]"], "JSON object"),
        (["--judge", "openai"], "--judge-model"),
        (["--traits", "XY"], "O, C, E, A, N"),
    ):
        monkeypatch.setattr(sys, "argv", ["evaluate_dpg.py", out, *arguments])
        with pytest.raises(SystemExit, match="2"):
            script.main()
        error = capsys.readouterr().err
        assert error.startswith("evaluate_dpg.py: ") and message in error
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_price_and_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _script(SCRIPT)
    monkeypatch.setattr(script, "load_base", lambda name: pytest.fail("the model was loaded"))
    prices = tmp_path / "prices.json"
    prices.write_text('{"models": {"m": {"input": 1, "output": 2}}}')
    api = ["--api-model", "m", "--api-url", "http://127.0.0.1:1/v1", "--prices", str(prices), "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["evaluate_dpg.py", str(tmp_path / "out"), "--people", "3", *api])
    script.main()
    said = capsys.readouterr().out
    # 12 questions at 5 levels for 5 traits, and 3 people with 5 questions
    assert "315" in said and "USD" in said and "Nothing was sent" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_comparison_runs_on_smollm2(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    script = _script(SCRIPT)
    monkeypatch.setattr(script, "load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1]))
    monkeypatch.setattr("dpg_fast.evaluation.figures.RESAMPLES", 50)
    out = tmp_path / "out"
    bounds = ["--traits", "E", "--questions", "1", "--levels", "-5", "5", "--people", "2", "--max-new-tokens", "6"]
    bounds += ["--baselines", "prompt", "--both", "--capability-tasks", "words", "--capability-items", "2"]
    bounds += ["--line", "E-5 > E5", "--line-questions", "1", "--tasks", "questions", "new", "interpolation"]
    monkeypatch.setattr(sys, "argv", ["evaluate_dpg.py", str(out), *bounds])
    script.main()
    report = (out / "report.md").read_text(encoding="utf-8")
    for expected in ("neurons + hypernetwork", "simple prompt", "What it costs", "words (n = 2)", "weak judge"):
        assert expected in report
    assert str(tmp_path) not in report and "Written to" in capsys.readouterr().out
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(found["mean_spearman"]) == {"questions", "new"} and "neurons" in found["differences"]["new"]
    assert (out / "interpolation" / "report.html").is_file()
