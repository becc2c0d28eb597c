"""The server through unmodified clients: who speaks, what is refused, and that nobody is disturbed by anybody."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from dpg_fast.server.access import read_keys
from dpg_fast.server.app import HTTPSettings
from dpg_fast.server.engine import EngineLimits
from dpg_fast.util.errors import DPGError
from tests.model.test_wrapper import personality_model
from tests.server.running import KEY, Running, alone, running

PEOPLE = ["E+5", "E-5 N+4", "leader", None, {"openness": -4, "neuroticism": 5}, [5, -5, 0, 3, 1], "O+2.5"]
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
BODY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "temperature": 0}


@pytest.fixture
def held(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> Iterator[Running]:
    with running(personality_model(tiny_llama), byte_tokenizer, saved=tmp_path / "saved.json") as found:
        yield found


def said(held: Running, personality: Any, *, new: int = 12, text: str = "Hello, who are you?", **more: Any) -> str:
    answer = held.client().chat.completions.create(
        model=more.pop("model", "tiny"),
        messages=[{"role": "user", "content": text}],
        max_tokens=new,
        temperature=0,
        extra_body={} if personality is ... else {"personality": personality},
        **more,
    )
    content: str = answer.choices[0].message.content
    return content


def test_each_client_gets_what_the_model_says_alone(held: Running) -> None:
    expected = [alone(held, "Hello, who are you?", one, 12) for one in PEOPLE]
    assert len(set(expected)) == len(expected)
    assert [said(held, one) for one in PEOPLE] == expected
    assert said(held, ..., model="tiny") == expected[3]
    assert said(held, ..., model="tiny@E-5 N+4") == said(held, ..., model="tiny@E-5,N+4") == expected[1]
    assert said(held, ..., model="tiny@leader") == expected[2]
    vllm = held.client().chat.completions.create(
        **BODY | {"max_tokens": 12}, extra_body={"vllm_xargs": {"personality": "E+5"}}
    )
    assert vllm.choices[0].message.content == expected[0]
    raw = held.client().chat.completions.with_raw_response.create(**BODY, extra_body={"personality": "leader"})
    assert raw.headers["x-personality"] == "O+2 C+4 E+4 A+1 N-3"


def test_streams_at_once_are_the_answers_alone(held: Running) -> None:
    expected = [alone(held, f"Question {n}", one, 10) for n, one in enumerate(PEOPLE * 3)]

    async def one(number: int, who: Any) -> str:
        stream = await held.async_client().chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"Question {number}"}],
            max_completion_tokens=10,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"personality": who},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage is not None and 1 <= chunks[-1].usage.completion_tokens <= 10
        assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] in ("length", "stop")
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])

    async def everybody() -> list[str]:
        return list(await asyncio.gather(*[one(n, who) for n, who in enumerate(PEOPLE * 3)]))

    assert asyncio.run(everybody()) == expected
    assert held.idle()


def test_faults_of_some_leave_the_others_untouched(held: Running) -> None:
    expected = [alone(held, f"Question {n}", who, 40) for n, who in enumerate(PEOPLE)]
    found: dict[int, str] = {}
    refused: list[int] = []

    def good(number: int) -> None:
        found[number] = said(held, PEOPLE[number], new=40, text=f"Question {number}")

    def leave(number: int) -> None:
        body = BODY | {"max_tokens": 400, "stream": True, "personality": f"N+{number % 5}", "temperature": 1}
        with httpx.stream("POST", held.url + "/v1/chat/completions", json=body, timeout=60) as stream:
            next(stream.iter_lines())  # and away

    def bad(number: int) -> None:
        wrong = [{"personality": "E+9"}, {"max_tokens": 10**6}, {"n": 0}, {"model": "tiny@"}, {"messages": []}]
        refused.append(held.post("/v1/chat/completions", BODY | wrong[number % len(wrong)]).status_code)

    threads = [threading.Thread(target=good, args=(n,)) for n in range(len(PEOPLE))]
    threads += [threading.Thread(target=one, args=(n,)) for n in range(10) for one in (leave, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[n] for n in range(len(PEOPLE))] == expected
    assert refused == [400] * 10
    assert held.idle()


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"personality": "E+6"}, 400, "personality"),
        ({"personality": "nobody"}, 400, "personality"),
        ({"personality": {"charm": 3}}, 400, "personality"),
        ({"personality": [1, 2]}, 400, "personality"),
        ({"personality": 7}, 400, "personality"),
        ({"personality": "E+1" * 500}, 400, "personality"),
        ({"personality": "@marit_oss"}, 400, "personality"),
        ({"model": "tiny@E+1", "personality": "E+2"}, 400, "personality"),
        ({"model": "gpt-4"}, 404, "model"),
        ({"model": "tiny@what"}, 400, "model"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 4000}, 400, "messages"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 17}, 400, "n"),
        ({"stop": [""]}, 400, "stop"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"logit_bias": {"5": 10}}, 400, "logit_bias"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "grammar"}}, 400, "response_format"),
        ({"top_logprobs": 3}, 400, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"personalty": "E+5"}, 400, "personalty"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(held: Running, change: dict[str, Any], status: int, param: str) -> None:
    for stream in ({}, {"stream": True}) if "stream_options" not in change else ({},):
        found = held.post("/v1/chat/completions", BODY | change | stream)
        assert found.status_code == status, found.text
        error = found.json()["error"]
        assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"
        assert "Traceback" not in found.text and "dpg_fast" not in found.text
    assert len(held.served.engine) == 0


def test_other_bodies_and_routes_are_refused_in_the_same_shape(held: Running) -> None:
    post = f"{held.url}/v1/chat/completions"
    for content, status in (
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 5000, 400),
        (b"x" * 30_000, 413),
    ):
        found = httpx.post(post, content=content)
        assert (found.status_code, list(found.json())) == (status, ["error"]), content[:10]
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)):
        found = httpx.request(method, held.url + path)
        assert (found.status_code, list(found.json())) == (status, ["error"])
    with pytest.raises(openai.NotFoundError):
        held.client().models.retrieve("other")
    assert [model.id for model in held.client().models.list()] == ["tiny"]


def test_stop_strings_seeds_choices_and_logprobs(held: Running) -> None:
    whole = said(held, "E+5", new=30)
    stop = whole[7:10]
    answer = held.client().chat.completions.create(
        **BODY | {"max_tokens": 30}, stop=["@@@@", stop], extra_body={"personality": "E+5"}
    )
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    pieces = held.client().chat.completions.create(
        **BODY | {"max_tokens": 30}, stop=stop, stream=True, extra_body={"personality": "E+5"}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole[: whole.index(stop)]

    def drawn(seed: int | None, **more: Any) -> list[str | None]:
        body = BODY | {"temperature": 2, "max_tokens": 20, "seed": seed, "n": 3} | more
        return [choice.message.content for choice in held.client().chat.completions.create(**body).choices]

    first = drawn(5)
    assert drawn(5) == first and len(set(first)) == 3 and drawn(6)[0] == first[1]
    assert drawn(None) != drawn(None)
    assert len(set(drawn(5, top_p=1e-9))) == 1
    told = held.client().chat.completions.create(**BODY, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert told is not None and told.content is not None
    for token in told.content:
        assert token.token == token.top_logprobs[0].token and token.logprob == token.top_logprobs[0].logprob <= 0
    text = held.client().completions.create(
        model="tiny@E+5", prompt=["One", "Two"], max_tokens=5, temperature=0, n=2, logprobs=1
    )
    assert [choice.index for choice in text.choices] == [0, 1, 2, 3]
    assert text.choices[0].text == text.choices[1].text != text.choices[2].text
    assert text.usage is not None and text.usage.prompt_tokens == 6 and text.usage.completion_tokens <= 20


def test_saved_personalities_outlive_the_server(held: Running) -> None:
    assert held.post("/v1/personalities", {"name": "ada", "personality": "O+5 E-3"}).json()["personality"] == "O+5 E-3"
    assert said(held, "ada") == said(held, ..., model="tiny@ada") == said(held, "O+5 E-3")
    for name, who in (("leader", "E+1"), ("E5", "E+1"), ("../x", "E+1"), ("bo", "E+9"), ("bo", None)):
        assert held.post("/v1/personalities", {"name": name, "personality": who}).status_code == 400, name
    file = held.served.options.saved
    assert file is not None and json.loads(file.read_text())["personalities"] == {"ada": "O+5 E-3"}
    from dpg_fast.server.people import People

    again = People(file, held.served.engine.check)
    assert str(again.read("ada")) == "O+5 E-3"
    assert {"name": "ada", "personality": "O+5 E-3", "saved": True} in httpx.get(held.url + "/v1/personalities").json()[
        "data"
    ]
    assert httpx.delete(held.url + "/v1/personalities/ada").json() == {"name": "ada", "deleted": True}
    assert httpx.delete(held.url + "/v1/personalities/ada").status_code == 404
    file.write_text('{"schema": "dpg_fast.personalities/1", "personalities": {"x": 3}}')
    with pytest.raises(DPGError, match=re.escape(str(file))):
        People(file, held.served.engine.check)


def test_a_full_server_says_when_to_come_again(tiny_llama: Any, byte_tokenizer: Any) -> None:
    tiny_llama.generation_config.eos_token_id = [-1]  # answers do not end by themselves
    limits = EngineLimits(running=1, waiting=1, step_tokens=64, cache_tokens=1024)
    with running(personality_model(tiny_llama), byte_tokenizer, limits=limits) as held:
        body = BODY | {"max_tokens": 400, "stream": True, "temperature": 1}
        with httpx.stream("POST", held.url + "/v1/chat/completions", json=body, timeout=60) as first:
            lines = first.iter_lines()
            assert next(lines).startswith("data: ")
            found = held.post("/v1/chat/completions", BODY | {"n": 2})
            assert (found.status_code, found.headers["retry-after"]) == (429, "1")
            assert found.json()["error"]["type"] == "rate_limit_error"
        assert held.idle()
        assert held.post("/v1/chat/completions", BODY | {"n": 2}).status_code == 200


def test_keys_time_and_shutdown(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n")
    settings = HTTPSettings(tuple(read_keys("another-good-key-0, ", file)))
    with pytest.raises(DPGError, match="API key 1"):
        read_keys("short", None)
    tiny_llama.generation_config.eos_token_id = [-1]
    with running(personality_model(tiny_llama), byte_tokenizer, settings=settings) as held:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer é"}):
            raw = {name: value.encode() for name, value in headers.items()}
            found = held.post("/v1/chat/completions", BODY, headers=raw)
            assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(held.url + "/health").status_code == httpx.get(held.url + "/ready").status_code == 200
        assert httpx.get(held.url + "/metrics").status_code == 401
        client = held.client()
        assert client.chat.completions.create(**BODY).choices[0].finish_reason in ("length", "stop")
        held.served.streams.seconds = 0.05
        with pytest.raises(openai.APIStatusError) as late:
            client.chat.completions.create(**BODY | {"max_tokens": 400, "n": 16})
        assert late.value.status_code == 504 and held.idle()
        held.served.streams.seconds = 60
        held.served.streams.close(0.0)
        assert httpx.get(held.url + "/ready").status_code == 503
        with pytest.raises(openai.APIStatusError) as closed:
            client.chat.completions.create(**BODY | {"max_tokens": 400})
        assert closed.value.status_code == 503 and held.idle()


def test_metrics_and_log_lines_hold_no_words_of_anybody(held: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        said(held, "E+5", text="my secret sauce", new=5)
        held.post("/v1/chat/completions", BODY | {"personality": "secret sauce"})
    end = time.monotonic() + 10
    counted = ["dpg_fast_active 0.0", *(f'{{route="/v1/chat/completions",status="{n}"}} 1.0' for n in (200, 400))]
    text = ""  # a request is counted after its answer has left
    while not all(line in text for line in counted) and time.monotonic() < end:
        time.sleep(0.05)
        text = httpx.get(held.url + "/metrics").text
    assert all(line in text for line in counted), text
    assert re.search(r"dpg_fast_generated_tokens_total [1-5]\.0", text)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("dpg_fast")]
    assert len(ours) >= 2 and not any("secret" in line or "sauce" in line for line in ours)
