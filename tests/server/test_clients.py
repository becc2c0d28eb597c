"""Clients that others wrote, unmodified; each test skips where its client is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.model.test_wrapper import personality_model
from tests.server.running import KEY, Running, alone, running

TEXT = "Hello, who are you?"


@pytest.fixture
def held(tiny_llama: Any, byte_tokenizer: Any) -> Iterator[Running]:
    with running(personality_model(tiny_llama), byte_tokenizer) as found:
        yield found


def test_litellm(held: Running) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    asked: dict[str, Any] = {
        "model": "openai/tiny",
        "api_base": held.url + "/v1",
        "api_key": KEY,
        "messages": [{"role": "user", "content": TEXT}],
        "max_tokens": 8,
        "temperature": 0,
        "extra_body": {"personality": "E+5"},
    }
    expected = alone(held, TEXT, "E+5", 8)
    assert litellm.completion(**asked).choices[0].message.content == expected
    pieces = litellm.completion(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == expected


def test_langchain(held: Running) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(
        base_url=held.url + "/v1",
        api_key=KEY,
        model="tiny",
        temperature=0,
        max_tokens=8,
        extra_body={"personality": "E+5"},
    )
    expected = alone(held, TEXT, "E+5", 8)
    assert chat.invoke(TEXT).content == expected
    assert "".join(chunk.content for chunk in chat.stream(TEXT)) == expected


def test_inspect(held: Running, tmp_path: Any) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import includes

    expected = alone(held, TEXT, "E+5", 8)
    model = get_model("openai-api/dpg/tiny@E+5", base_url=held.url + "/v1", api_key=KEY)
    task = inspect_ai.Task(dataset=[Sample(input=TEXT, target="x")], scorer=includes())
    (log,) = inspect_ai.eval(task, model=model, max_tokens=8, temperature=0, display="none", log_dir=str(tmp_path))
    assert log.status == "success" and log.samples[0].output.completion == expected
