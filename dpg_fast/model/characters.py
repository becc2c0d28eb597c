"""Tuned characters for a model: read their adapters, and put them beside what the model has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias

from torch import nn

from dpg_fast.hypernet import AdapterNetwork, CombinedNetwork, HyperNetwork, StoredAdapters, join_stored, read_peft
from dpg_fast.hypernet.stored import from_read
from dpg_fast.model.disk.fingerprint import mismatch
from dpg_fast.personality.scores import Character
from dpg_fast.util.errors import DPGError

__all__ = ["Directories", "add_to", "read_characters"]

Directories: TypeAlias = Mapping[str, str | os.PathLike[str]]


def read_characters(
    base: nn.Module, directories: Directories, *, exact_blends: bool = False, allow_mismatch: bool = False
) -> StoredAdapters:
    """The adapters of characters, checked against the base model that they are to speak through.

    Args:
        base: the bare model.
        directories: name -> PEFT directory, with or without `character.json`.
        exact_blends, allow_mismatch: as in `dpg_fast.hypernet.from_peft`; the latter accepts another base model, too.

    Raises:
        FileNotFoundError, PeftFormatError: see `dpg_fast.hypernet.read_peft`.
        ValueError: an adapter that was tuned on another base, or adapters that do not fit together.
    """
    if not isinstance(directories, Mapping):
        raise TypeError(f"characters= takes name -> directory, not {type(directories).__name__}")
    read = {}
    for name, directory in directories.items():
        Character(name)  # refuses names that could not be asked for
        adapter = read_peft(directory)
        card = adapter.card
        reason = mismatch(card.fingerprint, base, card.base_model) if card is not None and card.fingerprint else None
        if reason is not None and not allow_mismatch:
            raise DPGError(
                f"{name} ({directory}) was tuned on {card.base_model if card else 'another base model'}, which this model is "
                f"not, or not known to be: {reason}; allow_mismatch=True loads it all the same"
            )
        read[name] = adapter
    return from_read(read, exact_blends, allow_mismatch)


def add_to(network: AdapterNetwork | None, stored: StoredAdapters, *, exact_blends: bool = False) -> AdapterNetwork:
    """A network with everything that ``network`` has and the characters of ``stored``.

    Raises:
        ValueError: a name that is there already, or more than one bank can hold.
    """
    if network is None:
        return stored
    if isinstance(network, StoredAdapters):
        return join_stored(network, stored, exact_blends=exact_blends)
    if isinstance(network, CombinedNetwork):
        return CombinedNetwork(network.profile, join_stored(network.stored, stored, exact_blends=exact_blends))
    if isinstance(network, HyperNetwork):
        return CombinedNetwork(network, stored)
    raise TypeError(f"characters cannot be put beside a {type(network).__name__}")
