"""The load generator for servers, against a small server of its own kind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.serving import main, person, read_targets

pytest.importorskip("openai")
TOKENS = 3


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that streams as OpenAI's do, and what it was asked; it fails for one of the personalities."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, kind: str, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            self._send(
                200, "application/json", json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if body.get("vllm_xargs", {}).get("personality", "").startswith("E-4.9"):
                self._send(500, "application/json", json.dumps({"error": {"message": "gone"}}))
                return
            chunk = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
            chunk["choices"] = [{"index": 0, "text": "a", "finish_reason": None, "logprobs": None}]  # type: ignore[assignment]
            self._send(200, "text/event-stream", f"data: {json.dumps(chunk)}\n\n" * TOKENS + "data: [DONE]\n\n")

        def log_message(self, *args: object) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}/v1", asked
    found.shutdown()


@pytest.mark.parametrize("rate", [[], ["--rate", "500"]])
def test_what_is_asked_and_what_failed(
    rate: list[str], server: tuple[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = server
    arguments = ["--target", f"plain={url}", "--target", f"people={url}#m", "--people", "0", "3"]
    status = main([*arguments, "--rounds", "2", "--requests", "6", "--concurrency", "3", "--tokens", "3", *rate])
    table = capsys.readouterr().out
    people = [body["vllm_xargs"]["personality"] for body in asked if "vllm_xargs" in body]
    assert len(asked) == 2 * (3 + 2 * 6) and len(people) == len(asked) / 2
    assert set(people) == {person(number, 3) for number in range(3)} and len(set(people)) == 3
    assert status == 1 and "InternalServerError" in table
    plain, with_people = (line.split("|") for line in table.splitlines() if line.startswith(("| plain", "| people")))
    assert plain[3].strip() == "1.000" and plain[6].strip() == "0"
    assert int(with_people[6]) == people[3:].count(person(1, 3))


def test_a_thousand_people_differ() -> None:
    assert len({person(number, 1000) for number in range(1000)}) == 1000


@pytest.mark.parametrize(("targets", "people"), [(["http://a"], []), (["a=ftp://b"], []), (["a=http://b"], [1, 2])])
def test_unreadable_targets_are_refused(targets: list[str], people: list[int]) -> None:
    with pytest.raises(SystemExit):
        read_targets(targets, people)
