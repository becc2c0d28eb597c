"""``dpg-fast assess judge`` from end to end: faults of servers, resuming, batch files, the judge without a server."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personality.scores import Trait
from tests.llm.server import Answer, FakeServer, serve

pytest.importorskip("openai")
KEY = "sk-secret-5544332211"
PATIENT = {"retry-after-ms": "5"}


def reply(level: int | None = 2, quote: str = "said by me") -> str:
    quotes = [] if level is None else [quote]
    return json.dumps({t.value: {"quotes": quotes, "level": level, "confidence": "medium"} for t in Trait})


def write(path: Path, names: list[str]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for name in names:
            said = {"role": "assistant", "content": f"{name}: this was said by me."}
            record = {"messages": [{"role": "user", "content": "Well?"}, said], "source": "test", "character": name}
            file.write(json.dumps(record) + "\n")
    return path


def case(body: dict[str, Any]) -> str:
    """The name in the dialogue that a request is about."""
    text = str(body["messages"][1]["content"])
    return text.partition(": this was")[0].rpartition("\n")[2]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if "format" not in row]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")  # as from a file
    monkeypatch.setenv("COLUMNS", "200")


def run(source: Path, out: Path, server: FakeServer | None, *more: str) -> Result:
    arguments = ["assess", "judge", str(source), "--out", str(out)]
    if server is not None:
        arguments += ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url]
    return CliRunner().invoke(app, [*arguments, *more])


def test_every_fault_of_a_server(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    times: dict[str, list[float]] = {}

    def script(body: dict[str, Any], number: int) -> Answer:
        name = case(body)
        asked[name] += 1
        times.setdefault(name, []).append(time.monotonic())
        first = asked[name] == 1
        if name == "busy":
            return Answer(status=429, error="slow", headers={"Retry-After": "1"}) if first else Answer(reply())
        if name == "ill":
            return Answer(status=500, error="oops", headers=PATIENT) if first else Answer(reply())
        if name == "slow":
            return Answer(reply(), delay=1.5 if first else 0)
        if name == "drops":
            return Answer(hang_up=True) if first else Answer(reply())
        if name == "half a body":
            return Answer(raw='{"id": "1", "choices": [{"index": 0, "mess')
        if name == "half a reply":
            return Answer('{"openness": {"quotes": ["sa')
        if name == "cut":
            return Answer('{"openness": {"quotes": ["sa', finish_reason="length")
        if name == "off the scale":
            return Answer(reply().replace("2", "7") if len(body["messages"]) == 2 else reply(3))
        if name == "never right":
            return Answer(reply().replace("2", "2.5"))
        if name == "refuses":
            return Answer(None, refusal="I will not judge people.")
        if name == "down":
            return Answer(status=503, error=f"down for {body['authorization']}", headers=PATIENT)
        if name == "rejects":
            return Answer(status=400, error=f"bad request by {KEY}")
        if name == "wrong quotes":
            return Answer(reply(4, "never said at all"))
        if name == "tells":
            return Answer(reply(1).replace("said by me", f"said by me ... {KEY}"))
        return Answer(reply(None) if name == "nothing" else reply())

    good = ["busy", "ill", "slow", "drops", "off the scale", "wrong quotes", "nothing", "fine", "fine", "tells"]
    bad = ["half a body", "half a reply", "cut", "never right", "refuses", "down", "rejects"]
    source = write(tmp_path / "in.jsonl", good + bad)
    out = tmp_path / "out" / "judged.jsonl"
    with serve(script) as server:
        options = ("--timeout", "0.7", "--max-retries", "2", "--concurrency", "8")
        result = run(source, out, server, *options)
        assert result.exit_code == 1 and "10 dialogues judged" in result.output and "7 failed" in result.output
        assert times["busy"][1] - times["busy"][0] >= 1.0
        found = {row["character"]: row for row in rows(out)}
        assert sorted(row["character"] for row in rows(out)) == sorted(good)
        assert asked["fine"] == 1 and {row["item"][-2:] for row in rows(out) if row["character"] == "fine"} >= {"-2"}
        failed = {
            row["character"]: row["reasons"][0].partition(":")[0] for row in rows(out.with_name("judged.failed.jsonl"))
        }
        assert failed == {
            "half a body": "unreachable",
            "half a reply": "unreadable",
            "cut": "cut",
            "never right": "unreadable",
            "refuses": "refused",
            "down": "unreachable",
            "rejects": "rejected",
        }
        assert found["off the scale"]["scores"]["openness"] == 3
        assert found["nothing"]["scores"] == {} and "no evidence of openness" in found["nothing"]["reason"]
        wrong = found["wrong quotes"]["traits"]["openness"]
        assert (wrong["score"], wrong["supported"], wrong["wrong_quotes"]) == (4, False, ["never said at all"])
        assert asked["wrong quotes"] == 2 and asked["half a reply"] == 2 and asked["cut"] == 1
        assert found["busy"]["traits"]["openness"]["quotes"] == ["said by me"] and found["busy"]["usage"]["calls"] == 1
        before = Counter(asked)
        result = run(source, out, server, *options)
        assert result.exit_code == 1 and "0 dialogues judged, 10 before" in result.output
        again = {name for name in asked if asked[name] != before[name]}
        assert again == {"half a body", "down", "rejects"}  # nothing was paid for these
        server.script = lambda body, number: Answer(reply())
        result = run(source, out, server, *options, "--retry-failed")
        assert result.exit_code == 0 and sorted(row["character"] for row in rows(out)) == sorted(good + bad)
        assert not out.with_name("judged.failed.jsonl").exists()
    assert KEY not in result.output
    for path in [source, *out.parent.iterdir()]:
        assert KEY.encode() not in path.read_bytes(), path.name
    assert all(body["authorization"] == f"Bearer {KEY}" for body in server.requests)


def test_no_key_in_errors_that_end_a_run(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one"]), tmp_path / "out.jsonl"
    with serve(lambda body, number: Answer(status=401, error=f"wrong key {KEY} ({body['authorization']})")) as server:
        result = run(source, out, server)
    assert result.exit_code == 2 and "wrong key" in result.output and KEY not in result.output
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_dry_run_writes_and_sends_nothing(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one", "two", "two"]), tmp_path / "out.jsonl"
    prices = tmp_path / "prices.json"
    prices.write_text('{"currency": "EUR", "models": {"m": {"input": 10, "output": 20}}}')
    with serve(lambda body, number: Answer(reply())) as server:
        result = run(source, out, server, "--dry-run")
        assert result.exit_code == 0 and "3 dialogues, 0 judged already" in result.output
        assert "unknown (no price given" in result.output and not server.requests
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "prices.json"]
        known = run(source, out, server, "--dry-run", "--prices", str(prices))
        assert "EUR" in known.output and "unknown" not in known.output
        npti = run(source, out, server, "--dry-run", "--protocol", "npti", "--traits", "EN")
        assert "│ 9 " in npti.output  # two traits and fluency of each
        assert run(source, out, server, "--prices", str(prices)).exit_code == 0
        assert rows(out)[0]["cost"] == pytest.approx((100 * 10 + 10 * 20) / 1e6) and rows(out)[0]["currency"] == "EUR"
        assert "3 judged already" in run(source, out, server, "--dry-run").output


def test_npti_ratings_of_every_answer(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    turns = [("user", "How are you?"), ("assistant", "Splendid!"), ("user", "And now?"), ("assistant", "Sad.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    silent = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}], "source": "t"}
    source.write_text(json.dumps({"messages": messages, "source": "t"}) + "\n" + json.dumps(silent) + "\n")

    def script(body: dict[str, Any], number: int) -> Answer:
        system, user = (message["content"] for message in body["messages"])
        if "fluent" in system:
            return Answer('{"explanation": "x", "rating": 5}')
        if "trait openness" in system and "Sad." in user:
            return Answer(None, refusal="no")
        return Answer(json.dumps({"explanation": "x", "rating": 5 if "Splendid" in user else 2}))

    with serve(script) as server:
        result = run(source, out, server, "--protocol", "npti", "--traits", "EO")
        assert len(server.requests) == 6
        empty = [body for body in server.requests if "How are you?" in str(body["messages"]) and "Sad." in str(body)]
        assert not empty  # each answer goes with its own question
    judged, nobody = sorted(rows(out), key=lambda row: row["record"])
    assert result.exit_code == 1 and "1 judged in part" in result.output and "--retry-failed" in result.output
    assert nobody["scores"] == {} and nobody["reason"] == "the target says nothing"
    assert rows(out.with_name("out.failed.jsonl"))[0]["judged"] == "in part"
    assert judged["ratings"] == {"openness": 5, "extraversion": 3.5} and judged["fluency"] == 5
    assert judged["scores"] == {"openness": 5.0, "extraversion": 1.25} and "refused" in judged["reason"]


def test_batch_files_there_and_back(tmp_path: Path) -> None:
    names = ["good", "mends", "fails", "refuses", "gone"]
    source, out, requests = write(tmp_path / "in.jsonl", names), tmp_path / "out.jsonl", tmp_path / "batch.jsonl"

    def provider(path: Path, second: bool = False) -> Path:
        """What a batch service makes of the file."""
        results = []
        for entry in rows(path):
            name, body = case(entry["body"]), entry["body"]
            assert (entry["method"], entry["url"], len(entry["custom_id"])) == ("POST", "/v1/chat/completions", 64)
            assert body["response_format"]["json_schema"]["strict"] is True and body["model"] == "m"
            if name == "gone" and not second:
                continue
            line: dict[str, Any] = {"id": "b1", "custom_id": entry["custom_id"], "response": None, "error": None}
            if name == "fails" and not second:
                line["error"] = {"code": "batch_expired", "message": f"too late for {KEY}"}
            elif name == "refuses" and not second:
                error = {"error": {"message": "server error"}}
                line["response"] = {"status_code": 500, "request_id": "r", "body": error}
            else:
                message = {"role": "assistant", "content": reply(4, "nowhere") if name == "mends" else reply()}
                if name == "refuses":
                    message = {"role": "assistant", "content": None, "refusal": "no"}
                if name == "mends" and second:
                    assert "are not found in the target's turns" in body["messages"][-1]["content"]
                    message["content"] = reply(1)
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                done = {"id": "c", "object": "chat.completion", "model": "m-1", "choices": [choice]}
                done["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                line["response"] = {"status_code": 200, "request_id": "r", "body": done}
            results.append(line)
        target = path.with_name(f"results-{second}.jsonl")
        stray = {"id": "b2", "custom_id": "0" * 64, "response": None, "error": {"code": "x", "message": "y"}}
        target.write_text("".join(json.dumps(line) + "\n" for line in [*results, stray]))
        return target

    with serve(lambda body, number: Answer(reply())) as server:
        assert "5 requests written" in run(source, out, server, "--batch-export", str(requests)).output
        first = provider(requests)
        result = run(source, out, server, "--batch-import", str(first))
        assert result.exit_code == 1 and "2 replies stored, 0 known already, 1 of no call" in result.output
        assert [row["character"] for row in rows(out)] == ["good"] and rows(out)[0]["usage"]["prompt_tokens"] == 7
        failed = {row["character"]: row["reasons"][0] for row in rows(tmp_path / "out.failed.jsonl")}
        assert failed["fails"] == "rejected: too late for [key] (batch_expired)"
        assert failed["refuses"] == "rejected: 500: server error"
        assert failed["mends"] == failed["gone"] == "open: not asked yet"
        assert "4 requests written" in run(source, out, server, "--batch-export", str(requests)).output
        result = run(source, out, server, "--batch-import", str(first), "--batch-import", str(provider(requests, True)))
        assert "4 replies stored, 2 known already" in result.output and result.exit_code == 1
        scores = {row["character"]: row["scores"]["openness"] for row in rows(out)}
        assert scores == {"good": 2, "mends": 1, "fails": 2, "gone": 2} and len(rows(out)) == 4
        (failure,) = rows(tmp_path / "out.failed.jsonl")
        assert failure["character"] == "refuses" and failure["reasons"] == ["refused: no"]
        assert "no open requests" in run(source, out, server, "--batch-export", str(requests)).output
        assert not server.requests  # all of it without a call
        live = run(source, out, server)  # the same dialogues, now with calls: the replies are known
        assert "0 dialogues judged, 4 before" in live.output and not server.requests
        broken = tmp_path / "broken.jsonl"
        broken.write_text('{"custom_id": 3\n')
        assert "broken.jsonl, line 1: no batch result" in run(source, out, server, "--batch-import", str(broken)).output
    ours = [path for path in tmp_path.iterdir() if not path.name.startswith("results-")]
    assert all(KEY.encode() not in path.read_bytes() for path in ours)


def test_a_torn_line_is_made_again_and_another_judge_is_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.jsonl"
    with serve(lambda body, number: Answer(reply())) as server:
        assert run(source, out, server).exit_code == 0
        whole = sorted(out.read_text().splitlines())
        out.write_bytes(out.read_bytes()[:-40])
        assert run(source, out, server).exit_code == 0 and len(server.requests) == 2
        assert sorted(out.read_text().splitlines()) == whole
        other = run(source, out, server, "--temperature", "1")
        assert other.exit_code == 2 and "differs in parameters" in other.output
        notes = tmp_path / "notes.txt"
        notes.write_text("my notes\n")
        foreign = run(source, notes, server)
        assert (
            "is not a 'dpg_fast store 1' file" in " ".join(foreign.output.split()) and notes.read_text() == "my notes\n"
        )


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    source, out = write(tmp_path / "in.jsonl", ["one"]), tmp_path / "out.jsonl"
    seen: list[Result] = []

    def script(body: dict[str, Any], number: int) -> Answer:
        seen.append(run(source, out, server))
        return Answer(reply())

    with serve(script) as server:
        assert run(source, out, server).exit_code == 0
    assert "another process is writing" in seen[0].output and seen[0].exit_code == 2 and len(rows(out)) == 1


def test_a_target_by_name(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    turns = [("Ann", "Let us go!"), ("Bob", "No, I am tired."), ("Cleo", "Me too.")]
    messages = [{"role": "user", "name": name, "content": text} for name, text in turns]
    source.write_text(json.dumps({"messages": messages, "source": "t", "character": "Ann"}) + "\n")
    with serve(lambda body, number: Answer(reply(1, "I am tired"))) as server:
        assert run(source, out, server, "--target", "bob").exit_code == 0
        (body,) = server.requests
        prompt = body["messages"][1]["content"]
        marked = re.findall(r"^<(\w+)-\w+>\n(.*)$", prompt, re.MULTILINE)
        assert marked == [("speaker_b", turns[0][1]), ("target", turns[1][1]), ("speaker_c", turns[2][1])]
        assert not any(name in str(body["messages"]) for name, _ in turns)  # names are not shown
        assert run(source, out, server, "--target", "Dan").exit_code == 1
        assert "nobody named 'Dan' speaks" in rows(tmp_path / "out.failed.jsonl")[0]["reasons"][0]
        assert len(rows(out)) == 1 and rows(out)[0]["traits"]["openness"]["supported"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "openai"], "name the judge's model"),
        (["--judge-model", "m"], "go with --judge openai"),
        (["--batch-export", "x"], "go with --judge openai"),
        (["--judge", "openai", "--judge-model", "m", "--parameters", "[]"], "a JSON object"),
        (["--judge", "openai", "--judge-model", "m", "--parameters", "{"], "not JSON"),
        (
            ["--judge", "openai", "--judge-model", "m", "--context-tokens", "500", "--dry-run"],
            "too small for this judge",
        ),
        (["--traits", ""], "name some of the traits"),
        (["--out", "in.jsonl"], "would overwrite the dialogues"),
    ],
)
def test_wrong_use_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", ["one"])
    result = CliRunner().invoke(app, ["assess", "judge", "in.jsonl", *options])
    assert result.exit_code == 2 and message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_broken_input_line_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["one"])
    with source.open("a") as file:
        file.write('{"messages": [], "source": "x"}\n')
    with serve(lambda body, number: Answer(reply())) as server:
        result = run(source, tmp_path / "out.jsonl", server)
        assert result.exit_code == 2 and "in.jsonl, line 2: messages" in result.output and not server.requests


@pytest.mark.slow
def test_the_likelihood_judge_needs_no_server(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    question = {"role": "user", "content": "There is a party tonight with forty guests. What do you do?"}
    said = ["I call everybody I know, put on music and dance until morning!", "I stay at home, alone and quiet."]
    with source.open("w") as file:
        for text in [*said, ""]:
            messages = [question, {"role": "assistant", "content": text}]
            file.write(json.dumps({"messages": messages, "source": "test"}) + "\n")
    dry = run(source, out, None, "--dry-run")
    assert "price 0" in dry.output and not out.exists()
    result = run(source, out, None, "--traits", "E")
    assert result.exit_code == 0 and "weak judge" in result.output
    lively, quiet, silent = rows(out)
    assert silent["scores"] == {} and silent["reason"] == "the target says nothing"
    assert lively["scores"]["extraversion"] > quiet["scores"]["extraversion"]
    content = out.read_bytes()
    assert "3 before" in run(source, out, None, "--traits", "E").output and out.read_bytes() == content


def test_a_report_of_what_was_judged(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    names = ["<script>alert(1)</script>", "Ann", "Ann", "quiet", "broken"]
    source = write(tmp_path / "in.jsonl", names)

    def answer(body: dict[str, Any], number: int) -> Answer:
        if case(body) == "broken":
            return Answer("not JSON")
        level = {"Ann": -4, "quiet": None}.get(case(body), 3)
        return Answer(reply(level))

    with serve(answer) as server:
        result = run(source, tmp_path / "out.jsonl", server, "--report", str(tmp_path / "report"))
    assert result.exit_code == 1 and "report.html" in result.output
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html and KEY not in html
    assert "data:image/png;base64," in html
    data = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert (data["dialogues"], data["failed"]) == (4, 1)
    assert data["characters"]["Ann"]["openness"] == {"mean": -4.0, "spread": 0.0}
    assert data["levels"]["neuroticism"] == [0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0]
