"""Load a base model with an adapter, the package's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

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

    if adapter is None:
        return PersonalityModel(base)
    parts = load_parts(adapter, base, name, allow_mismatch=allow_mismatch)
    return PersonalityModel.of_parts(base, parts)


def load_parts(adapter: str, base: nn.Module, name: str, *, allow_mismatch: bool = False) -> artifact.AdapterParts:
    """The parts of an adapter, or of the package's two together; arguments as of `wrap`."""
    from dpg_fast.util.smollm2 import find_gguf

    directories = locate(adapter)
    if any(directory in map(artifact.packaged, artifact.PACKAGED) for directory in directories):
        # the package's adapters were made on the packaged weights; the Hub's are the same model before 4-bit quantisation
        allow_mismatch = allow_mismatch or (name == BUNDLED and find_gguf() is None)
    found = [artifact.load(directory, base, allow_mismatch=allow_mismatch) for directory in directories]
    hypernet = next((parts.hypernet for parts in found if parts.hypernet is not None), None)
    steered = next((parts for parts in found if parts.steering is not None), found[0])
    notes = "\n\n".join(dict.fromkeys(parts.notes for parts in found if parts.notes))
    return artifact.AdapterParts(hypernet, steered.steering, steered.calibration, notes)


def locate(adapter: str) -> list[Path]:
    """The directories behind a name that `wrap` takes: one, or both of the package's.

    Raises:
        ValueError: it is no adapter.
    """
    if adapter == BOTH and not Path(adapter).is_dir():
        return [artifact.packaged(BUNDLED), artifact.packaged(BUNDLED_HYPERNET)]
    return [artifact.locate(adapter)]
