"""Load a base model with an adapter, the package's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET, load_base


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
    from dpg_fast.util.smollm2 import find_gguf

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
