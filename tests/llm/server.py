"""An OpenAI-compatible server on a real socket that says what a test's script tells it to, and records what it was asked.

One thread serves thousands of calls, so a script must not block: `Answer.delay` makes the client wait.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What the server does with one request: a chat completion, an error, a broken connection, or any raw body."""

    content: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    raw: str | None = None
    hang_up: bool = False
    body: Any = None  # a whole JSON body instead of a chat completion

    def text(self, model: str) -> str:
        """The body of the response."""
        if self.raw is not None:
            return self.raw
        if self.body is not None:
            return json.dumps(self.body)
        if self.status != 200:
            return json.dumps({"error": {"message": self.error, "type": "error", "code": None}})
        message = {"role": "assistant", "content": self.content}
        if self.refusal is not None:
            message["refusal"] = self.refusal
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        reply: dict[str, Any] = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": f"{model}-served"}
        reply["choices"] = [choice]
        if self.usage is not None:
            total = self.usage["prompt_tokens"] + self.usage["completion_tokens"]
            reply["usage"] = {**self.usage, "total_tokens": total}
        return json.dumps(reply)


Script = Callable[[dict[str, Any], int], Answer]


class FakeServer:
    """`script` gets the request's JSON (with "path" and "headers") and how many requests came before it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.finished: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                body |= {"path": first.split()[1], "authorization": headers.get("authorization"), "headers": headers}
                if not await self._answer(body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client was killed or did not wait
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        self.requests.append(body)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            answer = self.script(body, len(self.requests) - 1)
            await asyncio.sleep(answer.delay)
            if answer.hang_up:
                return False
            data = answer.text(str(body.get("model"))).encode()
            sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **answer.headers}
            head = f"HTTP/1.1 {answer.status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            writer.write(f"{head}\r\n".encode("latin-1") + data)
            await writer.drain()
            self.finished.append(body)
            return True
        finally:
            self._under_way -= 1

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)


@contextmanager
def serve(script: Script) -> Iterator[FakeServer]:
    server = FakeServer(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def last_user(body: dict[str, Any]) -> str:
    """The text of the request's last message."""
    return str(body["messages"][-1]["content"])
