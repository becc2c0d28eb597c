"""The random mask and the choice of steered tokens, against NPTI's loop written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpg_fast import HypernetConfig, Personality, PersonalityModel, SteeringOptions
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.model.steering import RandomMask
from dpg_fast.personality.scores import POLES, Pole
from tests.model.test_wrapper import greedy, random_table
from tests.model.tiny import prompts, tiny_model


def steered_model(**options: Any) -> PersonalityModel:
    base = tiny_model("llama")
    shape = find_architecture(base)
    table = random_table(shape.num_layers, shape.intermediate)
    return PersonalityModel.from_model(base, steering=table, steering_options=SteeringOptions(**options))


class Loop:
    """NPTI's steering as its paper and scripts describe it: hooks that edit the activation, one pole, all rows."""

    def __init__(self, model: Any, table: Any, pole: Pole, gamma: float, mask: float | None, seed: int) -> None:
        self.calls = 0
        self.table, self.pole, self.gamma, self.keep, self.seed = table, pole, gamma, mask, seed
        self.handles = [model.register_forward_pre_hook(self.count)]
        for mlp in find_architecture(model).mlps:
            hook = lambda m, a, out, layer=mlp.layer: self.edit(out, layer)  # noqa: E731
            self.handles.append(mlp.act_module.register_forward_hook(hook))

    def count(self, *_: Any) -> None:
        self.calls += 1

    def edit(self, act: Tensor, layer: int) -> Tensor:
        if act.shape[1] > 1:  # the prompt; every later call holds one token
            return act
        own, other = self.table.neurons[self.pole], self.table.neurons[self.pole.opposite]
        act = act.clone()
        for i in other.neuron[other.layer == layer].tolist():
            act[..., i] = act[..., i].clamp(max=0)
        drawn = torch.ones(act.shape[-1])
        if self.keep is not None:
            drawn = RandomMask(self.keep, self.seed, self.calls).draw(layer, act.shape[-1], act.device)
        here = own.layer == layer
        for i, diff, p95 in zip(own.neuron[here].tolist(), own.diff[here], own.p95[here], strict=True):
            act[..., i] += drawn[i] * p95 * self.gamma / (1 + torch.exp(-10 * (diff - 0.15)))
        return act


@pytest.mark.parametrize("mask", [None, 0.9, 0.5])
def test_generation_equals_the_loop(mask: float | None) -> None:
    pole = Pole.parse("E-")
    model = steered_model(random_mask=mask, seed=5)
    ids = prompts(3, 6)
    found = greedy(model, ids, personality="E-5")
    assert not torch.equal(found, greedy(model, ids))
    table, base = model.steering, model.unload()
    loop = Loop(base, table, pole, 1.0, mask, 5)
    expected = greedy(base, ids)
    for handle in loop.handles:
        handle.remove()
    assert torch.equal(found, expected)


def test_masks_repeat_with_their_seed_and_change_without() -> None:
    model = steered_model(random_mask=0.5)
    ids = prompts(2, 5)
    first = greedy(model, ids, personality="N+5", output_logits=True, return_dict_in_generate=True).logits
    again = greedy(model, ids, personality="N+5", output_logits=True, return_dict_in_generate=True).logits
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    model.steering_options = SteeringOptions(random_mask=0.5, seed=1)
    other = greedy(model, ids, personality="N+5", output_logits=True, return_dict_in_generate=True).logits
    assert torch.equal(first[0], other[0])  # from the prompt, which is not steered
    assert not torch.equal(first[1], other[1])
    model.steering_options = SteeringOptions(random_mask=1.0)
    whole = greedy(model, ids, personality="N+5")
    model.steering_options = SteeringOptions()
    assert torch.equal(whole, greedy(model, ids, personality="N+5"))


def test_mask_is_shared_by_rows_and_redrawn_by_step_and_layer() -> None:
    mask = RandomMask(0.9, 0, 1)
    drawn = mask.draw(0, 20_000, torch.device("cpu"))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - 0.9) < 0.01
    others = [RandomMask(0.9, 0, 2), RandomMask(0.9, 1, 1), RandomMask(0.9, 1, 0)]
    draws = [mask.draw(1, 20_000, drawn.device), *(m.draw(0, 20_000, drawn.device) for m in others)]
    for other in draws:
        assert abs(float((drawn * other).mean()) - 0.81) < 0.01  # independent
    add = torch.arange(20.0).reshape(len(POLES), 2)
    masked = RandomMask(0.5, 0, 1).apply(add, 3)
    kept = RandomMask(0.5, 0, 1).draw(3, 2, add.device)
    assert torch.equal(masked, torch.stack([row * kept for row in add]))


def test_rows_keep_their_own_personality_under_a_mask() -> None:
    model = steered_model(random_mask=0.7)
    ids = prompts(1, 5).repeat(3, 1)
    mixed = greedy(model, ids, personality=["E+5", None, "E-5"])
    for row, person in enumerate(["E+5", None, "E-5"]):
        assert torch.equal(mixed[row], greedy(model, ids[:1], personality=person)[0])


@pytest.mark.parametrize("tokens", ["decode", "all"])
def test_steered_tokens_follow_the_options(tokens: Any) -> None:
    model = steered_model(tokens=tokens)
    ids = prompts(2, 5)
    expected = greedy(model, ids, personality="O+5", steer_tokens=tokens)
    assert torch.equal(greedy(model, ids, personality="O+5"), expected)
    logits = {
        kind: greedy(
            model, ids, personality="O+5", steer_tokens=kind, output_logits=True, return_dict_in_generate=True
        ).logits[0]
        for kind in ("decode", "all")
    }
    bare = greedy(model, ids, output_logits=True, return_dict_in_generate=True).logits[0]
    torch.testing.assert_close(logits["decode"], bare)  # the first token comes from the prompt
    assert float((logits["all"] - bare).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_mask": 0.0}, "above 0"),
        ({"random_mask": 1.5}, "probability"),
        ({"random_mask": float("nan")}, "probability"),
        ({"tokens": "prompt"}, '"decode", "all"'),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringOptions(**options)


def test_checkpointed_layers_recompute_the_same_mask() -> None:
    grads = []
    for checkpointing in (False, True):
        base = tiny_model("llama")
        shape = find_architecture(base)
        torch.manual_seed(0)
        model = PersonalityModel.from_model(
            base,
            hypernet=HypernetConfig(rank=2, codes=3),
            steering=random_table(shape.num_layers, shape.intermediate),
            steering_options=SteeringOptions(random_mask=0.5),
        )
        assert model.hypernet is not None
        model.hypernet.randomize_(torch.Generator().manual_seed(0))  # type: ignore[operator]
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.train()
        ids = prompts(2, 6)
        model(ids, labels=ids, personality=[Personality("E+5"), Personality("N-5")]).loss.backward()
        grads.append([p.grad.clone() for p in model.hypernet.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
