"""The command line: what a newcomer types first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.cli.demo import adapter_directory, require_effect
from dpg_fast.cli.demo_display import DemoRow
from dpg_fast.kernels import dispatch
from dpg_fast.model import speaking
from dpg_fast.personality.scores import Personality

runner = CliRunner()


def test_help_names_the_commands() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("env", "demo", "assess", "data", "neurons", "questions"):
        assert command in result.output


def test_the_package_can_be_run_as_the_command() -> None:
    command = [sys.executable, "-m", "dpg_fast", "data", "personified", "check", "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and "dpg-fast data personified check: " in result.stderr
    assert "nowhere" in result.stderr and "Traceback" not in result.stderr


def test_env_names_every_op_and_a_reason() -> None:
    result = runner.invoke(app, ["env"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for op in dispatch.OPS:
        assert op in result.output
    assert "reference" in result.output
    assert "torch" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--personality", "E+7"], "-5..5"),
        (["--personality", "X+3"], "O, C, E, A, N"),
        (["--question", "  "], "question is empty"),
        (["--out", "scores.pdf"], ".png"),
        (["--way", "magic"], "neurons, hypernetwork, both, all"),
    ],
)
def test_demo_refuses_bad_input_before_loading(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.cli.demo.load_smollm2", load)
    result = runner.invoke(app, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_find_refuses_bad_input_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.cli.neurons.find.load_base", load)
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["a", "--traits", "XY"], "O, C, E, A, N"),
        (["file"], "is a file"),
        (["a", "--layers", "12"], "12-31"),
        (["a", "--max-per-layer", "many"], "0.5%"),
        (["a", "--max-per-layer", "200%"], "share from 0.0 to 1.0"),
        (["a", "--strength", "1", "--strength", "2"], "one strength or ten"),
    ):
        arguments[0] = str(tmp_path / arguments[0])
        result = runner.invoke(app, ["neurons", "find", "--out", *arguments])
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")


def test_calibrate_refuses_bad_input_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.cli.neurons.calibrate.load_base", load)
    shipped = str(adapter_directory())
    for arguments, message in (
        ([str(tmp_path)], "not a directory with an adapter"),
        ([shipped, "--traits", "XY"], "O, C, E, A, N"),
        ([shipped, "--plot", "curves.pdf"], ".png"),
        ([shipped, "--max-strength", "0"], "largest strength above 0"),
        ([shipped, "--max-perplexity-ratio", "1"], "above 1"),
        ([shipped, "--judge", "openai"], "--judge-model"),
        ([shipped, "--judge-model", "gpt"], "--judge openai"),
    ):
        result = runner.invoke(app, ["neurons", "calibrate", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")


@pytest.mark.slow
def test_demo_answers_judges_and_draws(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    picture = tmp_path / "scores.png"
    arguments = ["--question", "A stranger smiles at you on the train. What do you do?", "--max-new-tokens", "12"]
    arguments += ["--personality", "E+5", "--personality", "E-5 N+4", "--no-speed", "--out", str(picture)]
    result = runner.invoke(app, ["demo", *arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for label in ("base", "E+5", "E-5 N+4", "weak judge", "Neurons", "Hypernetwork", "together"):
        assert label in result.output
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_import_is_fast_and_lazy() -> None:
    code = (
        "import torch, time, sys; t = time.perf_counter(); import dpg_fast; d = time.perf_counter() - t\n"
        "optional = {'transformers', 'peft', 'matplotlib', 'gguf', 'openai', 'typer', 'rich'} & set(sys.modules)\n"
        "print(d, optional); sys.exit(d > 1 or bool(optional))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr


def test_demo_fails_when_an_end_says_what_the_base_says() -> None:
    judgement: Any = None
    base = DemoRow("neurons", "base", None, "So be it.", judgement)
    mild = DemoRow("neurons", "E+1", Personality("E+1"), "So be it.", judgement)
    other = DemoRow("both", "E-5", Personality("E-5"), "No.", judgement)
    require_effect([base, mild, other])
    same = DemoRow("neurons", "E+5", Personality("E+5"), "So be it.", judgement)
    with pytest.raises(RuntimeError, match=r"E\+5 \(neurons\) said the same"):
        require_effect([base, other, same])


@pytest.mark.slow
def test_demo_fails_when_nothing_is_steered(smollm2: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = speaking.forward_shape
    # the cache is overlooked: each new token passes for one of the prompt
    monkeypatch.setattr(speaking, "forward_shape", lambda *call: (*found(*call)[:2], 0, None))
    arguments = ["demo", "--way", "neurons", "--max-new-tokens", "2", "--personality", "E+5", "--no-speed"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "none was steered" in result.output
