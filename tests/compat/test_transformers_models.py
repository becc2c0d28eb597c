"""What models, configurations and tokenizers of the installed transformers say of themselves stands under the known names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from dpg_fast.compat import transformers_models as models
from tests.families.registry import FAMILIES as REGISTRY
from tests.model.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_and_the_ends_of_a_model_are_known(family: str) -> None:
    model = tiny_model(family)
    shape = models.shape_of(model)
    assert None not in shape.values()
    embedding, head = models.input_embedding(model), models.output_layer(model)
    assert isinstance(embedding, torch.nn.Embedding) and embedding.num_embeddings == shape["vocab_size"]
    assert isinstance(head, torch.nn.Linear) and head.out_features == shape["vocab_size"]
    assert models.longest_text(model) == 256
    rows = embedding(torch.tensor([5])) / embedding.weight[5]
    assert models.embedding_scale(embedding) == pytest.approx(float(rows.mean()), rel=1e-5)


def test_gemma_scales_its_embedding_and_llama_does_not() -> None:
    scales = [models.embedding_scale(models.input_embedding(tiny_model(f))) for f in ("gemma2", "llama")]  # type: ignore[arg-type]
    assert scales == [pytest.approx(math.sqrt(48)), 1.0]


def test_what_is_not_of_transformers_has_none_of_it() -> None:
    plain = torch.nn.Linear(2, 2)
    assert models.input_embedding(plain) is None and models.output_layer(plain) is None
    assert models.model_name(plain) == "" and models.text_config(plain) is None
    assert set(models.shape_of(plain).values()) == {None}


def test_a_loaded_model_knows_where_it_is_from(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    made = tiny_model("llama")
    assert models.model_name(made) == ""
    made.save_pretrained(tmp_path)
    assert models.model_name(AutoModelForCausalLM.from_pretrained(tmp_path)) == str(tmp_path)


def test_the_cap_is_the_model_s() -> None:
    model = tiny_model("gemma2", final_logit_softcapping=3.0)
    ids = torch.tensor([[5, 9, 23]])
    with torch.no_grad():
        product = model.get_output_embeddings()(model.get_decoder()(input_ids=ids).last_hidden_state)
        wanted = model(input_ids=ids).logits
    assert not torch.allclose(product, wanted, atol=0.1)
    torch.testing.assert_close(models.finish_logits(model.config, product), wanted)


def test_settings_of_other_spellings_are_found_under_the_known_ones() -> None:
    class Holder:
        config = GPT2Config(n_embd=24, n_layer=3)

    assert models.shape_of(Holder())["hidden_size"] == 24 and models.shape_of(Holder())["num_hidden_layers"] == 3


def test_tokenizers_state_templates_and_added_tokens(byte_tokenizer: Any) -> None:
    assert "message['role']" in models.chat_template(byte_tokenizer)
    byte_tokenizer.chat_template = None
    assert models.chat_template(byte_tokenizer) is None
    byte_tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]})
    added = models.added_tokens(byte_tokenizer)
    assert added[byte_tokenizer.convert_tokens_to_ids("<|more|>")].special


def test_transposed_layers_are_recognised() -> None:
    from transformers.pytorch_utils import Conv1D

    assert models.conv1d_shape(Conv1D(5, 3)) == (3, 5)
    assert models.conv1d_shape(torch.nn.Linear(3, 5)) is None


def test_configurations_say_how_many_experts_there_are() -> None:
    from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen2MoeConfig

    class Holder:
        def __init__(self, config: Any) -> None:
            self.config = config

    wanted = [
        (MixtralConfig(num_local_experts=6), 6),
        (Qwen2MoeConfig(num_experts=7), 7),
        (DeepseekV3Config(n_routed_experts=8), 8),
        (GptOssConfig(num_local_experts=9), 9),
    ]
    for config, count in wanted:
        assert count in models.expert_counts(Holder(config))
        assert models.model_type(Holder(config)) == config.model_type
        assert models.text_config(Holder(config)).hidden_size == config.hidden_size
    assert models.expert_counts(Holder(LlamaConfig())) == set()


def test_a_second_embedding_of_tokens_is_found() -> None:
    for name in ("Gemma 3n", "Gemma 4, text"):
        base = REGISTRY[name].build()
        found = models.per_layer_embedding(base)
        assert found is not None
        assert base.get_submodule(found) is base.get_per_layer_input_embeddings()
    assert models.per_layer_embedding(tiny_model("gemma3_text")) is None
