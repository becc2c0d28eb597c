"""Load the base model a command names: the small bundled one, a directory, or a Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

BUNDLED = "smollm2"
BUNDLED_HYPERNET = "smollm2-hypernet"
"""Adapter name of the package's hypernetwork; `BUNDLED` as an adapter is its table of neurons."""


def load_base(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) for ``"smollm2"``, a directory or a Hub id.

    Raises:
        OSError: there is no such model.
    """
    if name == BUNDLED:
        from dpg_fast.smollm2 import load_smollm2

        return load_smollm2(dtype=dtype)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(name)


def load_wrapped(
    name: str,
    adapter: str | None,
    dtype: torch.dtype = torch.float32,
    characters: Mapping[str, Path] | None = None,
) -> tuple[Any, Any]:
    """A `PersonalityModel` and its tokenizer.

    Args:
        name: of the base model, as for `load_base`.
        adapter: directory or Hub id; ``"smollm2"`` is the package's table of neurons, ``"smollm2-hypernet"`` its
            hypernetwork; None gives no personality.
        characters: name -> directory of tuned characters to put beside it.

    Raises:
        OSError: there is no such model, adapter or character.
        ValueError: the adapter or a character was made for another base.
    """
    from dpg_fast.model import PersonalityModel
    from dpg_fast.smollm2 import find_gguf

    base, tokenizer = load_base(name, dtype)
    if adapter is None:
        model = PersonalityModel(base)
    elif adapter not in (BUNDLED, BUNDLED_HYPERNET):
        model = PersonalityModel.load(base, adapter)
    else:
        # the package's adapters were made on the packaged weights; the Hub's are the same model before 4-bit quantisation
        allow = name == BUNDLED and find_gguf() is None
        model = PersonalityModel.load(base, adapter, allow_mismatch=allow)
    if characters:
        model.add_characters(characters)
    return model, tokenizer
