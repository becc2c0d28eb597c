"""The command as a process of its own, killed while it judges and while it writes: the records are those of one that was not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.data.scripts import find_scripts
from dpg_fast.text.records import DialogueRecord, read_records
from tests.llm.server import Answer, FakeServer, serve

pytest.importorskip("openai")
RECORDS = ("train.jsonl", "test_scene.jsonl", "test_character.jsonl", "characters.jsonl", "dropped.jsonl")


def is_writing(body: dict[str, Any]) -> bool:
    return "You write dialogue" in body["messages"][0]["content"]


def answer(body: dict[str, Any], number: int) -> Answer:
    """A rating or a dialogue that follows from what was asked, so that every run gets the same."""
    digest = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
    if is_writing(body):
        text = f"I say {digest[:3].hex()} and {digest[3:6].hex()} to {digest[6:9].hex()}."
        return Answer(json.dumps({"words": text}), delay=0.05)
    rating = 1 + sum(digest) % 5
    return Answer(json.dumps({"explanation": "Because.", "rating": rating}), delay=0.005)


def arguments(server: FakeServer, out: Path) -> list[str]:
    found = ["data", "scripts", "build", "samples", "--out", str(out), "--generate", "2", "--near", "1.2", "--no-plots"]
    for who in ("judge", "writer"):
        found += [f"--{who}", "openai", f"--{who}-model", f"my-{who}", f"--{who}-url", server.url]
    return [*found, "--concurrency", "2", "--test-characters", "0.15", "--protocol", "npti"]


def content(out: Path) -> dict[str, str]:
    return {name: (out / name).read_text(encoding="utf-8") for name in RECORDS if (out / name).exists()}


def kill_when(server: FakeServer, out: Path, enough: Any, folder: Path) -> None:
    code = "from dpg_fast.cli.app import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments(server, out)], env=environment, cwd=folder, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not enough():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_records(tmp_path: Path) -> None:
    with serve(answer) as server:
        whole = CliRunner().invoke(app, arguments(server, tmp_path / "whole"))
        assert whole.exit_code == 0, whole.output
        sent = len(server.finished)
    with serve(answer) as server:
        out = tmp_path / "killed"
        kill_when(server, out, lambda: len(server.finished) > 40, tmp_path)
        judged = len(server.finished)
        kill_when(server, out, lambda: sum(map(is_writing, server.finished)) > 4, tmp_path)
        assert judged < sum(not is_writing(body) for body in server.finished)
        resumed = CliRunner().invoke(app, arguments(server, out))
        assert resumed.exit_code == 0, resumed.output
        assert len(server.finished) <= sent + 2 * 2  # at most what was under way when it was killed
        before = len(server.finished)
        again = CliRunner().invoke(app, arguments(server, out))
        assert again.exit_code == 0 and len(server.finished) == before
    assert content(out) == content(tmp_path / "whole")
    records = list(read_records(out / "train.jsonl", DialogueRecord))
    assert any(record.origin is not None and record.origin.generated for record in records)


def test_a_dry_run_sends_and_writes_nothing(tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"models": {"my-judge": {"input": 10, "output": 30}, "my-writer": {"input": 1, "output": 2}}}')
    with serve(answer) as server:
        result = CliRunner().invoke(
            app, [*arguments(server, tmp_path / "out"), "--dry-run", "--prices", str(prices)], env={"COLUMNS": "200"}
        )
        assert result.exit_code == 0, result.output
        assert not server.requests
    assert not (tmp_path / "out").exists()
    for text in ("130", "USD", "Judging 16 written dialogues", "Nothing was sent or written"):
        assert text in result.output


def test_failed_calls_are_named_and_made_again(tmp_path: Path) -> None:
    broken = {"on": True}

    def script(body: dict[str, Any], number: int) -> Answer:
        if broken["on"] and "trait neuroticism" in str(body["messages"][0]):  # others come first, so the server answers
            return Answer(status=400, error="no")
        return answer(body, number)

    with serve(script) as server:
        options = [*arguments(server, tmp_path / "out"), "--generate", "0", "--test-characters", "0"]
        options[3] = str(next(file for file in find_scripts("samples") if file.suffix == ".vtt"))
        first = CliRunner().invoke(app, options)
        assert first.exit_code == 1 and "were not judged" in first.output.replace("\n", " ")
        dropped = (tmp_path / "out" / "dropped.jsonl").read_text(encoding="utf-8")
        assert "not judged" in dropped and "rejected" in dropped
        broken["on"] = False
        second = CliRunner().invoke(app, options)
        assert second.exit_code == 0, second.output
    assert "not judged" not in (tmp_path / "out" / "dropped.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "x"], "'x' is not one of"),
        (["--judge", "openai"], "--judge-model"),
        (["--writer", "openai"], "--writer-model"),
        (["--writer", "x"], "'x' is not one of"),
        (["--turns", "2", "--before", "2"], "before"),
        (["--test-characters", "1"], "below 1"),
        (["--label", "x"], "label"),
        (["--format", "novel"], "--writer openai"),
        (["--aliases", "none.json"], "none.json"),
        (["--min-segments", "99"], "--min-segments"),
    ],
)
def test_bad_input_ends_before_any_work(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.util.models.load_base", load)
    result = CliRunner().invoke(
        app, ["data", "scripts", "build", "samples", "--out", str(tmp_path / "out"), *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_read_shows_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    result = CliRunner().invoke(app, ["data", "scripts", "read", "samples", "--out", str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "MARGOT" in result.output and "7 scenes, 45 speeches" in result.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert sum(row["kind"] == "speech" for row in rows) == 17 + 26 + 45
