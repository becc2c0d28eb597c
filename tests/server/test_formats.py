"""Answers that have to be JSON, and calls of tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from dpg_fast.server.tools import ToolText, knows_tools
from tests.model.test_wrapper import personality_model
from tests.server.running import Running, running
from tests.server.test_server import BODY, HELLO

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["calm", "wild"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["mood", "age"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
HERMES = (
    "{% if tools %}# Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %} Answer <tool_call>...</tool_call>\n"
    "{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}\n{% endfor %}assistant:"
)


@pytest.fixture
def held(tiny_llama: Any, byte_tokenizer: Any) -> Iterator[Running]:
    tiny_llama.generation_config.eos_token_id = 0
    with running(personality_model(tiny_llama), byte_tokenizer) as found:
        yield found


def test_answers_obey_a_schema_and_others_in_the_batch_do_not(held: Running) -> None:
    client = held.client()
    plain = client.chat.completions.create(**BODY).choices[0].message.content
    found = set()
    for who in ("E+5 N-2", None):
        for temperature in (0, 1.5):
            more = {"max_tokens": 60, "temperature": temperature, "seed": 3, "n": 3}
            answer = client.chat.completions.create(
                **BODY | more, response_format=FORMAT, extra_body={"personality": who}
            )
            for choice in answer.choices:
                value = json.loads(choice.message.content or "")
                assert set(value) == {"mood", "age"} and value["mood"] in ("calm", "wild") and 0 <= value["age"] <= 99
                assert choice.finish_reason == "stop"
                found.add(choice.message.content)
    assert len(found) > 3  # it is the model that chooses
    stream = client.chat.completions.create(**BODY | {"max_tokens": 60}, response_format=FORMAT, stream=True)
    json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream))
    anything = client.chat.completions.create(
        **BODY | {"max_tokens": 30, "logprobs": True}, response_format={"type": "json_object"}
    )
    assert (anything.choices[0].message.content or "").startswith("{")
    logprobs = anything.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None and logprobs.content[0].logprob < -1  # the model's own
    assert client.chat.completions.create(**BODY).choices[0].message.content == plain
    assert held.idle()


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"not": {}}, {"type": "string", "pattern": "("}, {"$ref": "http://a/b"}]
)
def test_schemas_that_are_refused(held: Running, schema: Any) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = held.post("/v1/chat/completions", BODY | {"response_format": wrong})
    assert error.status_code == 400 and error.json()["error"]["param"] == "response_format", error.text
    assert "not supported" in error.json()["error"]["message"]


def test_tools_reach_the_template_or_are_refused(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model = personality_model(tiny_llama)
    turns = [
        *HELLO,
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"age": 3}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": "wild"},
    ]
    with running(model, byte_tokenizer) as plain:
        for change, param in (({"tools": [TOOL]}, "tools"), ({"messages": turns}, "messages")):
            error = plain.post("/v1/chat/completions", BODY | change)
            assert error.status_code == 400 and error.json()["error"]["param"] == param, error.text
    byte_tokenizer.chat_template = HERMES
    with running(model, byte_tokenizer) as other:
        read = other.post("/v1/chat/completions", BODY | {"messages": turns, "tools": [TOOL]}).json()
        without = other.post("/v1/chat/completions", BODY | {"messages": turns}).json()
        unasked = other.post("/v1/chat/completions", BODY | {"messages": turns, "tools": [TOOL], "tool_choice": "none"})
        assert unasked.json()["usage"] == without["usage"]
        assert read["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"] + 100
        assert read["choices"][0]["message"].get("tool_calls") is None
        for change in (
            {"tools": [TOOL], "tool_choice": "required"},
            {"tools": [TOOL], "response_format": FORMAT},
            {"tools": [{"type": "web_search"}]},
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"messages": [*HELLO, {"role": "user"}]},
            {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
        ):
            refused = other.post("/v1/chat/completions", BODY | change)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] in [*change, "messages"], refused.text


CALLS = [
    (
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"age": 3}}\n</tool_call>',
        "Let me see.",
        ["weather"],
    ),
    ('<tool_call>{"name": "a"}</tool_call>\n<tool_call>{"name": "b", "arguments": {}}</tool_call>', "", ["a", "b"]),
    ('<tool_call>[{"name": "a"}, {"name": "b"}]</tool_call>', "", ["a", "b"]),
    ("a < b <tool", "a < b <tool", []),
    ("Broken: <tool_call>{'name'}</tool_call>", "Broken: <tool_call>{'name'}</tool_call>", []),
    ("<tool_call>3</tool_call> ", "<tool_call>3</tool_call> ", []),
    ("Nothing. \n", "Nothing. \n", []),
]


@pytest.mark.parametrize(("text", "kept", "names"), CALLS)
def test_calls_are_found_however_the_text_comes_in(text: str, kept: str, names: list[str]) -> None:
    for size in (1, 3, 7, len(text)):
        pieces = re.findall(f"(?s).{{1,{size}}}", text)
        reader, given = ToolText(), ""
        for number, piece in enumerate(pieces, 1):
            part, calls = reader.add(piece, last=number == len(pieces))
            given += part
        assert given == kept
        assert [call["function"]["name"] for call in calls] == names
        assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


def test_templates_that_are_known() -> None:
    assert knows_tools(HERMES)
    assert not knows_tools(None) and not knows_tools("{{ tools }}") and not knows_tools(HERMES + "<function=")


@pytest.mark.slow
def test_smollm2_calls_a_tool(smollm2: Any) -> None:
    base, tokenizer = smollm2
    tokenizer.chat_template = HERMES
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    turns: list[Any] = []
    for city in ("Rome", "Paris", "Bern"):
        turns += [{"role": "user", "content": f"Weather in {city}?"}]
        turns += [{"role": "assistant", "content": call.replace("Oslo", city)}]
    with running(personality_model(base), tokenizer) as held:
        for stream in (False, True):
            answer = held.client().chat.completions.create(
                model="tiny",
                messages=[*turns, {"role": "user", "content": "Weather in Oslo?"}],
                tools=[TOOL],
                temperature=0,
                max_tokens=40,
                stop=["\nuser"],
                stream=stream,
            )
            if not isinstance(answer, openai.Stream):
                choice = answer.choices[0]
                calls: Any = choice.message.tool_calls
                assert choice.finish_reason == "tool_calls" and choice.message.content is None
            else:
                last = [chunk.choices[0] for chunk in answer][-1]
                calls = last.delta.tool_calls
                assert last.finish_reason == "tool_calls"
            assert calls[0].function.name == "weather"
            assert json.loads(calls[0].function.arguments) == {"city": "Oslo"}
