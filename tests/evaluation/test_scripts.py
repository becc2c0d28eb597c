"""`dpg-fast evaluate` runs from end to end, and ends with one line where the input is wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dpg_fast.cli.app import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_evaluation_script_compares_both_shipped_adapters_and_can_leave_tasks_out(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpg_fast.evaluation.trait_run.load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1]))
    out = tmp_path / "out"
    bounds = ["--questions", "1", "--traits", "E", "--levels", "-5,5", "--methods", "neurons,hypernet"]
    more = ["--max-new-tokens", "4", "--no-cross-traits", "--no-capability"]
    result = run("traits", "--out", str(out), *bounds, *more)
    assert result.exit_code == 0, result.output
    raw = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert set(raw["figures"]) == {"bare", "neurons", "hypernetwork"} and raw["capability"] is None
    assert "Capability was left out" in (out / "report.md").read_text(encoding="utf-8")
    heads = [json.loads((out / "answers" / f"{name}.jsonl").open().readline()) for name in ("neurons", "hypernetwork")]
    assert [set(head["about"]["adapter"]) for head in heads] == [{"neurons.safetensors"}, {"hypernet.safetensors"}]
    refused = run("traits", "--out", str(tmp_path / "no"), *bounds[:-1], "adapter")
    assert refused.exit_code == 2 and "both neurons and a hypernetwork" in refused.output


@pytest.mark.slow
def test_evaluation_script_end_to_end(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpg_fast.evaluation.trait_run.load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1]))
    out = tmp_path / "out"
    bounds = [
        "--questions",
        "2",
        "--traits",
        "E",
        "--levels",
        "-5,5",
        "--methods",
        "neurons",
        "--max-new-tokens",
        "6",
        "--capability-tasks",
        "facts",
        "--capability-items",
        "2",
    ]
    result = run("traits", "--out", str(out), *bounds)
    assert result.exit_code == 0, result.output
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "extraversion" in report and "neurons" in report and "weak judge" in report
    assert str(tmp_path) not in report
    raw = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert "facts (n = 2)" in report and "E-5, E+5" in report and "left out" not in report
    assert set(raw["capability"]["methods"]["neurons"]["people"]) == {"E-5", "E+5"}
    assert len(raw["answers"]) == 2 * 2 * 2 and raw["figures"]["neurons"]["traits"]["extraversion"]["difference"]


@pytest.mark.parametrize("verb", ["traits", "capability"])
def test_commands_end_with_a_line_instead_of_a_traceback(verb: str, tmp_path: Path) -> None:
    result = run(verb, "--out", str(tmp_path / "out"), "--adapter", str(tmp_path))
    assert result.exit_code == 2 and result.output.startswith(f"dpg-fast evaluate {verb}: ")
    assert "is not an adapter" in result.output


def test_the_comparison_ends_with_a_line_instead_of_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.evaluation.dpg.evaluate.load_base", load)
    out = str(tmp_path / "out")
    for arguments, message in (
        (["--adapter", str(tmp_path)], "is not an adapter"),
        (["--lora", str(tmp_path)], "not a PEFT adapter"),
        (["--adapter", "="], "NAME=DIR"),
        (["--tasks", "scripted"], "needs records"),
        (["--tasks", "new", "--trained", str(tmp_path / "none")], "none"),
        (["--api-model", "m", "--api-parameters", "[1]"], "JSON object"),
        (["--api-model", "m", "--api-header", "api-key=NOT_SET"], "NOT_SET"),
        (["--api-model", "m", "--api-query", "api-version"], "--api-query takes NAME=VALUE"),
        (["--judge", "openai"], "--judge-model"),
        (["--traits", "XY"], "O, C, E, A, N"),
    ):
        result = run("dpg", "--out", out, *arguments)
        assert result.exit_code == 2 and result.output.startswith("dpg-fast evaluate dpg: "), result.output
        assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_price_and_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpg_fast.evaluation.dpg.evaluate.load_base", lambda name: pytest.fail("the model was loaded"))
    prices = tmp_path / "prices.json"
    prices.write_text('{"models": {"m": {"input": 1, "output": 2}}}')
    api = ["--api-model", "m", "--api-url", "http://127.0.0.1:1/v1", "--prices", str(prices), "--dry-run"]
    said = run("dpg", "--out", str(tmp_path / "out"), "--people", "3", *api).output
    # 12 questions at 5 levels for 5 traits, and 3 people with 5 questions
    assert "315" in said and "USD" in said and "Nothing was sent" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_comparison_runs_on_smollm2(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(
        "dpg_fast.evaluation.dpg.evaluate.load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1])
    )
    out = tmp_path / "out"
    bounds = ["--traits", "E", "--questions", "1", "--levels", "-5,5", "--people", "2", "--max-new-tokens", "6"]
    bounds += ["--baselines", "prompt", "--both", "--capability-tasks", "words", "--capability-items", "2"]
    bounds += ["--line", "E-5 > E5", "--line-questions", "1", "--tasks", "questions,new,interpolation"]
    result = run("dpg", "--out", str(out), *bounds)
    assert result.exit_code == 0, result.output
    report = (out / "report.md").read_text(encoding="utf-8")
    for expected in ("neurons + hypernetwork", "simple prompt", "What steering costs", "words (n = 2)", "weak judge"):
        assert expected in report
    assert str(tmp_path) not in report and "Written to" in result.output
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(found["mean_spearman"]) == {"questions", "new"} and "neurons" in found["differences"]["new"]
    assert (out / "interpolation" / "report.html").is_file()
