"""Five thousand dialogues, 64 calls at once, the process killed three times: each judged once, nothing paid for twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.judges.evidence_prompt import EvidenceReply
from dpg_fast.llm import ReplyCache
from dpg_fast.personality.scores import Trait
from dpg_fast.util.store import read_rows
from tests.llm.server import Answer, FakeServer, last_user, serve

pytest.importorskip("openai")
TOTAL, AT_ONCE, KILLS = 5000, 64, 3
KEY = "sk-secret-9876543210"
NUMBER = re.compile(r"My number is (\d+) today")
PROGRAM = "from dpg_fast.cli.app import main; main()"


def reply(body: dict[str, Any], number: int) -> Answer:
    quote = f"My number is {name(body)} today"
    trait = {"quotes": [quote], "level": int(name(body)) % 11 - 5, "confidence": "high"}
    # the first answers wait: however slow the client is to send, its calls are under way at the same time
    return Answer(json.dumps({t.value: trait for t in Trait}), delay=2.0 if number < AT_ONCE else 0.02)


def name(body: dict[str, Any]) -> str:
    found = NUMBER.search(last_user(body))
    assert found is not None
    return found[1]


def asked(server: FakeServer) -> list[str]:
    return [name(body) for body in server.requests]


def start(server: FakeServer, folder: Path) -> subprocess.Popen[bytes]:
    arguments = ["assess", "judge", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl"), "--judge", "openai"]
    arguments += ["--judge-model", "m", "--judge-url", server.url, "--concurrency", str(AT_ONCE), "--timeout", "60"]
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environment, stdout=log, stderr=log)


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stored(folder: Path) -> int:
    with ReplyCache(folder / "out.jsonl.replies.sqlite") as cache:
        return len(cache)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_killed_three_times(tmp_path: Path) -> None:
    with (tmp_path / "in.jsonl").open("w") as file:
        for i in range(TOTAL):
            said = {"role": "assistant", "content": f"My number is {i} today, and I like it."}
            file.write(json.dumps({"messages": [{"role": "user", "content": "Well?"}, said], "source": "test"}) + "\n")
    assert set(EvidenceReply.model_fields) == {t.value for t in Trait}
    draw = random.Random(5)
    with serve(reply) as server:
        repeated = 0
        for kill in range(KILLS):
            process = start(server, tmp_path)
            enough = kill * 500 + draw.randrange(150, 600)
            deadline = time.monotonic() + 300
            while len(server.requests) < enough and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            time.sleep(0.3)
            known, kept = set(asked(server)), stored(tmp_path)
            assert enough <= len(server.requests) < TOTAL, (tmp_path / "log").read_text()
            assert 0 <= len(known) - kept <= AT_ONCE  # lost: what was under way, no more
            repeated += len(known) - kept
        process = start(server, tmp_path)
        sizes = []
        while process.poll() is None:
            if len(server.requests) > 2200:
                sizes.append(resident(process))
            time.sleep(0.05)
        assert process.returncode == 0, (tmp_path / "log").read_text()
        assert len(server.requests) == TOTAL + repeated and max(Counter(asked(server)).values()) <= 1 + KILLS
        assert AT_ONCE // 2 < server.most_at_once <= 2 * AT_ONCE  # a killed client's calls end a little later
        rows = list(read_rows(tmp_path / "out.jsonl"))
        assert sorted(row["record"] for row in rows) == list(range(1, TOTAL + 1))
        assert all(row["scores"]["openness"] == (row["record"] - 1) % 11 - 5 for row in rows)
        assert len({row["item"] for row in rows}) == TOTAL
        sizes = [size for size in sizes if size > 0]
        early, late = sizes[len(sizes) // 10], max(sizes)
        assert late - early < 12 * 2**20, [size >> 20 for size in sizes[:: max(1, len(sizes) // 20)]]
        before = len(server.requests)
        process = start(server, tmp_path)
        assert process.wait(120) == 0 and len(server.requests) == before
        assert sum(1 for _ in read_rows(tmp_path / "out.jsonl")) == TOTAL
    assert not (tmp_path / "out.failed.jsonl").exists()
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path.name
