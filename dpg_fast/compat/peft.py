"""Names of PEFT: which targets it rewrites when it loads an adapter onto a model.

Since transformers 5 keeps the experts of many mixtures in one tensor, PEFT takes target modules of these models that are
called like an expert's layer for the experts (``peft.utils.transformers_weight_conversion``), also when a complete name says that
they belong to a shared expert or to a dense layer. Importing this module imports neither PEFT nor transformers.
"""

from __future__ import annotations

import functools

EXPERT_LAYERS = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}
"""Last components of names that PEFT takes for experts, by the way in which transformers converts a model's checkpoints."""

PARAMETER_SUFFIX = ".weight"
"""Of ``target_parameters`` that name the weight of a linear layer; PEFT does not rewrite these."""


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
