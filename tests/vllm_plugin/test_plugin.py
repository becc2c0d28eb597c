"""The vLLM plugin on this machine's processors, in the environment that `make setup-vllm` makes; `make test-vllm` runs this."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.model.loading import load_wrapped
from dpg_fast.personality.scores import PRESETS, Personality
from tests.llm.test_real_server import free_port, running, script

openai = pytest.importorskip("openai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (script.FOLDER / ".complete").exists(), reason="no vLLM here: make setup-vllm installs one"),
]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_PLUGINS": "dpg_fast",
}
PLUGIN = ["--load-format", "dpg_fast", "--additional-config", json.dumps({"dpg_fast": {"adapter": "both"}})]
PROMPT = "A stranger sits down beside me on the train. I"


def _python() -> str:
    return str(script.FOLDER / "bin" / "python")


def test_verify_in_vllm() -> None:
    """Everything that `dpg-fast verify` checks, compiled, in float32."""
    arguments = [_python(), "-m", "dpg_fast", "verify", "--engine", "vllm"]
    done = subprocess.run(arguments, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for name in ("plain requests", "a mixed batch", "personalities", "A, B, A", "1000 personalities", "malformed"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--load-format", "dpg_fast"], "needs to know an adapter"),
        ([*PLUGIN[:3], '{"dpg_fast": {"adaptor": "both"}}'], "dpg_fast.adapter: Field required"),
        ([*PLUGIN[:3], '{"dpg_fast": {"adapter": "nowhere/at/all"}}'], "nowhere/at/all is neither a directory"),
        ([*PLUGIN, "--enable-lora"], "not served with LoRA"),
        ([*PLUGIN, "--tensor-parallel-size", "3"], "not served with tensor parallelism"),
        (
            [
                *PLUGIN,
                "--speculative-config",
                '{"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}',
            ],
            "not served with speculative decoding",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(arguments: list[str], expected: str, tmp_path: Path) -> None:
    model = str(script.save_model(script.FOLDER / "smollm2"))
    module = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--enforce-eager", "--max-model-len", "512"]
    done = subprocess.run(
        [_python(), *module, *arguments],
        env=os.environ | ENVIRONMENT | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode != 0 and expected in done.stdout + done.stderr


@contextmanager
def _serving(folder: Path, arguments: list[str], environment: dict[str, str]) -> Iterator[str]:
    port, model = free_port(), script.save_model(script.FOLDER / "smollm2")
    command, own = script.command(script.FOLDER, model, port)
    url = f"http://127.0.0.1:{port}/v1"
    with running([*command, *arguments], own | ENVIRONMENT | environment, url, folder / "log"):
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _serving(tmp_path_factory.mktemp("vllm"), PLUGIN, {}) as url:
        yield url


def _ask(url: str, model: str = "smollm2", **more: Any) -> str:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    done = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0, **more)
    text: str = done.choices[0].text
    return text


def test_the_server_gives_each_request_its_personality(server: str) -> None:
    plain = _ask(server)
    people = {person: _ask(server, extra_body={"vllm_xargs": {"personality": person}}) for person in ("E+5", "E-5 N+4")}
    assert len({plain, *people.values()}) == 3
    assert _ask(server, extra_body={"vllm_xargs": {"personality": "E+5"}}) == people["E+5"]
    assert _ask(server, extra_body={"vllm_xargs": {"personality": [0, 0, 5, 0, 0]}}) == people["E+5"]
    assert _ask(server, model="smollm2@E+5") == people["E+5"]
    assert _ask(server, model="smollm2@E-5,N+4") == people["E-5 N+4"]
    assert _ask(server) == plain


def test_chat_and_streams(server: str) -> None:
    client = openai.OpenAI(base_url=server, api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "How was your day?"}],
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"vllm_xargs": {"personality": "E-5 N+4"}},
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content
    stream = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole
    asked["extra_body"] = {}
    assert client.chat.completions.create(**asked).choices[0].message.content != whole


def test_answers_say_which_personality_was_applied(server: str) -> None:
    client = openai.OpenAI(base_url=server, api_key="none", max_retries=0)
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 2}
    for stream in (False, True):
        for model, extra, expected in (
            ("smollm2", {}, "none"),
            ("smollm2", {"vllm_xargs": {"personality": [0, 0, 5, 0, -2]}}, "E+5 N-2"),
            ("smollm2@leader", {}, str(Personality("leader"))),
        ):
            done = client.completions.with_raw_response.create(model=model, extra_body=extra, stream=stream, **asked)
            assert done.headers["X-Personality"] == expected
    with urllib.request.urlopen(f"{server}/personalities", timeout=60) as response:
        listed = {entry["name"]: entry["personality"] for entry in json.load(response)["data"]}
    assert listed["leader"] == str(Personality("leader")) and set(listed) == set(PRESETS)


def test_refusals_have_a_status_also_where_the_answer_is_streamed(server: str) -> None:
    for extra in (
        {"vllm_xargs": {"personality": "E+9"}},
        {"vllm_xargs": {"personality": "E+4"}, "use_beam_search": True},
    ):
        with pytest.raises(openai.BadRequestError):
            _ask(server, stream="use_beam_search" not in extra, extra_body=extra)


@pytest.mark.parametrize(
    "given",
    ["", "E+9", "warm", "E+1 " * 1000, [1, 2, 3], 4, "@nobody", "@nobody/late", [1, 2, 3, 4, "x"]],
    ids=lambda value: str(value)[:12],
)
def test_malformed_requests_are_refused_and_the_server_goes_on(server: str, given: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        _ask(server, extra_body={"vllm_xargs": {"personality": given}})
    assert _ask(server)


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"model": "smollm2@E+9"}, openai.BadRequestError, "out of range"),
        ({"model": "other@E+4"}, openai.NotFoundError, "does not exist"),
        (
            {"model": "smollm2@E+4", "extra_body": {"vllm_xargs": {"personality": "E+4"}}},
            openai.BadRequestError,
            "given twice",
        ),
        ({"extra_body": {"vllm_xargs": {"personalty": "E+4"}}}, openai.BadRequestError, "write 'personality'"),
    ],
)
def test_names_are_understood_or_refused(
    server: str, arguments: dict[str, Any], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        _ask(server, **arguments)


def test_personalities_as_lora_of_an_engine_without_the_loader(tmp_path: Path) -> None:
    """In float32 the same tokens as the wrapped model."""
    arguments = ["--dtype", "float32", "--enable-lora", "--max-lora-rank", "8"]
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "DPG_FAST_LORA_ADAPTER": "smollm2-hypernet"}
    model, tokenizer = load_wrapped(
        str(script.save_model(script.FOLDER / "smollm2")), "smollm2-hypernet", torch.float32
    )
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with _serving(tmp_path, arguments, environment) as url:
        for person in ("E+5", "E-5 N+4", "leader"):
            expected = model.generate(input_ids=ids, personality=person, max_new_tokens=12, do_sample=False)
            text = tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
            assert _ask(url, model="smollm2@" + person.replace(" ", ",")) == text
        with pytest.raises(openai.BadRequestError, match="out of range"):
            _ask(url, model="smollm2@E+9")
        with pytest.raises(openai.NotFoundError):
            _ask(url, model="other@E+4")


def test_neurons_are_not_served_as_lora(tmp_path: Path) -> None:
    environment = os.environ | ENVIRONMENT | {"DPG_FAST_LORA_ADAPTER": "both"}
    arguments = [_python(), "-c", "from vllm.plugins import load_general_plugins; load_general_plugins()"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode != 0 and "neurons, which cannot be served as LoRA" in done.stderr
