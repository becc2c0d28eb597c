"""Hypernetworks: from a personality or a character to LoRA weights.

`HyperNetwork` generates the weights from trait scores; `StoredAdapters` holds finished LoRA adapters;
`CombinedNetwork` is one of each, side by side. All are a bank of LoRA entries mixed by codes (`AdapterNetwork`).
"""

from __future__ import annotations

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.build import from_config
from dpg_fast.hypernet.combined import CombinedNetwork, join_stored
from dpg_fast.hypernet.config import HypernetConfig, select_sites, sort_sites
from dpg_fast.hypernet.encoders import ScoresEncoder, TextEncoder
from dpg_fast.hypernet.interface import AdapterNetwork
from dpg_fast.hypernet.network import HyperNetwork
from dpg_fast.hypernet.peft_io import PeftAdapter, PeftFormatError, read_peft, write_peft
from dpg_fast.hypernet.stored import StoredAdapters, from_peft
from dpg_fast.hypernet.trunk import Trunk, WideTrunk
from dpg_fast.hypernet.wording import WORDINGS, describe

__all__ = [
    "WORDINGS",
    "AdapterNetwork",
    "CombinedNetwork",
    "HyperNetwork",
    "HypernetConfig",
    "LoraBank",
    "PeftAdapter",
    "PeftFormatError",
    "ScoresEncoder",
    "Site",
    "StoredAdapters",
    "TextEncoder",
    "Trunk",
    "WideTrunk",
    "describe",
    "from_config",
    "from_peft",
    "join_stored",
    "read_peft",
    "select_sites",
    "sort_sites",
    "write_peft",
]
