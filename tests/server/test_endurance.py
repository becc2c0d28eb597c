"""Ten thousand requests of all kinds: every one is answered as it should be, memory stays flat, no answer holds a trace."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from dpg_fast.server.engine import EngineLimits
from tests.model.test_wrapper import personality_model
from tests.server.running import alone, running
from tests.server.test_server import BODY, PEOPLE

REQUESTS, WARM, CLIENTS = 10_000, 3000, 24
CHAT = "/v1/chat/completions"
WRONG: list[tuple[Any, int]] = [
    (b"{", 400),
    (b'{"model": "tiny", "messages": "hello"}', 400),
    (BODY | {"personality": "E+9"}, 400),
    (BODY | {"model": "other"}, 404),
    (BODY | {"logit_bias": {"5": 1}}, 400),
    (BODY | {"max_tokens": 100_000}, 400),
    (BODY | {"messages": [{"role": "user", "content": "long " * 200}]}, 400),
    (BODY | {"messages": [{"role": "user", "content": "x" * 30_000}]}, 413),
    (BODY | {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 3}}}}, 400),
]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_ten_thousand_mixed_requests(tiny_llama: Any, byte_tokenizer: Any) -> None:
    tiny_llama.generation_config.eos_token_id = 0
    limits = EngineLimits(running=32, waiting=64, step_tokens=256, cache_tokens=8192)
    with running(personality_model(tiny_llama), byte_tokenizer, limits=limits) as held:
        expected = [alone(held, f"Question {n}", who, 6) for n, who in enumerate(PEOPLE)]
        seen: Counter[str] = Counter()

        def asked(number: int) -> dict[str, Any]:
            which = number % len(PEOPLE)
            text = [{"role": "user", "content": f"Question {which}"}]
            return BODY | {"messages": text, "personality": PEOPLE[which], "max_tokens": 6}

        async def one(client: httpx.AsyncClient, number: int) -> None:
            kind = ("whole", "stream", "wrong", "gone", "drawn", "json", "whole", "stream")[number % 8]
            right = expected[number % len(PEOPLE)]
            seen[kind] += 1
            if kind == "whole":
                found = await client.post(CHAT, json=asked(number))
                assert found.status_code == 200, found.text
                assert found.json()["choices"][0]["message"]["content"] == right
            elif kind == "stream":
                found = await client.post(CHAT, json=asked(number) | {"stream": True})
                lines = [line[6:] for line in found.text.splitlines() if line]
                assert lines[-1] == "[DONE]"
                chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
                assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == right
            elif kind == "wrong":
                body, status = WRONG[number // 8 % len(WRONG)]
                found = await client.post(CHAT, **({"content": body} if isinstance(body, bytes) else {"json": body}))
                assert (found.status_code, list(found.json())) == (status, ["error"])
            elif kind == "gone":
                body = asked(number) | {"max_tokens": 200, "temperature": 1, "stream": True}
                async with client.stream("POST", CHAT, json=body) as stream:
                    await anext(stream.aiter_lines())
                return
            elif kind == "drawn":  # of somebody whom nobody else asks for
                who = {"extraversion": number % 983 / 100 - 4.9, "openness": number % 91 / 10 - 4.5}
                found = await client.post(CHAT, json=asked(number) | {"personality": who, "temperature": 1, "n": 2})
                assert found.status_code == 200, found.text
                assert [c["finish_reason"] in ("stop", "length") for c in found.json()["choices"]] == [True, True]
            else:
                found = await client.post(CHAT, json=asked(number) | {"response_format": FORMAT, "max_tokens": 12})
                assert found.status_code == 200, found.text
                assert json.loads(found.json()["choices"][0]["message"]["content"])["a"] in (1, 2)
            assert "Traceback" not in found.text and 'File "' not in found.text

        async def everybody(numbers: range) -> None:
            rest = iter(numbers)
            async with httpx.AsyncClient(base_url=held.url, timeout=120) as client:

                async def worker() -> None:
                    for number in rest:
                        await one(client, number)

                async with asyncio.TaskGroup() as group:
                    for _ in range(CLIENTS):
                        group.create_task(worker())

        asyncio.run(everybody(range(WARM)))
        assert held.idle()
        before = resident()
        asyncio.run(everybody(range(WARM, REQUESTS)))
        assert held.idle() and held.served.engine.failure is None
        grown = (resident() - before) / 2**20
        print(f"{REQUESTS} requests, {dict(seen)}; {grown:+.1f} MiB in the last {REQUESTS - WARM}")
        assert sum(seen.values()) == REQUESTS
        assert grown < 24, grown
