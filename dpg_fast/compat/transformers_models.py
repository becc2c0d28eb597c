"""Names of transformers: what a model, its configuration and its tokenizer say of themselves.

Importing this module does not import transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SHAPE_NAMES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
"""Settings of a text configuration by which one kind and size of model is told from another."""

LOGIT_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
"""Settings that the output layer's product is multiplied by (Cohere, Falcon-H1, Muse)."""

LOGIT_DIVISORS = ("logits_scaling",)
"""Settings that it is divided by (Granite)."""

LOGIT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")
"""Settings by which it is squashed afterwards, ``tanh(logits / cap) * cap`` (Gemma 2 and later, RecurrentGemma)."""

PER_LAYER_EMBEDDING = "embed_tokens_per_layer"
"""Module of Gemma 3n and Gemma 4 that looks up each token's id a second time, for the layers."""


def text_config(model: Any) -> Any:
    """The configuration of a model's text decoder; None for what has no configuration."""
    return _text_of(getattr(model, "config", None))


def _text_of(config: Any) -> Any:
    get_text_config = getattr(config, "get_text_config", None)
    return get_text_config() if callable(get_text_config) else config


def shape_of(model: Any) -> dict[str, Any]:
    """`SHAPE_NAMES` -> values of a model's text decoder; None where it does not have the setting."""
    text = text_config(model)
    return {name: getattr(text, name, None) for name in SHAPE_NAMES}


def model_name(model: Any) -> str:
    """The Hub id or directory that a model was loaded from; empty for one that was made in place."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def model_type(model: Any) -> str | None:
    """The configuration's name of the model's kind."""
    return getattr(getattr(model, "config", None), "model_type", None)


def expert_counts(model: Any) -> set[int]:
    """Every number above one that the text decoder's configuration has under a name with "expert" in it."""
    config = text_config(model)
    values = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    return {value for name, value in values.items() if "expert" in name and type(value) is int and value > 1}


def longest_text(model: Any) -> int | None:
    """Tokens that a model has positions for; None where its configuration sets no limit."""
    limit: int | None = getattr(text_config(model), "max_position_embeddings", None)
    return limit


def finish_logits(config: Any, logits: Tensor) -> Tensor:
    """What a model of this configuration makes of its output layer's product: scaled, then capped, as known settings say.

    A family may use a name in another way (HyperCLOVA X multiplies by ``logits_scaling``): compare with the model once.
    """
    text = _text_of(config)
    for name in (*LOGIT_FACTORS, *LOGIT_DIVISORS):
        if (scale := getattr(text, name, None)) not in (None, 1):
            logits = logits / scale if name in LOGIT_DIVISORS else logits * scale
    for name in LOGIT_CAPS:
        if (cap := getattr(text, name, None)) is not None:
            logits = torch.tanh(logits / cap) * cap
    return logits


def input_embedding(model: Any) -> nn.Module | None:
    """The module that looks up a model's ids; None for a model that is not of transformers."""
    get = getattr(model, "get_input_embeddings", None)
    return get() if callable(get) else None


def output_layer(model: Any) -> nn.Module | None:
    """The module that gives a model's logits; None without one."""
    get = getattr(model, "get_output_embeddings", None)
    return get() if callable(get) else None


def decoder(model: Any) -> nn.Module | None:
    """The module whose last hidden state the output layer reads; None without one."""
    get = getattr(model, "get_decoder", None)
    return get() if callable(get) else None


def embedding_scale(embedding: nn.Module) -> float:
    """What an embedding's rows are multiplied by inside the module (Gemma's); 1 for others."""
    scale = getattr(embedding, "embed_scale", 1.0)
    return float(scale) if isinstance(scale, (int, float, Tensor)) else 1.0


def per_layer_embedding(model: nn.Module) -> str | None:
    """Name of the module in ``model`` that is a `PER_LAYER_EMBEDDING`; None without one."""
    return next((name for name, _ in model.named_modules() if name.rpartition(".")[2] == PER_LAYER_EMBEDDING), None)


def conv1d_shape(module: Any) -> tuple[int, int] | None:
    """(inputs, outputs) of GPT-2's ``Conv1D``, a linear layer with a transposed weight; None of anything else."""
    inputs, outputs = getattr(module, "nx", None), getattr(module, "nf", None)
    shape = getattr(getattr(module, "weight", None), "shape", None)
    if not isinstance(inputs, int) or not isinstance(outputs, int) or shape != (inputs, outputs):
        return None
    return inputs, outputs


def chat_template(tokenizer: Any) -> Any:
    """A tokenizer's template for conversations; None without one."""
    return getattr(tokenizer, "chat_template", None)


def added_tokens(tokenizer: Any) -> Mapping[int, Any]:
    """Id -> token of what was added to a tokenizer's vocabulary; empty for tokenizers that do not keep this apart."""
    found: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return found
