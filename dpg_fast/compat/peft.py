"""Names of PEFT: of its adapters, its files and its wrapped layers, and which targets it rewrites.

Since transformers 5 keeps the experts of many mixtures in one tensor, PEFT takes target modules of these models that are called
like an expert's layer for the experts (``peft.utils.transformers_weight_conversion``), also when a complete name says that they
belong to a shared expert or to a dense layer. Importing this module imports neither PEFT nor transformers.
"""

from __future__ import annotations

import functools
from typing import Any

DEFAULT_ADAPTER = "default"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRAINED_TOKENS, TRAINED_TOKEN_IDS = "trainable_tokens_delta", "trainable_token_indices"
"""Part of the name of trained token rows in a file; the field of a LoRA configuration that lists the tokens."""

WRAPPED_MODULE = "original_module"
"""Attribute of PEFT's wrapper of a layer with trained tokens."""

EXPERT_LAYERS = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}
"""Last components of names that PEFT takes for experts, by the way in which transformers converts a model's checkpoints."""

PARAMETER_SUFFIX = ".weight"
"""Ending of the ``target_parameters`` that name the weight of a linear layer; PEFT does not rewrite these."""


def adapters(model: Any) -> dict[str, Any] | None:
    """Name -> configuration of the adapters of a PEFT model; None of any other model."""
    found: dict[str, Any] | None = getattr(model, "peft_config", None)
    return found


def underlying(model: Any) -> Any:
    """The model in a PEFT model; any other model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model


def rewritten_names(model_type: str | None) -> frozenset[str]:
    """Last components of module names that PEFT does not leave as they are, on models of this ``config.model_type``."""
    if model_type is None:
        return frozenset()
    conversion = "mixtral" if model_type == "mixtral" else _conversions().get(model_type)
    return EXPERT_LAYERS.get(str(conversion), frozenset())


@functools.cache
def _conversions() -> dict[str, str]:
    from transformers import conversion_mapping

    found: dict[str, str] = conversion_mapping._MODEL_TO_CONVERSION_PATTERN
    return found
