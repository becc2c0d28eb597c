"""Every family of models that a wrapped model was tried with: tiny, random, and what is to be expected of each.

A family is one line: a class of transformers, and the settings that differ from `SIZES`. Sizes are small enough that a
forward takes milliseconds; settings that a family may switch on (norms, caps, multipliers, windows) are switched on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from packaging.version import Version

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 96,
    "tie_word_embeddings": False,
}
WINDOW = 6
"""Tokens of a sliding window: prompts and answers of the tests are longer."""


class NotInstalledError(Exception):
    """The installed transformers has no such class."""


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: unique, as it stands in the published table.
        model: name of the class in transformers.
        settings: of its configuration, over `SIZES`.
        config: name of the configuration's class; None for the model's own.
        refused: None where it is supported; otherwise what the error at wrapping says (a regular expression).
        text: name of the nested configuration that `SIZES` and ``settings`` go to; None where there is none.
        other: settings beside the nested one.
        dense_only: its routed experts are to be left as they are.
        neurons: its MLPs are of one size, so neurons can be steered.
        generates: it has ``generate``.
        peft: PEFT takes adapters of this class for causal LMs, and so serves as reference.
        pads: the bare model itself is right with prompts padded on the left.
        stages: stage tokens can join its embedding.
        wrong: check (see :mod:`tests.families.checks`) -> why it is known to fail.
    """

    name: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    refused: str | None = None
    text: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)
    dense_only: bool = False
    neurons: bool = True
    generates: bool = True
    peft: bool = True
    pads: bool = True
    stages: bool = True
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """What is tried where one method has to do: everything that it can have."""
        return "both" if self.neurons else "bank"

    @property
    def installed(self) -> bool:
        return all(hasattr(transformers, name) for name in (self.model, self.config) if name is not None)

    def build(self, seed: int = 0) -> Any:
        """A new model with random weights in float32 and eval mode.

        Raises:
            NotInstalledError: the installed transformers has no such class.
        """
        if not self.installed:
            raise NotInstalledError(
                f"{self.name}: transformers {transformers.__version__} has no {self.config or self.model}"
            )
        kind = getattr(transformers, self.model)
        config = kind.config_class if self.config is None else getattr(transformers, self.config)
        settings = {**SIZES, **self.settings}
        if self.text is not None:
            settings = {self.text: settings, "tie_word_embeddings": False, **self.other}
        torch.manual_seed(seed)
        model = kind(config(**settings))
        randomise(model)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.pad_token_id = 0
        return model.float().eval()


def randomise(model: torch.nn.Module) -> None:
    """Weights large enough that greedy tokens differ, and biases, norms and gains that are not what they start as."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.15)
            elif not name.endswith(("A_log", "dt_bias", ".D")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.8)


MIXTURE = "is a mixture of experts .*experts.* dense_only=True"
HEAD = {"head_dim": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DEEPSEEK = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GEMMA3N = {
    **HEAD,
    **SLIDING,
    "intermediate_size": [96, 96, 96],
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "num_kv_shared_layers": 0,
    "altup_num_inputs": 2,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
GEMMA4 = {
    **HEAD,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "global_head_dim": 16,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}

_LIST = (
    Family("Llama", "LlamaForCausalLM"),
    Family("Llama, biases", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    Family("Llama, tied embeddings", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    Family("Mistral, sliding window", "MistralForCausalLM", {"sliding_window": WINDOW}),
    Family("Qwen2", "Qwen2ForCausalLM"),
    Family("Qwen3", "Qwen3ForCausalLM", HEAD),
    Family("Gemma", "GemmaForCausalLM", HEAD),
    Family("Gemma 2", "Gemma2ForCausalLM", {**HEAD, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    Family("Gemma 3, text", "Gemma3ForCausalLM", {**HEAD, **SLIDING, "query_pre_attn_scalar": 16}),
    Family("Gemma 3n", "Gemma3nForCausalLM", {**GEMMA3N, "activation_sparsity_pattern": [0.0, 0.0, 0.0]}, stages=False),
    Family(
        "Gemma 3n, first layer sparse",
        "Gemma3nForCausalLM",
        {**GEMMA3N, "activation_sparsity_pattern": [0.9, 0.0, 0.0]},
        stages=False,
    ),
    Family(
        "Gemma 3n, second layer sparse",
        "Gemma3nForCausalLM",
        {**GEMMA3N, "activation_sparsity_pattern": [0.0, 0.9, 0.0]},
        stages=False,
    ),
    Family("Gemma 4, text", "Gemma4ForCausalLM", GEMMA4, stages=False),
    Family("Gemma 4, key is value", "Gemma4ForCausalLM", {**GEMMA4, "attention_k_eq_v": True}, stages=False),
    Family("Gemma 4, shared keys and values", "Gemma4ForCausalLM", {**GEMMA4, "num_kv_shared_layers": 1}, stages=False),
    Family("VaultGemma", "VaultGemmaForCausalLM", {**HEAD, **SLIDING, "query_pre_attn_scalar": 16}),
    Family("Phi-3", "Phi3ForCausalLM"),
    Family("GLM", "GlmForCausalLM", HEAD),
    Family("GLM-4", "Glm4ForCausalLM", HEAD),
    Family("OLMo, clipped", "OlmoForCausalLM", {"clip_qkv": 0.5}),
    Family("OLMo 2", "Olmo2ForCausalLM"),
    Family("OLMo 3", "Olmo3ForCausalLM", SLIDING),
    Family("OLMo hybrid", "OlmoHybridForCausalLM", LINEAR),
    Family(
        "Granite, all multipliers",
        "GraniteForCausalLM",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3},
    ),
    Family("SmolLM3", "SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1]}),
    Family("Cohere", "CohereForCausalLM", {"use_qk_norm": True}),
    Family("Cohere 2", "Cohere2ForCausalLM", SLIDING),
    Family("StableLM", "StableLmForCausalLM", {"qk_layernorm": True, "use_qkv_bias": True}),
    Family("Helium", "HeliumForCausalLM", HEAD),
    Family("EXAONE 4", "Exaone4ForCausalLM", {**SLIDING, "sliding_window_pattern": None}),
    Family("Ministral", "MinistralForCausalLM", {**HEAD, **SLIDING}),
    Family("Ministral 3", "Ministral3ForCausalLM", HEAD),
    Family("InternLM 3", "LlamaForCausalLM", HEAD, config="InternLM3Config"),
    Family("Seed-OSS", "SeedOssForCausalLM", {**HEAD, "attention_bias": True}),
    Family("HunYuan, dense", "HunYuanDenseV1ForCausalLM", HEAD),
    Family("ERNIE 4.5", "Ernie4_5ForCausalLM", HEAD),
    Family("MiniCPM 3", "MiniCPM3ForCausalLM", {**DEEPSEEK, "scale_emb": 3.0, "dim_model_base": 32}),
    Family("BitNet", "BitNetForCausalLM"),
    Family(
        "Doge",
        "DogeForCausalLM",
        wrong={}
        if Version(transformers.__version__) >= Version("5.18")
        else {"generate": "the bare model's own cache is wrong"},
    ),
    Family("Qwen3.5, text", "Qwen3_5ForCausalLM", {**HEAD, **LINEAR}),
    Family("Bamba", "BambaForCausalLM", {**MAMBA, "attn_layer_indices": [1]}),
    Family(
        "RecurrentGemma",
        "RecurrentGemmaForCausalLM",
        {**HEAD, "lru_width": 64, "attention_window_size": WINDOW, "intermediate_size": 192},
        pads=False,
    ),
    Family("Falcon-H1", "FalconH1ForCausalLM", {**HEAD, **MAMBA, "mamba_d_ssm": 128}),
    Family(
        "Falcon-H1, MLP multipliers",
        "FalconH1ForCausalLM",
        {**HEAD, **MAMBA, "mamba_d_ssm": 128, "mlp_multipliers": [0.5, 0.7]},
    ),
    Family(
        "Jamba, dense",
        "JambaForCausalLM",
        {"num_experts": 1, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    Family("LFM2", "Lfm2ForCausalLM", {"layer_types": ["conv", "full_attention", "conv"]}),
    Family(
        "Granite 4 hybrid, dense",
        "GraniteMoeHybridForCausalLM",
        {
            **MAMBA,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 96,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    Family("Llama 4, dense", "Llama4ForCausalLM", {**HEAD, "moe_layers": [], "intermediate_size_mlp": 96}),
    Family("GPT-2", "GPT2LMHeadModel", {}),
    Family("OPT", "OPTForCausalLM", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    Family("Phi-2", "PhiForCausalLM", {}),
    Family("Starcoder 2", "Starcoder2ForCausalLM", {}),
    Family("GPT-NeoX", "GPTNeoXForCausalLM", {}),
    Family("Nemotron", "NemotronForCausalLM", {}),
    Family("Arcee", "ArceeForCausalLM", {}),
    Family("Apertus", "ApertusForCausalLM", {}),
    Family("Persimmon", "PersimmonForCausalLM", {}),
    Family("Falcon", "FalconForCausalLM", {"ffn_hidden_size": 96}),
    Family(
        "Nemotron-H",
        "NemotronHForCausalLM",
        {
            **HEAD,
            "hybrid_override_pattern": "M*-",
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    Family(
        "Zamba 2",
        "Zamba2ForCausalLM",
        {
            "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "chunk_size": 8,
        },
    ),
    Family("Mixtral", "MixtralForCausalLM", {"num_local_experts": 4}, refused=MIXTURE),
    Family(
        "Qwen2-MoE",
        "Qwen2MoeForCausalLM",
        {**MOE, "shared_expert_intermediate_size": 96},
        refused=MIXTURE,
    ),
    Family("Qwen3-MoE", "Qwen3MoeForCausalLM", {**HEAD, **MOE}, refused=MIXTURE),
    Family(
        "Qwen3-Next",
        "Qwen3NextForCausalLM",
        {**HEAD, **MOE, **LINEAR, "shared_expert_intermediate_size": 96},
        refused=MIXTURE,
    ),
    Family(
        "Qwen3.5-MoE, text",
        "Qwen3_5MoeForCausalLM",
        {**HEAD, **MOE, **LINEAR, "shared_expert_intermediate_size": 96},
        refused=MIXTURE,
    ),
    Family(
        "ERNIE 4.5 MoE",
        "Ernie4_5_MoeForCausalLM",
        {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": 96},
        refused=MIXTURE,
    ),
    Family(
        "DeepSeek-V3, shared expert of the dense size",
        "DeepseekV3ForCausalLM",
        {**DEEPSEEK, **EXPERTS, "moe_intermediate_size": 96, "first_k_dense_replace": 1},
        refused=MIXTURE,
    ),
    Family(
        "DeepSeek-V3, as released",
        "DeepseekV3ForCausalLM",
        {**DEEPSEEK, **EXPERTS, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
        refused=MIXTURE,
    ),
    Family(
        "DeepSeek-V3, dense layers only",
        "DeepseekV3ForCausalLM",
        {**DEEPSEEK, **EXPERTS, "first_k_dense_replace": 3},
    ),
    Family(
        "GLM-4 MoE",
        "Glm4MoeForCausalLM",
        {**HEAD, **EXPERTS, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
        refused=MIXTURE,
    ),
    Family(
        "Dots",
        "Dots1ForCausalLM",
        {**HEAD, **EXPERTS, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
        refused=MIXTURE,
    ),
    Family("gpt-oss", "GptOssForCausalLM", {**HEAD, **SLIDING, "num_local_experts": 4}, refused=MIXTURE),
    Family(
        "Granite MoE, shared expert",
        "GraniteMoeSharedForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 96},
        refused=MIXTURE,
    ),
    Family(
        "Jamba, experts",
        "JambaForCausalLM",
        {"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        refused=MIXTURE,
    ),
    Family(
        "LFM2-MoE",
        "Lfm2MoeForCausalLM",
        {**MOE, "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
        refused=MIXTURE,
    ),
    Family("MiniMax", "MiniMaxForCausalLM", {**HEAD, "num_local_experts": 4}, refused=MIXTURE),
    Family(
        "Kimi linear",
        "KimiLinearForCausalLM",
        {
            **DEEPSEEK,
            **MOE,
            "q_lora_rank": None,
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "layer_types": LINEAR["layer_types"],
        },
        refused=MIXTURE,
    ),
    Family(
        "Gemma 3 with images",
        "Gemma3ForConditionalGeneration",
        {**HEAD, **SLIDING, "query_pre_attn_scalar": 16},
        text="text_config",
        other={"vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 95},
    ),
    Family(
        "Llava (Llama)",
        "LlavaForConditionalGeneration",
        {"model_type": "llama"},
        text="text_config",
        other={"vision_config": {**VISION, "model_type": "clip_vision_model"}, "image_token_index": 95},
    ),
    Family(
        "Mistral 3 with images",
        "Mistral3ForConditionalGeneration",
        {**HEAD, "model_type": "mistral"},
        text="text_config",
        other={"vision_config": {**VISION, "model_type": "pixtral"}, "image_token_index": 95},
    ),
    Family(
        "Qwen2-VL",
        "Qwen2VLForConditionalGeneration",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        text="text_config",
        other={"vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}},
    ),
    Family(
        "Qwen2.5-VL",
        "Qwen2_5_VLForConditionalGeneration",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        text="text_config",
        other={
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "intermediate_size": 48,
            }
        },
    ),
    Family("Llama, sequence classification", "LlamaForSequenceClassification", generates=False, peft=False),
    Family("Llama without a head", "LlamaModel", generates=False, peft=False),
)
_STEERED = (
    "LFM2-MoE",
    "Qwen2-MoE",
    "Qwen3-Next",
    "Qwen3.5-MoE, text",
    "ERNIE 4.5 MoE",
    "DeepSeek-V3, shared expert of the dense size",
    "Granite MoE, shared expert",
    "Jamba, experts",
    "Kimi linear",
)
"""Mixtures whose dense MLPs and shared experts are of one size."""
_DENSE = tuple(
    replace(
        family,
        name=f"{family.name}, dense parts only",
        refused=None,
        dense_only=True,
        neurons=family.name in _STEERED,
    )
    for family in _LIST
    if family.refused == MIXTURE
)
FAMILIES: dict[str, Family] = {family.name: family for family in (*_LIST, *_DENSE)}
assert len(FAMILIES) == len(_LIST) + len(_DENSE), "names repeat"
INSTALLED = tuple(name for name, family in FAMILIES.items() if family.installed)
SUPPORTED = tuple(name for name in INSTALLED if FAMILIES[name].refused is None)
REFUSED = tuple(name for name in INSTALLED if FAMILIES[name].refused is not None)


@functools.cache
def shared_model(name: str) -> Any:
    """The family's model, built once; whoever wraps it unloads it."""
    return FAMILIES[name].build()
