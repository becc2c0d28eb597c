"""Stacked products: used where they can be, invisible from outside, and never stale."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.model.layers import stacks
from tests.model.tiny import FAMILIES, prompts, tiny_model

PEOPLE = [Personality("E+4 N-1"), None, Personality("O-5 C+2.5")]


def network_for(base: Any, seed: int = 7) -> HyperNetwork:
    torch.manual_seed(0)
    network = HyperNetwork(HypernetConfig(rank=3, codes=4), find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(seed), std=0.1)
    return network


def wrapped(base: Any) -> PersonalityModel:
    return PersonalityModel.from_model(base, hypernet=network_for(base))


@torch.no_grad()
def logits(model: Any, **kwargs: Any) -> Tensor:
    result: Tensor = model(prompts(3, 7), **kwargs).logits
    return result


def expected(base: Any, network: HyperNetwork) -> Tensor:
    """Row by row, from merged weights."""
    found = []
    for row, person in enumerate(PEOPLE):
        merged = copy.deepcopy(base)
        if person is not None:
            with torch.no_grad():
                for name, (A, B) in network.materialise(person).items():
                    merged.get_submodule(name).weight += network.config.scale * (B @ A)
        found.append(logits(merged)[row])
    return torch.stack(found)


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() < 2e-5 * wanted.norm())


def stacked_layers(model: PersonalityModel) -> int:
    surgery = model._runtime._surgery
    alone = sum(adapter.stack is not None for adapter in surgery.linear_adapters.values())
    return alone + sum(
        len(adapter.stack.widths) for adapter in surgery.mlp_adapters.values() if adapter.stack is not None
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plain_layer_is_stacked_and_merged_weights_agree(family: str) -> None:
    base = tiny_model(family)
    model = wrapped(copy.deepcopy(base))
    assert model.hypernet is not None
    found = logits(model, personality=PEOPLE)
    assert stacked_layers(model) == len(model.hypernet.sites)
    assert close(found, expected(base, model.hypernet))


def test_biases_are_stacked_too() -> None:
    base = tiny_model("qwen2")  # q, k and v have biases, o has none
    with torch.no_grad():
        for layer in base.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.bias.normal_()
    model = wrapped(copy.deepcopy(base))
    assert model.hypernet is not None
    assert close(logits(model, personality=PEOPLE), expected(base, model.hypernet))
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), model.base.parameters(), strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_the_base_looks_as_before_and_is_given_back(family: str, tmp_path: Path) -> None:
    base = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    parameters = dict(base.named_parameters())
    bare = logits(base)
    model = wrapped(base)
    logits(model, personality=PEOPLE)
    state = model.base.state_dict()
    assert list(state) == list(before) and all(torch.equal(state[name], before[name]) for name in before)
    assert torch.equal(logits(model), bare)  # without a personality: the same code on the same numbers

    model.base.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], before[name]) for name in saved) and len(saved) == len(before)
    assert (
        sum(t.numel() * t.element_size() for t in saved.values())
        >= (tmp_path / "model.safetensors").stat().st_size * 0.9
    )
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), bare)

    returned = model.unload()
    assert torch.equal(logits(returned), bare)
    for name, parameter in returned.named_parameters():
        assert parameter is parameters[name], "the parameters themselves stay"
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


def test_weights_are_held_once() -> None:
    model = wrapped(tiny_model("llama"))
    logits(model, personality=PEOPLE)
    for stack, _, _ in model._runtime._surgery._stacks:
        assert stack._weight is not None
        storage = stack._weight.untyped_storage().data_ptr()
        assert all(layer.weight.untyped_storage().data_ptr() == storage for layer in stack.layers)


def test_changed_and_replaced_weights_are_followed() -> None:
    base = tiny_model("llama")
    model = wrapped(base)
    network = model.hypernet
    assert network is not None
    logits(model, personality=PEOPLE)
    other = tiny_model("llama", seed=5)

    base.load_state_dict(other.state_dict())  # in place: the views see it
    assert close(logits(model, personality=PEOPLE), expected(other, network))

    third = tiny_model("llama", seed=6)
    base.load_state_dict(third.state_dict(), assign=True)  # other tensors: stacked anew
    assert close(logits(model, personality=PEOPLE), expected(third, network))

    layer = base.model.layers[1].mlp.gate_proj
    layer.weight.data = torch.randn_like(layer.weight) * 0.1
    fourth = copy.deepcopy(third)
    fourth.model.layers[1].mlp.gate_proj.weight.data = layer.weight.data.clone()
    assert close(logits(model, personality=PEOPLE), expected(fourth, network))

    model.bfloat16()
    wanted = expected(fourth, network)
    assert (logits(model, personality=PEOPLE).float() - wanted).norm() < 0.05 * wanted.norm()
    assert stacked_layers(model) == len(network.sites)


def test_a_trained_bank_reaches_the_stack_in_place() -> None:
    base = tiny_model("llama")
    model = wrapped(copy.deepcopy(base))
    network = model.hypernet
    assert network is not None
    logits(model, personality=PEOPLE)
    weights = [stack._weight for stack, _, _ in model._runtime._surgery._stacks]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    ids = prompts(3, 7)
    for _ in range(2):
        model(ids, personality=PEOPLE, labels=ids).loss.backward()
        assert stacked_layers(model) == 0  # gradients need the bank itself
        optimizer.step()
        optimizer.zero_grad()
        assert close(logits(model, personality=PEOPLE), expected(base, network))
    assert all(
        stack._weight is weight for (stack, _, _), weight in zip(model._runtime._surgery._stacks, weights, strict=True)
    )


def test_hooks_keep_their_layers_apart() -> None:
    base = tiny_model("llama")
    model = wrapped(copy.deepcopy(base))
    network = model.hypernet
    assert network is not None
    logits(model, personality=PEOPLE)
    seen: list[str] = []
    up = model.base.model.layers[1].mlp.up_proj  # type: ignore[union-attr]
    handle = up.register_forward_hook(lambda *args: seen.append("up"))
    assert close(logits(model, personality=PEOPLE), expected(base, network))
    assert seen == ["up"] and stacked_layers(model) == len(network.sites) - 2
    handle.remove()
    network.bank.load_state_dict(network.bank.state_dict())  # a new version of the bank: everything is looked at again
    logits(model, personality=PEOPLE)
    assert stacked_layers(model) == len(network.sites) and seen == ["up"]


def test_foreign_layers_keep_their_own_product() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    base = tiny_model("llama")
    old = base.model.layers[0].self_attn.k_proj
    new = Doubling(old.in_features, old.out_features, bias=False)
    new.load_state_dict(old.state_dict())
    base.model.layers[0].self_attn.k_proj = new
    model = wrapped(copy.deepcopy(base))
    network = model.hypernet
    assert network is not None
    found = logits(model, personality=PEOPLE)
    assert stacked_layers(model) == len(network.sites) - 3
    assert torch.equal(found[1], found[1]) and close(found[1], logits(base)[1])
    doubled = copy.deepcopy(base)
    for row, person in enumerate(PEOPLE):
        if person is None:
            continue
        merged = copy.deepcopy(doubled)
        with torch.no_grad():
            for name, (A, B) in network.materialise(person).items():
                factor = 0.5 if name == "model.layers.0.self_attn.k_proj" else 1.0  # the LoRA is added after doubling
                merged.get_submodule(name).weight += factor * network.config.scale * (B @ A)
        assert close(found[row], logits(merged)[row])


def test_tied_layers_are_not_stacked() -> None:
    base = tiny_model("llama")
    base.model.layers[2].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    model = wrapped(base)
    assert model.hypernet is not None
    logits(model, personality=PEOPLE)
    assert stacked_layers(model) == len(model.hypernet.sites) - 4
    assert base.model.layers[2].mlp.up_proj.weight is base.model.layers[0].mlp.up_proj.weight


def test_autocast_uses_the_layers_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model("llama")
    model = wrapped(copy.deepcopy(base))
    network = model.hypernet
    assert network is not None
    logits(model, personality=PEOPLE)

    def refuse(*args: Any) -> None:
        raise AssertionError("the stacked product ran")

    monkeypatch.setattr(stacks.Stack, "product", refuse)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(model, personality=PEOPLE)
    wanted = expected(base, network)
    assert (found.float() - wanted).norm() < 0.05 * wanted.norm()
