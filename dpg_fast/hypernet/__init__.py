"""Hypernetworks: from a personality or a character to LoRA weights.

`HyperNetwork` generates the weights from trait scores; `StoredAdapters` holds finished LoRA adapters. Both
are a bank of LoRA entries mixed by codes (`AdapterNetwork`).
"""

from __future__ import annotations

from .bank import LoraBank
from .config import HypernetConfig, Site, select_sites, sort_sites
from .network import AdapterNetwork, HyperNetwork, StoredAdapters, from_config, from_peft
from .peft_io import PeftAdapter, PeftFormatError, read_peft, write_peft
from .trunk import ScoresEncoder, Trunk

__all__ = [
    "AdapterNetwork",
    "HyperNetwork",
    "HypernetConfig",
    "LoraBank",
    "PeftAdapter",
    "PeftFormatError",
    "ScoresEncoder",
    "Site",
    "StoredAdapters",
    "Trunk",
    "from_config",
    "from_peft",
    "read_peft",
    "select_sites",
    "sort_sites",
    "write_peft",
]
