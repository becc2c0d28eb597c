"""A chat server in one thread that counts what it is asked: for runs of thousands of calls."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class QuickServer:
    """Answers every request with ``reply(body)``, after ``delay`` seconds; `asked` has ``name(body)`` of each request."""

    def __init__(self, reply: Callable[[bytes], str], name: Callable[[bytes], str], delay: float) -> None:
        self.asked: list[str] = []
        self.most_at_once = 0
        self._reply, self._name, self._delay = reply, name, delay
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
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                self.asked.append(self._name(body))
                self._under_way += 1
                self.most_at_once = max(self.most_at_once, self._under_way)
                await asyncio.sleep(self._delay)
                self._under_way -= 1
                message = {"role": "assistant", "content": self._reply(body)}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
                reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
                data = json.dumps(reply | {"choices": [choice]}).encode()
                kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                writer.write(kind + str(len(data)).encode() + b"\r\n\r\n" + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)


@contextmanager
def serve_quickly(
    reply: Callable[[bytes], str], name: Callable[[bytes], str], delay: float = 0.0
) -> Iterator[QuickServer]:
    server = QuickServer(reply, name, delay)
    server.start()
    try:
        yield server
    finally:
        server.stop()
