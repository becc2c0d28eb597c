"""Batch files: what is in them, how they are split, what is read back. The round trip is in tests/cli/test_judge_command.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dpg_fast.llm import Call, LLMClient, LLMSettings, Reply
from dpg_fast.llm import batch as batch_module
from dpg_fast.llm.batch import export_batch, import_batch
from tests.llm.server import Answer, serve


class Mood(BaseModel):
    mood: str


def calls(n: int) -> list[Call[Mood]]:
    return [Call(f"item {i}", [{"role": "user", "content": f"text {i}"}], Mood, "1") for i in range(n)]


def client(folder: Path, url: str = "http://127.0.0.1:9/v1", **values: Any) -> LLMClient:
    parameters = {"temperature": 0, "extra_body": {"top_k": 3}}
    return LLMClient(LLMSettings("m", url, parameters=parameters), folder / "replies.sqlite", **values)


def result(key: str, mood: str) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": json.dumps({"mood": mood})}}
    body = {"model": "m-served", "choices": [{**choice, "finish_reason": "stop"}]}
    return json.dumps({"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}) + "\n"


def test_what_is_written_is_what_would_be_sent(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with serve(lambda body, number: Answer('{"mood": "calm"}')) as server:
        here = client(tmp_path, server.url)
        ((path, number),) = export_batch(here, [*calls(2), *calls(2)], tmp_path / "requests.jsonl")
        assert number == 2
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["custom_id"] for line in lines] == [here.key(call) for call in calls(2)]
        here.run(calls(2))
        sent = sorted(server.requests, key=lambda body: str(body["messages"]))
        for line, body in zip(lines, sent, strict=True):
            assert line["body"] == {
                name: value for name, value in body.items() if name not in ("path", "authorization", "headers")
            }
        assert export_batch(here, calls(2), tmp_path / "none.jsonl") == [] and not (tmp_path / "none.jsonl").exists()


def test_large_batches_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = export_batch(client(tmp_path), calls(5), tmp_path / "r.jsonl", max_requests=2)
    assert [(path.name, n) for path, n in written] == [("r.jsonl", 2), ("r-2.jsonl", 2), ("r-3.jsonl", 1)]
    size = max(path.stat().st_size for path, _ in written)
    monkeypatch.setattr(batch_module, "MAX_BYTES", size - 1)
    by_size = export_batch(client(tmp_path), calls(5), tmp_path / "s.jsonl")
    assert [n for _, n in by_size] == [1] * 5
    assert all(path.stat().st_size < size for path, _ in by_size)
    monkeypatch.setattr(batch_module, "MAX_BYTES", 50)
    with pytest.raises(ValueError, match=r"item 0: a request of .* bytes"):
        export_batch(client(tmp_path), calls(1), tmp_path / "t.jsonl")


def test_the_first_reply_stays_unless_failures_are_tried_again(tmp_path: Path) -> None:
    here = client(tmp_path)
    (key,) = [here.key(call) for call in calls(1)]
    file = tmp_path / "results.jsonl"
    file.write_text(result(key, "calm") + result(key, "wild"))
    found = import_batch(here, calls(1), [file])
    assert (found.stored, found.known, found.errors) == (1, 1, {})
    stored = here.stored(calls(1)[0])
    assert stored is not None and stored.value == Mood(mood="calm") and stored.served_by == "m-served"
    here.cache.put(key, Reply(content=None, refusal="no"), model="m", prompt_version="1", replace=True)
    assert import_batch(here, calls(1), [file]).known == 2
    stubborn = client(tmp_path, retry_failed=True)
    assert import_batch(stubborn, calls(1), [file]).stored >= 1
    again = here.stored(calls(1)[0])
    assert again is not None and again.failure is None


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"response": null}', '{"custom_id": "KEY", "response": {"status_code": 200}}']
)
def test_lines_that_are_no_result_are_named(tmp_path: Path, line: str) -> None:
    here = client(tmp_path)
    file = tmp_path / "results.jsonl"
    file.write_text("\n" + line.replace("KEY", here.key(calls(1)[0])) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2: no batch result"):
        import_batch(here, calls(1), [file])
