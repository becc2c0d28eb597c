"""Load a base model with an adapter, the package's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpg_fast.model.disk import artifact
from dpg_fast.util import models
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET

BOTH = "both"
"""Adapter name of the package's neurons and hypernetwork at once."""


def load_wrapped(
    name: str,
    adapter: str | None,
    dtype: torch.dtype = torch.float32,
    characters: Mapping[str, Path] | None = None,
    *,
    allow_mismatch: bool = False,
) -> tuple[Any, Any]:
    """A `PersonalityModel` and its tokenizer.

    Args:
        name: of the base model, as for `load_base`.
        adapter: as for `wrap`.
        characters: name -> directory of tuned characters to put beside it.
        allow_mismatch: accept an adapter that was made for another base.

    Raises:
        OSError: there is no such model, adapter or character.
        ValueError: the adapter or a character was made for another base.
    """
    base, tokenizer = models.load_base(name, dtype)
    model = wrap(base, name, adapter, allow_mismatch=allow_mismatch)
    if characters:
        model.add_characters(characters)
    return model, tokenizer


def wrap(base: Any, name: str, adapter: str | None, *, allow_mismatch: bool = False) -> Any:
    """A loaded base model with an adapter.

    Args:
        base: the model.
        name: that it was loaded by.
        adapter: directory or Hub id; ``"smollm2"`` is the package's table of neurons, ``"smollm2-hypernet"`` its hypernetwork,
            ``"both"`` both of these; None gives no personality.
        allow_mismatch: accept an adapter that was made for another base.
    """
    from dpg_fast.model import PersonalityModel
    from dpg_fast.util.smollm2 import find_gguf

    if adapter is None:
        return PersonalityModel(base)
    if adapter in (BUNDLED, BUNDLED_HYPERNET, BOTH) and not Path(adapter).is_dir():
        # the package's adapters were made on the packaged weights; the Hub's are the same model before 4-bit quantisation
        allow_mismatch = allow_mismatch or (name == BUNDLED and find_gguf() is None)
    if adapter != BOTH or Path(adapter).is_dir():
        return PersonalityModel.load(base, adapter, allow_mismatch=allow_mismatch)
    neurons = artifact.load(artifact.packaged(BUNDLED), base, allow_mismatch=allow_mismatch)
    hypernet = artifact.load(artifact.packaged(BUNDLED_HYPERNET), base, allow_mismatch=allow_mismatch).hypernet
    return PersonalityModel.from_model(
        base, hypernet=hypernet, steering=neurons.steering, calibration=neurons.calibration
    )
