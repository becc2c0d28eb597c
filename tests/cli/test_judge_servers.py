"""``assess judge`` against servers as they are: what is asked, what it costs, what is lost, and where keys go."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personality.scores import Trait
from tests.cli.test_judge_command import key, reply, rows, run, write  # noqa: F401
from tests.llm.misbehaviours import error
from tests.llm.server import Answer, serve

pytest.importorskip("openai")
SECRET = "azure-secret-0123456789"
WORDS = "We went to the market and I said that this was said by me. "


def long_record(path: Path, length: int, number: int = 1) -> Path:
    lines = [
        {"messages": [{"role": "assistant", "content": f"{n}. " + WORDS * (length // len(WORDS))}], "source": "t"}
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shown(body: dict[str, Any]) -> int:
    return len(str(body["messages"][1]["content"]))


def test_headers_and_query_reach_azure_and_stay_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", SECRET + "\n")
    monkeypatch.setenv("OPENAI_API_KEY", "openai-secret-0123456789")
    source, out = write(tmp_path / "in.jsonl", ["fine", "tells", "echoes", "reflects"]), tmp_path / "out.jsonl"

    def script(body: dict[str, Any], number: int) -> Answer:
        if "api-version=2024-10-21" not in body["path"] or body["headers"].get("api-key") != SECRET:
            return error("Resource not found", 404, code="404")
        text = str(body["messages"])
        if "tells:" in text:
            return Answer(reply().replace("said by me", f"said by me ... {SECRET}"))
        if "echoes:" in text:
            return error(f"bad request {body['headers']}")
        if "reflects:" in text:
            return Answer(status=400, raw="x" * 590 + f" {SECRET} {body['authorization']}")
        return Answer(reply())

    azure = ("--header", "api-key=AZURE_KEY", "--query", "api-version=2024-10-21")
    with serve(script) as server:
        assert run(source, out, server).exit_code == 2  # nothing without them
        out.unlink(missing_ok=True)
        results = [run(source, out, server, *azure, "--report", str(tmp_path / "report"))]
        results.append(run(source, out, server, *azure, "--batch-export", str(tmp_path / "batch.jsonl")))
        results.append(run(source, out, server, *azure, "--dry-run"))
        results.append(run(source, tmp_path / "other.jsonl", server, *azure, "--protocol", "npti"))
    assert "2 dialogues judged" in results[0].output and [r["character"] for r in rows(out)] == ["fine", "tells"]
    assert (tmp_path / "batch.jsonl").exists()
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Mean levels, from -5 to 5, over 2 dialogues: openness +2.0," in page and "2 more were not judged" in page
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".jsonl", ".html", ".json", ".sqlite"} <= {path.suffix for path in files}
    told = b"".join(path.read_bytes() for path in files) + "".join(result.output for result in results).encode()
    assert b"azure-secret" not in told and b"openai-secret" not in told
    assert b"api-version" not in (tmp_path / "batch.jsonl").read_bytes()
    assert SECRET not in " ".join(azure)  # what other users see of the process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--header", "api-key=NOT_SET"], "NOT_SET: this environment variable is not set"),
        (["--header", "api-key"], "--header takes NAME=VARIABLE"),
        (["--query", "api-key=x"], "send it as a header"),
        (["--parameters", '{"extra_headers": {"api-key": "x"}}'], "--header"),
        (["--parameters", '{"extra_query": {"api-version": "x"}}'], "--query"),
        (["--parameters", '{"max_completion_tokens": 300}'], "--max-tokens"),
        (["--parameters", '{"max_tokens": 300}'], "--max-tokens"),
        (["--parameters", '{"temperature": 1}'], "--temperature"),
        (
            ["--parameters", '{"user": "azure-secret-0123456789"}', "--header", "api-key=AZURE_KEY"],
            "must not hold the API key",
        ),
    ],
)
def test_what_does_not_belong_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setenv("AZURE_KEY", SECRET)
    source = write(tmp_path / "in.jsonl", ["one"])
    arguments = [
        "assess",
        "judge",
        str(source),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--judge",
        "openai",
        "--judge-model",
        "m",
    ]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 2 and message in result.output and SECRET not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    "refusal",
    [
        error("This model's maximum context length is 4096 tokens. Please reduce the length of the messages."),
        error("the request exceeds the available context size", type="exceed_context_size_error"),
        error("input is too large to process. increase the physical batch size", 500),
        Answer(status=413, raw="<h1>413 Request Entity Too Large</h1>"),
    ],
)
def test_what_is_too_long_is_cut_once_for_all_dialogues(tmp_path: Path, refusal: Answer) -> None:
    source, out = long_record(tmp_path / "in.jsonl", 20_000, 6), tmp_path / "out.jsonl"
    with serve(lambda body, number: refusal if shown(body) > 6000 else Answer(reply())) as server:
        result = run(source, out, server, "--concurrency", "2")
        assert result.exit_code == 0 and "6 dialogues judged" in result.output
        refused = sum(shown(body) > 6000 for body in server.requests)
        print(f"{len(server.requests)} calls for 6 dialogues, {refused} refused")
        assert refused <= 10 and len(server.requests) <= 10 + 6 * 6
        assert all(row["scores"]["openness"] == 2 for row in rows(out))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("max_tokens: 1500 > 1024, which is the maximum allowed number of output tokens", "--max-tokens"),
        ("max_completion_tokens is too large: 1500. The maximum context length is 1024", "--max-tokens"),
        ("This model's maximum context length is 1024 tokens", "--context-tokens"),
    ],
)
def test_a_limit_that_no_cut_can_keep_ends_the_run(tmp_path: Path, words: str, advice: str) -> None:
    source = long_record(tmp_path / "in.jsonl", 34_000, 40)
    with serve(lambda body, number: error(words)) as server:
        result = run(source, tmp_path / "out.jsonl", server)
        print(f"{len(server.requests)} calls: {words}")
        assert result.exit_code == 2 and advice in result.output and len(server.requests) <= 20


def test_one_dialogue_too_long_for_good_costs_few_calls(tmp_path: Path) -> None:
    source, out = long_record(tmp_path / "in.jsonl", 34_000), tmp_path / "out.jsonl"
    with source.open("a") as file:
        for n in range(3):
            said = {"role": "assistant", "content": f"{n}: this was said by me"}
            file.write(json.dumps({"messages": [said], "source": "t"}) + "\n")
    with serve(
        lambda body, number: error("prompt is too long") if "market" in str(body) else Answer(reply())
    ) as server:
        result = run(source, out, server, "--concurrency", "1")
        # nothing has come yet: the pieces of the first one are tried from the whole down to 200 characters
        assert result.exit_code == 1 and "3 dialogues judged" in result.output and len(server.requests) <= 3 + 10
        assert "rejected" in rows(tmp_path / "out.failed.jsonl")[0]["reasons"][0]


def test_what_is_judged_in_part_is_listed_and_can_be_asked_for_again(tmp_path: Path) -> None:
    source, out = long_record(tmp_path / "in.jsonl", 60_000), tmp_path / "out.jsonl"
    bad = error("content management policy", code="content_filter")
    with serve(lambda body, number: bad if shown(body) < 30_000 else Answer(reply())) as server:
        result = run(source, out, server, "--concurrency", "1")
        first = len(server.requests)
        assert first > 1 and result.exit_code == 1
        assert "1 judged in part" in result.output and "--retry-failed" in result.output
        (row,) = rows(out)
        assert row["scores"]["openness"] == 2 and "refused" in row["missing"][0]
        again = run(source, out, server)  # as long as it is so, every run says it
        assert again.exit_code == 1 and "1 judged in part" in again.output and len(server.requests) == first
        server.script = lambda body, number: Answer(reply())
        in_part = out.read_bytes().splitlines(keepends=True)[-1]
        dry = run(source, out, server, "--retry-failed", "--dry-run").output
        assert re.search(r"to send\s+│\s+1\b", dry) and "0 judged already" in dry
        mended = run(source, out, server, "--retry-failed")
        assert mended.exit_code == 0 and len(server.requests) == first + 1  # the pieces that had an answer are stored
        (row,) = rows(out)
        assert "missing" not in row and not (tmp_path / "out.failed.jsonl").exists()
        assert run(source, out, server).exit_code == 0
        header, new = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(header + in_part + new)  # as a run leaves it that is killed before it drops the old row
        assert run(source, out, server).exit_code == 0
        assert out.read_bytes() == header + new and len(server.requests) == first + 1


def test_ratings_without_any_trait_are_no_judgement(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.jsonl"

    def script(body: dict[str, Any], number: int) -> Answer:
        fluent = "fluent" in str(body["messages"][0])
        return Answer(
            '{"explanation": "x", "rating": 5}' if fluent else '{"expl', finish_reason="stop" if fluent else "length"
        )

    with serve(script) as server:
        result = run(source, out, server, "--protocol", "npti", "--traits", "EO")
        assert result.exit_code == 1 and "2 failed" in result.output and not rows(out)
        assert "6 replies paid for in this run" in result.output  # though nothing is judged
        server.script = lambda body, number: Answer('{"explanation": "x", "rating": 5}')
        assert run(source, out, server, "--protocol", "npti", "--traits", "EO").exit_code == 1
        assert run(source, out, server, "--protocol", "npti", "--traits", "EO", "--retry-failed").exit_code == 0
        assert len(rows(out)) == 2 and len(server.requests) == 6 + 4


@pytest.mark.parametrize("protocol", ["npti", "evidence"])
def test_traits_tell_judgements_apart(tmp_path: Path, protocol: str) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one"]), tmp_path / "out.jsonl"
    with serve(
        lambda body, n: Answer(reply() if protocol == "evidence" else '{"explanation": "x", "rating": 4}')
    ) as server:
        assert run(source, out, server, "--protocol", protocol, "--traits", "E").exit_code == 0
        assert list(rows(out)[0]["scores"]) == [Trait.EXTRAVERSION.value]
        other = run(source, out, server, "--protocol", protocol, "--traits", "OCEAN")
        assert other.exit_code == 2 and "traits" in other.output


def test_what_was_learnt_is_told(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.jsonl"
    with serve(
        lambda body, n: error("temperature is not supported") if "temperature" in body else Answer(reply())
    ) as server:
        result = run(source, out, server)
        assert result.exit_code == 0 and len(server.requests) == 3
        assert "the server refuses temperature 0.0: it is left to the server" in result.output
        text = run(source, tmp_path / "text.jsonl", server, "--structured", "text", "--cache", str(tmp_path / "c"))
        assert text.exit_code == 0 and "response_format" not in server.requests[-1]


@pytest.mark.slow
def test_ctrl_c_ends_with_a_line_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", [f"text {n}" for n in range(30)]), tmp_path / "out.jsonl"
    with serve(lambda body, number: Answer(reply(), delay=0.3)) as server:
        command = [
            sys.executable,
            "-m",
            "dpg_fast",
            "assess",
            "judge",
            str(source),
            "--out",
            str(out),
            "--judge",
            "openai",
        ]
        command += ["--judge-model", "m", "--judge-url", server.url, "--concurrency", "4"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        deadline = time.monotonic() + 120
        while len(server.finished) < 6 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and "Stopped." in said and "Traceback" not in said, said
        assert 6 <= len(server.requests) < 30
        assert run(source, out, server).exit_code == 0
        assert len(server.requests) == 30 and len(rows(out)) == 30
