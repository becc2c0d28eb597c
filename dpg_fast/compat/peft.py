"""Names of PEFT: of its adapters, its files and its wrapped layers. Importing this module does not import PEFT."""

from __future__ import annotations

from typing import Any

DEFAULT_ADAPTER = "default"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRAINED_TOKENS, TRAINED_TOKEN_IDS = "trainable_tokens_delta", "trainable_token_indices"
"""Part of the name of trained token rows in a file; the field of a LoRA configuration that lists the tokens."""

WRAPPED_MODULE = "original_module"
"""Attribute of PEFT's wrapper of a layer with trained tokens."""


def adapters(model: Any) -> dict[str, Any] | None:
    """Name -> configuration of the adapters of a PEFT model; None of any other model."""
    found: dict[str, Any] | None = getattr(model, "peft_config", None)
    return found


def underlying(model: Any) -> Any:
    """The model in a PEFT model; any other model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model
