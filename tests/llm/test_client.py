"""The client against a real server on a socket, through the real SDK."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, Field

from dpg_fast.llm import Call, LLMClient, LLMError, LLMSettings, PriceTable, ReplyCache
from dpg_fast.llm.session import GIVE_UP_AFTER
from tests.llm.server import Answer, FakeServer, Script, last_user, serve

pytest.importorskip("openai")
KEY = "sk-secret-0123456789"


class Rating(BaseModel):
    reason: str
    rating: int = Field(ge=1, le=5)


GOOD = json.dumps({"reason": "fine", "rating": 4})


def settings(server: FakeServer, **changes: Any) -> LLMSettings:
    values = {"model": "m", "base_url": server.url, "api_key": KEY, "max_retries": 2, "timeout": 20.0}
    return LLMSettings(**{**values, **changes})


def calls(n: int, **changes: Any) -> list[Call[Rating]]:
    values: dict[str, Any] = {"answer": Rating, "prompt_version": "1"}
    return [
        Call(item=f"item {i}", messages=[{"role": "user", "content": f"rate {i}"}], **{**values, **changes})
        for i in range(n)
    ]


def always(**values: Any) -> Script:
    return lambda body, number: Answer(**values)


@pytest.fixture
def cache(tmp_path: Path) -> ReplyCache:
    return ReplyCache(tmp_path / "cache" / "replies.sqlite")


def test_structured_replies_in_order_with_usage_and_cost(cache: ReplyCache) -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        i = int(last_user(body).split()[1])
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
        return Answer(json.dumps({"reason": "r", "rating": i % 5 + 1}), usage=usage, delay=0.02 * (5 - i % 5))

    prices = PriceTable.load({"models": {"m": {"input": 2.0, "output": 8.0, "cached_input": 1.0}}})
    with serve(script) as server:
        client = LLMClient(settings(server, concurrency=3, parameters={"temperature": 0}), cache, prices=prices)
        run = client.run(calls(12))
        assert [r.value.rating for r in run.results] == [i % 5 + 1 for i in range(12)]
        assert 1 < server.most_at_once <= 3
        assert run.paid.calls == 12 and run.paid.cached_prompt_tokens == 480
        assert run.cost == pytest.approx(12 * (60 * 2 + 40 * 1 + 10 * 8) / 1e6)
        assert run.results[0].served_by == "m-served"
        sent = server.requests[0]
        assert sent["temperature"] == 0 and sent["authorization"] == f"Bearer {KEY}"
        assert sent["response_format"]["json_schema"]["strict"] is True
        schema = sent["response_format"]["json_schema"]["schema"]
        assert schema["additionalProperties"] is False and schema["required"] == ["reason", "rating"]
        again = client.run(calls(12))
        assert len(server.requests) == 12
        assert again.paid.calls == 0 and again.cost == 0 and again.total_cost == run.cost
        assert [r.value for r in again.results] == [r.value for r in run.results]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_version": "2"},
        {"draw": 1},
        {"parameters": {"temperature": 0.5}},
        {"messages": [{"role": "user", "content": "other"}]},
    ],
    ids=str,
)
def test_what_is_asked_decides_what_is_found(cache: ReplyCache, change: dict[str, Any]) -> None:
    with serve(always(content=GOOD)) as server:
        client = LLMClient(settings(server), cache)
        (call,) = calls(1)
        client.run([call, call])  # the same call twice is sent once
        assert len(server.requests) == 1
        fields = {name: getattr(call, name) for name in ("item", "messages", "answer", "prompt_version")}
        client.run([Call(**{**fields, "item": "another name"})])
        assert len(server.requests) == 1
        client.run([Call(**{**fields, **change})])
        assert len(server.requests) == 2
        LLMClient(settings(server, model="n"), cache).run([call])
        assert len(server.requests) == 3


def test_the_sdk_retries_and_then_succeeds(cache: ReplyCache) -> None:
    trouble = [Answer(status=429, error="slow down"), Answer(status=500, error="oops"), Answer(hang_up=True)]
    for answer in trouble:
        answer.headers = {"retry-after-ms": "10"}

    def script(body: dict[str, Any], number: int) -> Answer:
        return trouble[number] if number < len(trouble) else Answer(GOOD)

    with serve(script) as server:
        run = LLMClient(settings(server, max_retries=3), cache).run(calls(1))
        assert run.results[0].value == Rating(reason="fine", rating=4)
        assert len(server.requests) == 4 and run.paid.calls == 1


def test_what_cannot_be_reached_is_reported_and_tried_again_next_time(cache: ReplyCache) -> None:
    broken = True

    def script(body: dict[str, Any], number: int) -> Answer:
        if broken and last_user(body) == "rate 1":
            return Answer(status=503, error=f"down, {KEY}", headers={"retry-after-ms": "1"})
        if broken and last_user(body) == "rate 2":
            return Answer(GOOD, delay=3.0)
        if broken and last_user(body) == "rate 3":
            return Answer(raw="<html>not the API</html>")
        if broken and last_user(body) == "rate 4":
            return Answer(body={"choices": []})
        return Answer(GOOD)

    with serve(script) as server:
        client = LLMClient(settings(server, max_retries=1, timeout=0.4), cache)
        run = client.run(calls(6))
        kinds = [r.failure.kind if r.failure else None for r in run.results]
        assert kinds == [None, *["unreachable"] * 4, None]
        assert [f.item for f in cache.failures()] and {f.item for f in cache.failures()} == {
            f"item {i}" for i in (1, 2, 3, 4)
        }
        assert all(KEY not in f.detail for f in cache.failures())
        assert "503" in str(run.results[1].failure) and "[key]" in str(run.results[1].failure)
        broken = False
        assert client.plan(calls(6)).to_pay == 4
        run = client.run(calls(6))
        assert not run.failed and run.paid.calls == 4
        assert cache.failures() == []


def test_refused_cut_and_unreadable_are_failures_kept_and_not_paid_twice(cache: ReplyCache) -> None:
    replies = {
        "rate 0": Answer(None, refusal="I will not."),
        "rate 1": Answer('{"reason": "so lon', finish_reason="length"),
        "rate 2": Answer(None, finish_reason="content_filter"),
        "rate 3": Answer('{"reason": "x", "rating": 9}'),
    }

    def script(body: dict[str, Any], number: int) -> Answer:
        return replies[str(body["messages"][0]["content"])]

    with serve(script) as server:
        client = LLMClient(settings(server), cache)
        run = client.run(calls(4))
        kinds = [r.failure.kind for r in run.results if r.failure]
        assert kinds == ["refused", "cut", "refused", "unreadable"]
        assert all(r.failure.final for r in run.results if r.failure)
        assert "I will not." in str(run.results[0].failure)
        assert "rating" in str(run.results[3].failure)
        assert len(server.requests) == run.paid.calls == 5  # one repair
        assert {f.kind for f in cache.failures()} == {"refused", "cut", "unreadable"}
        again = client.run(calls(4))
        assert len(server.requests) == 5 and len(again.failed) == 4
        assert client.plan(calls(4)).cached == 4
        for answer in replies.values():
            answer.content, answer.finish_reason, answer.refusal = GOOD, "stop", None
        stubborn = LLMClient(settings(server), cache, retry_failed=True)
        assert stubborn.plan(calls(4)).to_pay == 4
        assert not stubborn.run(calls(4)).failed
        assert len(server.requests) == 9 and cache.failures() == []
        assert not client.run(calls(4)).failed and len(server.requests) == 9


@pytest.mark.parametrize("bad", ["not json at all", '{"reason": "x"}', '{"reason": "x", "rating": "many"}', "", "[1]"])
def test_one_repair_is_asked_for(cache: ReplyCache, bad: str) -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        return Answer(bad) if len(body["messages"]) == 1 else Answer(GOOD)

    with serve(script) as server:
        run = LLMClient(settings(server), cache).run(calls(1))
        assert run.results[0].value == Rating(reason="fine", rating=4)
        assert run.paid.calls == 2
        plea = server.requests[1]["messages"]
        assert [m["role"] for m in plea] == ["user", "assistant", "user"]
        assert plea[1]["content"] == bad and '"rating"' in plea[2]["content"]
        LLMClient(settings(server), cache).run(calls(1))
        assert len(server.requests) == 2


def test_steps_down_to_what_the_server_understands(cache: ReplyCache) -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        wanted = body.get("response_format", {}).get("type")
        if wanted is not None:
            return Answer(status=400, error=f"response_format {wanted} is not supported")
        return Answer("<think>Is it {}? No.</think>Here you are:\n```json\n" + GOOD + "\n```\nBye.")

    with serve(script) as server:
        client = LLMClient(settings(server, concurrency=1), cache)
        run = client.run(calls(3))
        assert not run.failed and client.learnt.mode == "text"
        kinds = [body.get("response_format", {}).get("type") for body in server.requests]
        assert kinds == ["json_schema", "json_object", None, None, None]
        assert "JSON schema" in last_user(server.requests[-1])
        assert run.paid.calls == 3
        strict = LLMClient(settings(server, structured="json_schema"), cache)
        assert not strict.run(calls(3)).failed  # the mode is no part of the key
        failed = strict.run(calls(1, draw=1)).failed
        assert [r.failure.kind for r in failed] == ["rejected"]


def test_two_different_objects_are_not_chosen_between(cache: ReplyCache) -> None:
    quoted = 'The answer says {"reason": "give me five", "rating": 5}. My view: {"reason": "poor", "rating": 1}'
    with serve(always(content=quoted)) as server:
        run = LLMClient(settings(server, structured="text"), cache).run(calls(1))
        assert run.failed[0].failure.kind == "unreadable"
        assert "2 different valid objects" in run.failed[0].failure.detail


@pytest.mark.parametrize(("status", "word"), [(401, "key right"), (403, "key right"), (404, "/v1")])
def test_a_hopeless_server_ends_the_run_without_telling_the_key(cache: ReplyCache, status: int, word: str) -> None:
    with serve(always(status=status, error=f"Incorrect API key provided: {KEY}")) as server:
        with pytest.raises(LLMError, match=word) as caught:
            LLMClient(settings(server, concurrency=2), cache).run(calls(50))
        assert len(server.requests) <= 4
        chain, seen = caught.value, []
        while chain is not None:
            seen.append(str(chain))
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        assert KEY not in " ".join(seen)


def test_a_dead_server_is_given_up(cache: ReplyCache) -> None:
    with serve(always(content=GOOD)) as server:
        dead = settings(server, max_retries=0, concurrency=2)
    with pytest.raises(LLMError, match="in a row"):
        LLMClient(dead, cache).run(calls(500))
    assert len(cache.failures()) == GIVE_UP_AFTER - 1  # one at a time, and the last one ends the run


def test_the_key_is_nowhere_on_disk(cache: ReplyCache, tmp_path: Path) -> None:
    with serve(lambda body, n: Answer(GOOD) if n else Answer(status=400, error=f"bad key {KEY}")) as server:
        client = LLMClient(settings(server, concurrency=1), cache)
        run = client.run(calls(2))
        assert len(run.failed) == 1
        assert KEY not in repr(client.settings) and KEY not in repr(run)
    assert cache.failures()
    cache.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)


def test_plan_counts_without_sending(cache: ReplyCache) -> None:
    prices = PriceTable.load({"currency": "EUR", "models": {"m": {"input": 1.0, "output": 3.0}}})
    with serve(always(content=GOOD)) as server:
        client = LLMClient(settings(server), cache, prices=prices, count_tokens=lambda text: len(text.split()))
        client.run(calls(2))
        plan = client.plan([*calls(5), *calls(5)], completion_tokens=50)
        assert (plan.calls, plan.cached, plan.to_pay) == (10, 7, 3)
        assert plan.completion_tokens == 150 and plan.currency == "EUR"
        assert plan.prompt_tokens > 3 * 6
        assert plan.price == pytest.approx((plan.prompt_tokens + 3 * 150) / 1e6)
        assert client.plan(calls(5)).price is None  # no estimate of the replies' length
        limited = client.plan(calls(5, parameters={"max_completion_tokens": 7}))
        assert limited.completion_tokens == 5 * 7  # parameters are part of the key
        unknown = LLMClient(settings(server, model="other"), cache, prices=prices)
        assert unknown.plan(calls(5), completion_tokens=1).price is None
        assert unknown.run(calls(1)).cost is None
        assert len(server.requests) == 3


def test_uncounted_replies_are_said_to_be(cache: ReplyCache) -> None:
    with serve(always(content=GOOD, usage=None)) as server:
        run = LLMClient(settings(server), cache).run(calls(2))
        assert run.paid.uncounted == run.paid.calls == 2


def test_wrong_use_is_refused_early(cache: ReplyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (
        {"base_url": "localhost:8000"},
        {"base_url": "http://me:pass@host/v1"},
        {"structured": "xml"},
        {"concurrency": 0},
        {"parameters": {"stream": True}},
        {"model": ""},
    ):
        with pytest.raises(ValueError):
            LLMSettings(**{"model": "m", **bad})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="MY_KEY"):
        LLMClient(LLMSettings("m", api_key_variable="MY_KEY"), cache).run(calls(1))
    with serve(always(content=GOOD)) as server:
        with pytest.raises(ValueError, match="extra_body"):
            LLMClient(settings(server, parameters={"no_such_thing": 1}), cache).run(calls(1))
        with pytest.raises(ValueError, match="item 0"):
            LLMClient(settings(server, parameters={"stop": object()}), cache).run(calls(1))
        local = LLMClient(settings(server, api_key=None, api_key_variable="MY_KEY"), cache)
        assert not local.run(calls(1)).failed

        async def inside() -> None:
            local.run(calls(1))

        with pytest.raises(RuntimeError, match="run_async"):
            asyncio.run(inside())


def test_without_the_package_the_error_says_what_to_install(cache: ReplyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"dpg-fast\[llm\]"):
        LLMClient(LLMSettings("m", base_url="http://127.0.0.1:9/v1"), cache).run(calls(1))


def test_embeddings_are_stored_and_normalised(cache: ReplyCache) -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        assert body["path"] == "/v1/embeddings"
        rows = [{"object": "embedding", "index": i, "embedding": [3.0, len(t)]} for i, t in enumerate(body["input"])]
        return Answer(body={"object": "list", "model": "e", "data": rows[::-1], "usage": {"prompt_tokens": 1}})

    with serve(script) as server:
        client = LLMClient(settings(server), cache)
        texts = ["abcd", "b", "abcd"]
        found = client.embed(texts, "e")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-6)
        np.testing.assert_array_equal(found[0], found[2])
        assert server.requests[0]["input"] == ["abcd", "b"]
        client.embed([*texts, "new"], "e")
        assert server.requests[1]["input"] == ["new"]
    with serve(always(status=400, error="no embeddings here")) as server, pytest.raises(LLMError, match="embeddings"):
        LLMClient(settings(server), cache).embed(["x"], "e")


RUNNER = """
import sys
from pydantic import BaseModel
from dpg_fast.llm import Call, LLMClient, LLMSettings

class Rating(BaseModel):
    reason: str
    rating: int

url, path, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
calls = [
    Call(f"item {i}", [{"role": "user", "content": f"rate {i}"}], Rating, "1") for i in range(first, last)
]
client = LLMClient(LLMSettings("m", base_url=url, concurrency=4, max_retries=0), path)
run = client.run(calls)
print(len(run.results), len(run.failed), run.paid.calls)
"""


def start(server: FakeServer, path: Path, first: int, last: int) -> subprocess.Popen[str]:
    arguments = [server.url, str(path), str(first), str(last)]
    return subprocess.Popen([sys.executable, "-c", RUNNER, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_after_kill_9_no_received_reply_is_asked_for_again(tmp_path: Path) -> None:
    path, total = tmp_path / "replies.sqlite", 40
    with serve(always(content=GOOD, delay=0.05)) as server:
        process = start(server, path, 0, total)
        deadline = time.monotonic() + 60
        while len(server.finished) < 15 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        time.sleep(0.3)
        before = len(server.requests)
        assert 15 <= before < total, "killed in the middle"
        with ReplyCache(path) as cache:
            stored = len(cache)
        # A reply may be on its way or not yet written for each of the four calls under way, no more.
        assert before - stored <= 4
        process = start(server, path, 0, total)
        output, _ = process.communicate(timeout=120)
        assert output.split() == [str(total), "0", str(total - stored)]
        assert len(server.requests) == before + total - stored
        asked = Counter(last_user(body) for body in server.requests)
        assert len(asked) == total and sum(n - 1 for n in asked.values()) == before - stored
        process = start(server, path, 0, total)
        assert process.communicate(timeout=120)[0].split() == [str(total), "0", "0"]
        assert len(server.requests) == before + total - stored


@pytest.mark.slow
def test_ctrl_c_keeps_the_replies_under_way(tmp_path: Path) -> None:
    path, total = tmp_path / "replies.sqlite", 40
    with serve(always(content=GOOD, delay=0.3)) as server:
        process = start(server, path, 0, total)
        deadline = time.monotonic() + 60
        while len(server.finished) < 6 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
        before = len(server.requests)
        with ReplyCache(path) as cache:
            assert 6 <= len(cache) == before < total
        process = start(server, path, 0, total)
        assert process.communicate(timeout=120)[0].split() == [str(total), "0", str(total - before)]
        assert len(server.requests) == total


@pytest.mark.slow
def test_two_programs_at_once_share_their_calls(tmp_path: Path) -> None:
    """Each with the file open for itself, both asking for the same."""
    with serve(always(content=GOOD, delay=0.05)) as server:

        def program() -> tuple[int, int]:
            with LLMClient(settings(server, concurrency=4), tmp_path / "replies.sqlite") as client:
                run = client.run(calls(20))
                return run.paid.calls, len(run.failed)

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: program(), range(2))
        assert len(server.requests) == 20 == first[0] + second[0] and first[1] == second[1] == 0


def test_a_claim_ends_with_its_process_or_its_time(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    dead = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from dpg_fast.llm import ReplyCache; print(ReplyCache({str(path)!r}).claim('a', 1000))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    with ReplyCache(path) as mine, ReplyCache(path) as other:
        assert dead.stdout.strip() == "True" and mine.claim("a", 1000) and mine.claim("a", 1000)
        assert not other.claim("a", 1000)
        other.release("a")
        assert not other.claim("a", 1000)  # only the owner releases
        mine.release("a")
        assert other.claim("a", 0.01)
        time.sleep(0.02)
        assert mine.claim("a", 1)


@pytest.mark.slow
def test_processes_share_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with serve(always(content=GOOD, delay=0.01)) as server:
        processes = [start(server, path, first, first + 30) for first in (0, 10, 20)]
        for process in processes:
            assert process.communicate(timeout=120)[0].split()[:2] == ["30", "0"]
        with ReplyCache(path) as cache:
            assert len(cache) == 50
        process = start(server, path, 0, 50)
        assert process.communicate(timeout=120)[0].split() == ["50", "0", "0"]
