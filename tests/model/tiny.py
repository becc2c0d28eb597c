"""Tiny randomly initialised causal LMs of every supported family."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 96,
    "tie_word_embeddings": False,
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "phi3": {},
}
FAMILIES = tuple(EXTRA)
SCALED: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 2.5},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 2.0},
    "hyperclovax": {"logits_scaling": 2.5},  # multiplies where Granite divides
}
"""Families with what they do to their logits."""


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(family, **{**SIZES, **EXTRA.get(family, {}), **changes})


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """In eval mode, with weights large enough that greedy tokens are not all alike."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.15)
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def prompts(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 95, (rows, length), generator=generator)
