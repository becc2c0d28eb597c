"""The command in a process of its own, on SmolLM2: it serves, it ends in time, and what was saved outlives a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from tests.server.test_server import HELLO


@contextmanager
def process(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dpg_fast",
        "serve",
        "--port",
        str(port),
        "--saved",
        str(folder / "saved.json"),
        *words,
    ]
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"DPG_FAST_API_KEYS": ""})
        url = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + 240
            while True:
                assert started.poll() is None and time.monotonic() < end, (folder / "log").read_text()
                try:
                    if httpx.get(url + "/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield started, url
        finally:
            if started.poll() is None:
                started.kill()
            started.wait(30)


@pytest.mark.slow
def test_kill_restart_and_term_during_streams(smollm2: Any, tmp_path: Path) -> None:
    with process(tmp_path) as (server, url):
        for number in range(5):
            body = {"name": f"ada{number}", "personality": {"extraversion": number}}
            assert httpx.post(url + "/v1/personalities", json=body).status_code == 200
        server.send_signal(signal.SIGKILL)
        server.wait(30)
    assert len(json.loads((tmp_path / "saved.json").read_text())["personalities"]) == 5
    assert [path.name for path in tmp_path.iterdir() if path.name != "log"] == ["saved.json"]
    with process(tmp_path, "--grace", "3") as (server, url):
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="smollm2@ada4", messages=HELLO, max_tokens=8, temperature=0)
        assert answer.choices[0].message.content
        judged = httpx.post(url + "/v1/assess", json={"question": "A party?", "text": "I love parties!"}, timeout=240)
        found = judged.json()["traits"]
        assert len({one["trait"] for one in found}) == 5
        assert all(-5 <= one["low"] <= one["score"] <= one["high"] <= 5 for one in found), found
        assert any(one["low"] < one["high"] for one in found), found  # a few words: the tanh has most at its ends
        ends: list[str] = []

        def stream(new: int) -> None:
            try:
                pieces = client.chat.completions.create(
                    model="smollm2", messages=HELLO, max_tokens=new, stream=True, extra_body={"personality": "E+3"}
                )
                ends.append([piece.choices[0].finish_reason for piece in pieces][-1] or "cut")
            except openai.APIError as error:
                ends.append(str(error).rpartition(" - ")[2])

        threads = [threading.Thread(target=stream, args=(2000 if n % 2 else 6,)) for n in range(32)]
        for thread in threads:
            thread.start()
        while "dpg_fast_active 32" not in httpx.get(url + "/metrics").text and len(ends) < 16:
            time.sleep(0.05)
        begin = time.monotonic()
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert server.wait(60) == 0 or server.returncode == -signal.SIGTERM
        assert time.monotonic() - begin < 30
        assert len(ends) == 32
        assert set(ends) <= {"stop", "length", "the server is shutting down"}, set(ends)
        assert ends.count("the server is shutting down") >= 1
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "party" not in log.lower()


def test_what_the_command_refuses(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nothing\n")
    for words in (["--api-keys", str(tmp_path / "keys")], ["--base-model", "x"], ["--name", "a@b"]):
        result = CliRunner().invoke(app, ["serve", *words])
        assert result.exit_code == 2 and result.output.startswith("dpg-fast serve: "), result.output
