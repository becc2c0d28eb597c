"""The blocks of docs/llm.md run, against a local server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_questions
from tests.llm.server import Answer, serve
from tests.support import ROOT

pytest.importorskip("openai")
TEXT = (ROOT / "docs" / "llm.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with serve(lambda body, number: Answer('{"mood": "wistful"}')) as server:
        assert "http://localhost:8000/v1" in code
        exec(code.replace("http://localhost:8000/v1", server.url), {"__name__": "example"})
        assert len(server.requests) == 1
    printed = capsys.readouterr().out
    assert "to_pay=1" in printed and "text 1 mood='wistful'" in printed


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    questions = [row.question for row in load_questions(Trait.EXTRAVERSION, "holdout")]

    def fetch(folder: Path, part: str) -> Path:  # the download itself is tested elsewhere
        folder.mkdir()
        for trait in Trait:
            (folder / f"{trait.value.capitalize()}.jsonl").write_text(json.dumps({"question": questions[0]}) + "\n")
        row = {
            t.value.capitalize() + end: load_descriptions(Pole(t, not end), "search")[0].text
            for t in Trait
            for end in ("", "_reversed")
        }
        (folder / "descriptions.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    monkeypatch.setattr("dpg_fast.data.questions.published.fetch_personalitybench", fetch)

    def script(body: dict[str, Any], number: int) -> Answer:
        return Answer(json.dumps({"question": questions[number % len(questions)]}))

    with serve(script) as server:
        for words in lines:
            words = [word.replace("http://localhost:8000/v1", server.url) for word in words]
            more = ["--traits", "E", "--count", "3", "--descriptions", "0"] if "build" in words else []
            result = CliRunner().invoke(app, [*words[1:], *more])
            assert result.exit_code == 0, f"{words}: {result.output}"
        assert server.requests and all(request["temperature"] == 0.7 for request in server.requests)
    assert len((tmp_path / "by_example" / "Extraversion.jsonl").read_text().splitlines()) == 3
