"""An OpenAI-compatible server on a real socket that says what a test's script tells it to, and records what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


Script = Callable[[dict[str, Any], int], Answer]


class FakeServer:
    """`script` gets the request's JSON (with "path") and how many requests came before it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.finished: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._under_way = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        body["path"] = handler.path
        body["authorization"] = handler.headers.get("Authorization")
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            answer = self.script(body, number)
            time.sleep(answer.delay)
            self._write(handler, answer, body)
            with self._lock:
                self.finished.append(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed or did not wait
        finally:
            with self._lock:
                self._under_way -= 1

    @staticmethod
    def _write(handler: BaseHTTPRequestHandler, answer: Answer, body: dict[str, Any]) -> None:
        if answer.hang_up:
            handler.close_connection = True
            handler.connection.close()
            return
        if answer.raw is not None:
            text = answer.raw
        elif answer.status != 200:
            text = json.dumps({"error": {"message": answer.error, "type": "error", "code": None}})
        elif answer.body is not None:
            text = json.dumps(answer.body)
        else:
            message = {"role": "assistant", "content": answer.content}
            if answer.refusal is not None:
                message["refusal"] = answer.refusal
            reply: dict[str, Any] = {
                "id": "chat-1",
                "object": "chat.completion",
                "created": 1,
                "model": str(body.get("model")) + "-served",
                "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}],
            }
            if answer.usage is not None:
                total = answer.usage["prompt_tokens"] + answer.usage["completion_tokens"]
                reply["usage"] = {**answer.usage, "total_tokens": total}
            text = json.dumps(reply)
        data = text.encode()
        handler.send_response(answer.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


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
