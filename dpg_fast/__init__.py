"""dpg_fast: a controllable Big Five personality for each row of a batch, for any Hugging Face causal LM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dpg_fast.personality.description import Description
from dpg_fast.personality.scores import PRESETS, TRAITS, Character, Personality, Pole, Trait
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.hypernet import HypernetConfig, HyperNetwork, StoredAdapters
    from dpg_fast.model import Calibration, ExtremeSettingWarning, PersonalityModel, SteeringOptions
    from dpg_fast.neurons import SteeringTable

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "dpg_fast.model",
    "ExtremeSettingWarning": "dpg_fast.model",
    "HyperNetwork": "dpg_fast.hypernet",
    "HypernetConfig": "dpg_fast.hypernet",
    "PersonalityModel": "dpg_fast.model",
    "SteeringOptions": "dpg_fast.model",
    "SteeringTable": "dpg_fast.neurons",
    "StoredAdapters": "dpg_fast.hypernet",
}

__all__ = [
    "PRESETS",
    "TRAITS",
    "Calibration",
    "Character",
    "DPGError",
    "Description",
    "ExtremeSettingWarning",
    "HyperNetwork",
    "HypernetConfig",
    "Personality",
    "PersonalityModel",
    "Pole",
    "SteeringOptions",
    "SteeringTable",
    "StoredAdapters",
    "Trait",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dpg_fast' has no attribute {name!r}")
