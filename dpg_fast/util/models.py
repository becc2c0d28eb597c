"""Load the base model a command names: the small bundled one, a directory, or a Hub id."""

from __future__ import annotations

from typing import Any

import torch

from dpg_fast.util.errors import DPGError

BUNDLED = "smollm2"
BUNDLED_HYPERNET = "smollm2-hypernet"
"""Adapter name of the package's hypernetwork; `BUNDLED` as an adapter is its table of neurons."""


def load_base(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) for ``"smollm2"``, a directory or a Hub id.

    Raises:
        OSError: there is no such model.
        DPGError: transformers cannot make a causal language model of what is there.
    """
    if name == BUNDLED:
        from dpg_fast.util.smollm2 import load_smollm2

        return load_smollm2(dtype=dtype)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except ValueError as error:
        raise DPGError(f"{name} cannot be loaded: {error}") from error
    return model.to(device).eval(), tokenizer
