"""The commands and the example of docs/judging.md run as written, against a local server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personality.scores import Trait
from dpg_fast.util.store import read_rows
from tests.llm.server import Answer, serve
from tests.support import ROOT

pytest.importorskip("openai")
TEXT = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]
URL = "http://localhost:8000/v1"


def script(body: dict[str, Any], number: int) -> Answer:
    system = body["messages"][0]["content"]
    if system.startswith("You compare several"):
        return Answer(json.dumps({letter: {"reason": "so it is", "rank": 1} for letter in "ab"}))
    if "rating" in body["response_format"]["json_schema"]["schema"]["properties"]:
        return Answer('{"explanation": "so it is", "rating": 4}')
    quote = "go dancing" if "dancing" in str(body["messages"]) else "rather finish my book"
    trait = {"quotes": [quote], "level": 3, "confidence": "high"}
    return Answer(json.dumps({t.value: trait for t in Trait}))


def write_input(folder: Path) -> None:
    dialogue, answers = re.findall(r"^```json\n(.*?)^```$", TEXT, re.M | re.S)
    (folder / "dialogues.jsonl").write_text(dialogue)
    (folder / "answers.jsonl").write_text(answers)


def command(line: str, url: str) -> list[str]:
    words = shlex.split(line.replace(URL, url))
    assert words[:3] == ["dpg-fast", "assess", "judge"]
    return words[1:]


def test_documented_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_input(tmp_path)
    ran = 0
    with serve(script) as server:
        for line in LINES:
            if "--judge openai" not in line:
                continue
            if "--batch-import" in line:
                body = json.loads((tmp_path / "requests.jsonl").read_text())
                choice = {"index": 0, "finish_reason": "stop", "message": {"content": script(body["body"], 0).content}}
                response = {"status_code": 200, "body": {"model": "m", "choices": [choice]}}
                (tmp_path / "results.jsonl").write_text(
                    json.dumps({"custom_id": body["custom_id"], "response": response, "error": None}) + "\n"
                )
            result = CliRunner().invoke(app, command(line, server.url))
            assert result.exit_code == 0, result.output
            ran += 1
    assert ran == 7 and len(server.requests) == 1 + 3 + 2 + 1
    (rated,) = read_rows(tmp_path / "accuracy.jsonl")
    assert {system: given["rating"] for system, given in rated["ratings"].items()} == {"base": 4, "tuned": 4}
    figures = json.loads((tmp_path / "ranking.figures.json").read_text())
    assert figures["ranking"]["knowledge"]["first"] == {"base": 1.0, "tuned": 1.0}
    for name, score in (("evidence", 3), ("batched", 3), ("ratings", 2.5)):
        (row,) = read_rows(tmp_path / f"{name}.jsonl")
        assert row["character"] == "Hermione" and row["scores"]["extraversion"] == score


@pytest.mark.slow
def test_the_documented_command_without_a_server(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_input(tmp_path)
    (line,) = [line for line in LINES if "--judge openai" not in line]
    result = CliRunner().invoke(app, [*command(line, ""), "--traits", "E"])
    assert result.exit_code == 0, result.output
    assert set(json.loads((tmp_path / "likelihood.jsonl").read_text())["scores"]) == {"extraversion"}


def test_the_documented_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    assert URL in code
    with serve(script) as server:
        exec(code.replace(URL, server.url), {"__name__": "example"})
    assert "extraversion 3.0 True ('go dancing',)" in capsys.readouterr().out
