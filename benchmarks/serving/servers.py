"""Servers that are started for the load: vLLM plain, with the plugin and with its own LoRA; and `dpg-fast serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.serving.load import Target, people

__all__ = ["transformers_targets", "vllm_targets"]

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".venv-vllm"
SECONDS = 900  # until a server must answer


@contextmanager
def vllm_targets(counts: Sequence[int], lora: bool, dtype: str, settings: Sequence[str]) -> Iterator[list[Target]]:
    """vLLM on SmolLM2 without the plugin; with it, plain requests and ``counts`` personalities; and with 1 and 16 LoRAs.

    Args:
        counts: of personalities.
        lora: whether vLLM's own LoRA takes part.
        dtype: of the engines.
        settings: further options of vLLM, for all of them.

    Raises:
        FileNotFoundError: no .venv-vllm.
    """
    if not (VLLM / ".complete").exists():
        raise FileNotFoundError(f"{VLLM} is not there: make setup-vllm makes it")
    model = VLLM / "smollm2"
    python = str(VLLM / "bin" / "python")
    subprocess.run([python, str(ROOT / "python" / "real_server.py"), "save", "--model", str(model)], check=True)
    shared = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--served-model-name",
        "smollm2",
    ]
    shared += ["--max-model-len", "1024", "--max-num-seqs", "64", "--dtype", dtype, *settings]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    environment |= {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_WAIT_POLICY": "passive",
    }
    plugin = ["--load-format", "dpg_fast", "--additional-config", json.dumps({"dpg_fast": {"adapter": "both"}})]
    extra = {"ignore_eos": True}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = stack.enter_context(_started(shared, environment | {"VLLM_PLUGINS": ""}, folder / "plain.log"))
        ours = stack.enter_context(_started([*shared, *plugin], environment, folder / "plugin.log"))
        targets = [_target("vLLM without the plugin", plain, ("smollm2",), extra)]
        targets += [_target(_named(count), ours, people("smollm2", count), extra) for count in (0, *counts)]
        if lora:
            names = _adapters(folder, model, 16)
            modules = ["--enable-lora", "--max-loras", "16", "--max-lora-rank", "8", "--lora-modules"]
            modules += [f"{name}={folder / name}" for name in names]
            own = stack.enter_context(
                _started([*shared, *modules], environment | {"VLLM_PLUGINS": ""}, folder / "lora.log")
            )
            targets.append(_target("vLLM's LoRA, 1 adapter", own, tuple(names[:1]), extra))
            targets.append(_target("vLLM's LoRA, 16 adapters", own, tuple(names), extra))
        yield targets


@contextmanager
def transformers_targets(counts: Sequence[int], dtype: str) -> Iterator[list[Target]]:
    """`dpg-fast serve` on SmolLM2: plain requests, and ``counts`` personalities."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "dpg_fast", "serve", "--dtype", dtype, "--name", "smollm2"]
        with _started(arguments, {"OMP_WAIT_POLICY": "passive"}, Path(folder) / "log") as server:
            yield [_target(_named(count), server, people("smollm2", count), {}) for count in (0, *counts)]


def _named(count: int) -> str:
    return f"{count:,} personalities" if count > 1 else "1 personality" if count else "plain requests"


def _target(name: str, server: tuple[str, int], models: tuple[str, ...], extra: dict[str, bool]) -> Target:
    url, group = server
    return Target(name, url, models, extra, lambda: _seconds(group))


def _seconds(group: int) -> float:
    """Processor time of all processes of a group."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _adapters(folder: Path, model: Path, count: int) -> list[str]:
    """PEFT directories of as many personalities."""
    from dpg_fast import Personality
    from dpg_fast.hypernet.build import from_config
    from dpg_fast.model.disk import artifact
    from dpg_fast.util.models import BUNDLED_HYPERNET

    directory = artifact.packaged(BUNDLED_HYPERNET)
    network = from_config(artifact.read_config(directory)["hypernet"])
    artifact.load_hypernet(directory, network)
    names = [f"person{number}" for number in range(count)]
    for number, name in enumerate(names):
        network.to_peft(Personality(extraversion=number / 4 - 2), folder / name, base_model=str(model))
    return names


@contextmanager
def _started(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[tuple[str, int]]:
    """A server on a free port: its API's address and its group of processes.

    Raises:
        RuntimeError: it has ended, or does not answer; with the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*arguments, *address], env=os.environ | environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        end = time.monotonic() + SECONDS
        while True:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(arguments)} does not answer:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
