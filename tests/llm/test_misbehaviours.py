"""Servers as they are: what a run costs and comes to for each misbehaviour, in calls that reach the server."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.llm import LLMClient, LLMError, LLMSettings
from tests.llm.misbehaviours import ANSWER, ITEMS, TABLE
from tests.llm.server import Answer, serve
from tests.llm.test_client import calls

pytest.importorskip("openai")


@pytest.mark.parametrize("name", TABLE)
def test_what_a_misbehaviour_costs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpg_fast.llm.session._pause", lambda refusal, retries: 0.0)
    row = TABLE[name]
    seen: Counter[int] = Counter()

    def script(body: dict[str, Any], number: int) -> Answer:
        item = int(str(body["messages"][0]["content"]).split()[1])
        seen[item] += 1
        return row.behave(body, item, seen[item] - 1)

    with serve(script) as server:
        settings = LLMSettings(
            "m", server.url, "k" * 20, concurrency=4, max_retries=1, timeout=20.0, parameters=row.parameters
        )
        with LLMClient(settings, tmp_path / "replies.sqlite") as client:
            if row.ends is not None:
                with pytest.raises(LLMError, match=re.compile(row.ends, re.DOTALL)):
                    client.run(calls(ITEMS))
                right, kinds = 0, set()
            else:
                run = client.run(calls(ITEMS))
                right = sum(result.value is not None and result.value.rating == 4 for result in run.results)
                kinds = {result.failure.kind for result in run.failed if result.failure}
                assert client.paid.calls == run.paid.calls
                before = len(server.requests)
                again = client.run(calls(ITEMS))  # what was paid for is not asked for again
                assert again.paid.calls == 0 and len(server.requests) - before <= len(run.failed)
                del server.requests[before:]
    sent = len(server.requests)
    print(f"{name}: {sent} calls for {ITEMS} items, {right} right{', ended early' if row.ends else ''}")
    assert right == row.right and kinds == set(row.kinds)
    assert sent <= row.calls and sent <= 2 * ITEMS and (row.ends is None or sent <= 20)
    assert max(seen.values()) <= 5  # what is learnt costs the first item alone


def test_a_prompt_that_a_server_cuts_is_named(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 2048, "completion_tokens": 9}
    with serve(lambda body, number: Answer(ANSWER, usage=usage)) as server:
        client = LLMClient(LLMSettings("m", server.url, "k" * 20), tmp_path / "replies.sqlite")
        client.run(calls(2))
        assert not client.learnt.notes
        client.run(
            [replace(call, messages=[{"role": "user", "content": f"{call.item}, " * 4000}]) for call in calls(3)]
        )
        (note,) = client.learnt.notes
        assert "2,048 tokens of about" in note and "(item " in note
