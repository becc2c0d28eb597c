"""What servers say when they refuse a call, and what is made of it. The bodies are in refusals.json, by server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.llm.refusals import HINTS, Kind, read_refusal

KNOWN = json.loads(Path(__file__).with_name("refusals.json").read_text())
SERVERS = {known["server"] for known in KNOWN}
WANTED = "OpenAI, Azure, Mistral, Groq, Together, OpenRouter, vLLM, SGLang, llama.cpp, Ollama, LM Studio, TGI"


def text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known['server']}-{known['status']}-{known['kind']}")
def test_known_refusals(known: dict[str, Any]) -> None:
    found = read_refusal(known["status"], text(known["body"]))
    assert found.kind == known["kind"], found


def test_the_table_has_every_server_and_every_kind() -> None:
    assert set(WANTED.split(", ")) <= SERVERS
    assert {known["kind"] for known in KNOWN} == {kind.value for kind in Kind} - {"no_answer"}
    assert set(HINTS) <= set(Kind)


@pytest.mark.parametrize("form", ["string", "detail", "list", "nested", "text"])
def test_the_form_of_the_body_does_not_matter(form: str) -> None:
    seen = 0
    for known in KNOWN:
        error = known["body"].get("error") if isinstance(known["body"], dict) else None
        if not isinstance(error, dict) or "metadata" in error:
            continue  # has a form of its own
        rest = {name: error[name] for name in error if name != "message"}
        if form == "text" and any(rest.get(name) for name in ("code", "param", "type")):
            continue  # they say it
        bodies: dict[str, Any] = {
            "string": {"error": error["message"], **rest},
            "detail": {"detail": {"msg": error["message"], **rest}},
            "list": [{"errors": [error]}],
            "nested": {"error": {"message": json.dumps({"error": error})}},
            "text": error["message"],
        }
        assert read_refusal(known["status"], text(bodies[form])).kind == known["kind"], known
        seen += 1
    assert seen > 0


def test_what_is_shown_is_what_the_server_said() -> None:
    found = read_refusal(422, json.dumps(KNOWN[[k["server"] for k in KNOWN].index("Mistral")]["body"]))
    assert str(found) == "422: Extra inputs are not permitted (max_completion_tokens)"
    assert str(read_refusal(400, "")) == "400: without a word"
    assert len(str(read_refusal(400, "x" * 10_000))) < 1000


_KEYS = st.sampled_from(["error", "detail", "message", "code", "loc", "raw", "param"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([200, 400, 401, 429, 500]), _JSON | st.text())
def test_any_body_is_read(status: int, body: Any) -> None:
    assert read_refusal(status, text(body)).kind in Kind


def test_deep_bodies_are_read() -> None:
    assert read_refusal(400, '{"error":' * 100_000).kind == Kind.OTHER
    assert read_refusal(400, '{"error":' * 500 + "1" + "}" * 500).kind == Kind.OTHER
