"""The blocks of docs/data.md: python runs, commands are understood, those that cost nothing run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from tests.support import ROOT

TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
LINES = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "data.md", "exec"), {"__name__": "docs"})
    assert "the_lighthouse 7 []" in capsys.readouterr().out


@pytest.mark.parametrize("line", LINES)
def test_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[Any] = []
    if "build" in line and "--dry-run" not in line:  # judges for minutes; tests/data/labelled runs it on small models
        monkeypatch.setattr("dpg_fast.cli.scripts_run.run_build", lambda *found: ran.append(found) or True)
    words = shlex.split(line)
    assert words[0] == "dpg-fast"
    result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert ran or "Nothing was sent or written" in result.output or (tmp_path / "lines.jsonl").exists()


def test_every_option_named_is_there() -> None:
    help_text = " ".join(
        CliRunner().invoke(app, ["data", "scripts", command, "--help"], env={"COLUMNS": "240"}).output
        for command in ("read", "build")
    )
    for option in sorted(set(re.findall(r"`(--[a-z-]+)", TEXT))):
        assert option in help_text, option
