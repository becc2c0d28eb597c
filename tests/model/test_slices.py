"""Models whose last layers see only the positions whose logits are wanted: every token keeps its own personality."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

from dpg_fast import HypernetConfig, Personality, PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.compat import transformers as compat
from dpg_fast.compat.transformers_models import per_layer_embedding
from dpg_fast.hypernet.stage_rows import StageRows, StageToken
from dpg_fast.model.request import CallState
from dpg_fast.model.stage_embedding import StageEmbedding
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.neurons.statistics import ActivationCounter
from dpg_fast.neurons.tap import DecodeTap
from tests.model.test_wrapper import greedy, personality_model
from tests.model.tiny import SIZES, prompts, tiny_model

PEOPLE = [Personality("E+5"), None, Personality("E-5 N+3")]
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "head_dim": 16, "num_hidden_layers": 4}
SHARED: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        **PER_LAYER,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "global_head_dim": 16,
    },
    "gemma3n_text": {
        **PER_LAYER,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
        "intermediate_size": [72] * 4,
    },
}
SLICES = "gemma4_text"


def shared_model(family: str, attention: str = "eager", **changes: Any) -> Any:
    """Eager attention has masks that can be cut in every case; SDPA's are left out where all is causal."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **SHARED[family], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.15)
    model.generation_config.pad_token_id = 0
    return model.eval()


LIBRARY_SLICES = Version(transformers.__version__) >= Version("5.24")
"""Whether layers with shared keys and values are given the last positions only."""


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).norm() <= 2e-6 * wanted.norm())


def positions_seen(model: Any, layer: int, ids: torch.Tensor, **kwargs: Any) -> int:
    """Positions that the MLP of a layer is given."""
    seen: list[int] = []
    mlp = find_architecture(getattr(model, "base", model)).mlps[layer].module
    handle = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    model(ids, **kwargs)
    handle.remove()
    return seen[0]


@torch.no_grad()
@pytest.mark.parametrize("parts", ["lora", "steer", "both"])
@pytest.mark.parametrize("family", list(SHARED))
def test_a_forward_with_fewer_logits_is_part_of_the_whole(family: str, parts: str) -> None:
    base = shared_model(family)
    ids = prompts(3, 7)
    rows = torch.tensor([[1, 0], [6, 2], [3, 3]])
    bare = base(ids).logits
    by_row = bare.take_along_dim(rows[..., None], 1)
    try:  # a tensor of positions for each row, which older versions do not take
        takes_rows = torch.equal(base(ids, logits_to_keep=rows).logits, by_row)
    except (IndexError, RuntimeError):
        takes_rows = False
    model = personality_model(base, lora=parts != "steer", steer=parts != "lora")
    if family == SLICES:
        seen = positions_seen(model, -1, ids, personality=PEOPLE, **{compat.KEPT_NAME: 3})
        assert seen == (3 if LIBRARY_SLICES else 7)
    for steer_from in (0, 4, torch.tensor([0, 2, 6])):
        options: dict[str, Any] = {"personality": PEOPLE, "steer_from": steer_from}
        whole = model(ids, **options).logits
        for kept in (1, 3, 7, 9):
            assert close(model(ids, logits_to_keep=kept, **options).logits, whole[:, -kept:])
        for index in (torch.tensor([5, 0, 2]), torch.tensor([6, 0, 5, 1, 4, 2, 3]), torch.arange(7) - 7):
            assert close(model(ids, logits_to_keep=index, **options).logits, whole[:, index])
        assert takes_rows or not LIBRARY_SLICES
        if takes_rows:
            assert close(model(ids, logits_to_keep=rows, **options).logits, whole.take_along_dim(rows[..., None], 1))
        alone = model(ids[2:], personality=PEOPLE[2], logits_to_keep=2, steer_from=0)
        if isinstance(steer_from, int) and steer_from == 0:
            assert close(alone.logits, whole[2:, -2:])


@pytest.mark.parametrize(
    ("family", "attention", "parts"),
    [
        *[(family, "eager", parts) for family in SHARED for parts in ("lora", "steer")],
        *[(family, "sdpa", "both") for family in SHARED],
    ],
)
def test_every_way_to_generate_agrees(family: str, attention: str, parts: str) -> None:
    base = shared_model(family, attention)
    bare = greedy(base, prompts(3, 7))
    model = personality_model(base, lora=parts != "steer", steer=parts != "lora")
    ids = prompts(3, 7)
    found = greedy(model, ids, personality=PEOPLE)
    assert torch.equal(found[1], bare[1])
    assert not torch.equal(found[0], bare[0]) and not torch.equal(found[0, 7:], found[2, 7:])
    assert torch.equal(found, greedy(model, ids, personality=PEOPLE, use_cache=False))
    everything = greedy(model, ids, personality=PEOPLE, steer_tokens="all")
    assert torch.equal(everything, greedy(model, ids, personality=PEOPLE, steer_tokens="all", use_cache=False))
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), ids], 1)
    left = greedy(model, padded, personality=PEOPLE, attention_mask=(padded != 0).long())
    assert torch.equal(left[:, 2:], found)
    beams = greedy(model, ids, personality=PEOPLE, num_beams=2)
    for row, person in enumerate(PEOPLE):
        one = ids[row : row + 1]
        assert torch.equal(beams[row : row + 1], greedy(model, one, personality=person, num_beams=2))
        several = greedy(model, one, personality=person, prompt_lookup_num_tokens=3)
        assert torch.equal(several, found[row : row + 1]), "several last positions at a time"
        assert torch.equal(greedy(model, one, personality=person, assistant_model=base), found[row : row + 1])


def test_generation_equals_merged_peft_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is the reference here")
    base = shared_model(SLICES)
    ids = prompts(3, 7)
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), ids], 1)
    model = personality_model(copy.deepcopy(base), steer=False)
    found = greedy(model, padded, personality=PEOPLE, attention_mask=(padded != 0).long())
    for row, person in enumerate(PEOPLE):
        if person is None:
            continue
        model.to_peft(person, tmp_path / str(row))
        merged = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / str(row))).merge_and_unload()
        assert torch.equal(found[row : row + 1, 2:], greedy(merged, ids[row : row + 1]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_the_last_positions(checkpointing: bool) -> None:
    ids = prompts(3, 7)

    def gradients(kept: int) -> list[torch.Tensor]:
        model = personality_model(shared_model(SLICES).train(), seed=1)
        if checkpointing:
            model.gradient_checkpointing_enable()
        logits = model(ids, personality=PEOPLE, use_cache=False, logits_to_keep=kept).logits[:, -2:]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -2:].flatten()).backward()
        return [p.grad for p in model.hypernet.parameters()]

    whole, sliced = gradients(0), gradients(2)
    assert sum(float(g.abs().sum()) for g in whole) > 0.1
    for one, other in zip(whole, sliced, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@torch.no_grad()
def test_packed_rows() -> None:
    model = personality_model(shared_model(SLICES))
    ids = prompts(2, 7)
    segments = torch.tensor([[0, 0, 0, -1, 1, 1, 1], [1, 1, 1, 2, 2, 2, -1]])
    whole = model(ids, personality=PEOPLE, segments=segments).logits
    for kept in (1, 4):
        found = model(ids, personality=PEOPLE, segments=segments, logits_to_keep=kept).logits
        assert close(found, whole[:, -kept:])


@torch.no_grad()
def test_random_masks_do_not_depend_on_the_positions() -> None:
    model = personality_model(shared_model(SLICES), lora=False)
    model.steering_options = SteeringOptions(random_mask=0.5)
    whole = model(prompts(3, 7), personality=PEOPLE).logits
    assert close(model(prompts(3, 7), personality=PEOPLE, logits_to_keep=2).logits, whole[:, -2:])


@pytest.mark.slow
@torch.no_grad()
def test_compiled() -> None:
    torch._dynamo.reset()
    counters.clear()
    base = shared_model(SLICES, num_hidden_layers=2, layer_types=["full_attention"] * 2, num_kv_shared_layers=1)
    eager, compiled = personality_model(copy.deepcopy(base)), personality_model(base)
    compiled.compile(fullgraph=True, backend="aot_eager")
    for length, people in ((7, PEOPLE), (9, PEOPLE[::-1]), (6, PEOPLE)):
        wanted = eager(prompts(3, length), personality=people).logits[:, -2:]
        assert close(compiled(prompts(3, length), personality=people, logits_to_keep=2).logits, wanted)
    assert counters["stats"]["unique_graphs"] <= 2, "another length is another graph once, another personality never"
    torch._dynamo.reset()


@pytest.mark.parametrize("kept", [0, 2, torch.tensor([0, 1])])
@pytest.mark.parametrize("target", ["q_proj", "down_proj", "gate_proj", "all"])
def test_other_positions_are_refused_by_name(target: str, kept: Any) -> None:
    model = PersonalityModel.from_model(
        shared_model("gemma4_text"), hypernet=HypernetConfig(rank=2, targets="all" if target == "all" else (target,))
    )
    layer = find_architecture(getattr(model, "base", model)).mlps[0].name.removesuffix(".mlp")

    def drop_the_first(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output[:, 1:]

    norm = "input_layernorm" if target in ("q_proj", "all") else "pre_feedforward_layernorm"
    model.base.get_submodule(f"{layer}.{norm}").register_forward_hook(drop_the_first)
    with pytest.raises(ValueError, match=rf"{layer}\.\S+ was given \[3, 6\] of the \[3, 7\] tokens.*logits_to_keep"):
        model(prompts(3, 7), personality=PEOPLE, logits_to_keep=kept)


def test_the_search_counts_no_token_twice_or_for_another() -> None:
    model = shared_model(SLICES)
    architecture = find_architecture(model)
    counter = ActivationCounter(4, 72, 1, device=torch.device("cpu"))
    tap = DecodeTap(model, architecture, counter, {96}, 4)
    ids = prompts(1, 7)
    with tap.watch(7, torch.zeros(1, dtype=torch.int32)):
        model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert int(counter.tokens.sum()) == 4  # the last one is never read
    once = tap.watch(7, torch.zeros(1, dtype=torch.int32))
    refusal = "layer 2 was given 1 of the 8 tokens" if LIBRARY_SLICES else "before 8 have been counted already"
    with pytest.raises(RuntimeError, match=refusal), once:
        model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, use_cache=False)


def test_the_name_is_the_librarys() -> None:
    assert compat.KEPT_NAME in inspect.signature(type(shared_model(SLICES)).forward).parameters


@pytest.mark.parametrize("family", list(SHARED))
def test_stage_tokens_beside_an_embedding_for_the_layers(family: str) -> None:
    base = shared_model(family)
    rows = StageRows([StageToken("ann", "early", "TIME-I", 97)], 48, "model.embed_tokens")
    before = type(base.get_input_embeddings())
    with pytest.raises(UnsupportedArchitectureError, match=r"model\.embed_tokens_per_layer looks up.*no stages"):
        StageEmbedding(base, rows, CallState())
    assert type(base.get_input_embeddings()) is before
    with pytest.raises(IndexError):  # what would happen without the refusal
        base.model.embed_tokens_per_layer(torch.tensor([97]))
    assert per_layer_embedding(tiny_model("llama")) is None
