"""Whatever interrupts a call, the next one gives what a model gives that was never interrupted."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import dpg_fast.model.slots
import dpg_fast.model.wide
from dpg_fast import Personality, PersonalityModel
from dpg_fast.hypernet import HypernetConfig
from tests.model.test_wrapper import personality_model, random_table
from tests.model.tiny import prompts, tiny_model
from tests.support.interruption import Interruption, lines_of, places

INSIDE = "/dpg_fast/model/"
IDS = prompts(3, 5)
Call = Callable[[PersonalityModel, list[Any], list[Any]], Any]


def wide_model() -> PersonalityModel:
    torch.manual_seed(0)
    config = HypernetConfig(
        rank=2, hidden=6, depth=1, head="wide", targets=("q_proj", "down_proj", "up_proj", "gate_proj")
    )
    model = PersonalityModel.from_model(tiny_model("llama"), hypernet=config, steering=random_table(3, 72))
    model.hypernet.randomize_(torch.Generator().manual_seed(0), std=0.2)  # type: ignore[union-attr, operator]
    return model


MODELS = {"bank": lambda: personality_model(tiny_model("llama")), "wide": wide_model}


def plain(model: PersonalityModel, first: list[Any], second: list[Any]) -> None:
    model(IDS, personality=first)


def generate(model: PersonalityModel, first: list[Any], second: list[Any]) -> None:
    model.generate(IDS, personality=first, max_new_tokens=2, do_sample=False)


def block(model: PersonalityModel, first: list[Any], second: list[Any]) -> None:
    with model.speaking(first, rows=3) as speaking:
        model.base(IDS)
        model(IDS, personality=second)  # a call inside the block
        model.base(IDS)
        speaking.change(second)
        model.base(IDS)


CALLS: dict[str, Call] = {"forward": plain, "generate": generate, "block": block}


def people() -> Iterator[list[Any]]:
    """Three rows of people that were not asked for before, one of them twice, one of them the base model."""
    for number in itertools.count(1):
        yield [Personality(openness=(number % 997) / 200, neuroticism=-(number % 7) / 2), f"E+{1 + number % 4}", None]


def logits(model: PersonalityModel, rows: list[Any] | None) -> Tensor:
    found: Tensor = model(IDS, personality=rows).logits
    return found


@torch.no_grad()
def check_places(most: int, kind: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> int:
    """Interrupt ``call`` at all lines that it runs, or at ``most`` of them; the number of interruptions."""
    monkeypatch.setattr(
        dpg_fast.model.slots.SlotTable.__init__, "__defaults__", (4, (), True)
    )  # so that slots are reused
    monkeypatch.setattr(dpg_fast.model.wide.WideTable.__init__, "__defaults__", (4,))
    fresh = people()
    model = MODELS[kind]()
    never = copy.deepcopy(model)
    bare = logits(never, None)
    logits(model, next(fresh)), call(model, next(fresh), next(fresh))
    found = places(lines_of(lambda: call(model, next(fresh), next(fresh)), INSIDE))
    made = 0
    for at in random.Random(0).sample(found, min(most, len(found))):
        first, second = next(fresh), next(fresh)
        try:
            lines_of(lambda: call(model, first, second), INSIDE, at)  # noqa: B023
        except Interruption:
            made += 1
        with model._runtime.exclusive("a test"):
            pass
        assert torch.equal(logits(model, None), bare), at
        for rows in (second, first, next(fresh)):
            wanted = logits(never, rows)
            assert torch.allclose(logits(model, rows), wanted, rtol=1e-4, atol=1e-4), at
            table = model._runtime.supply.current
            assert table is not None and not table._pinned(), at
            assert (wanted[:2] - bare[:2]).flatten(1).norm(dim=1).min() > 0.1, "the comparison tells people apart"
    return made


@pytest.mark.parametrize("kind", MODELS)
def test_the_next_call_is_right(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_places(12, kind, block, monkeypatch) > 10


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_next_call_is_right_after_every_line(kind: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = check_places(150, kind, CALLS[call], monkeypatch)
    print(f"{kind}, {call}: {made} interruptions")
    assert made > 50


@torch.no_grad()
def test_a_block_goes_on_after_a_change_that_was_interrupted() -> None:
    """Half a change is no change."""
    model = personality_model(tiny_model("llama"))
    fresh = people()
    first, bare = next(fresh), logits(model, None)
    wanted = logits(model, first)
    with model.speaking(first, rows=3) as speaking:
        model.base(IDS)
        found = places(lines_of(lambda: speaking.change(next(fresh)), INSIDE), each=1)
        for at in found[::6]:
            speaking.change(first)
            second = next(fresh)
            with pytest.raises(Interruption):
                lines_of(lambda: speaking.change(second), INSIDE, at)  # noqa: B023
            now = model.base(IDS).logits
            others = [next(fresh)[0] for _ in range(80)]  # would overwrite slots that nobody holds
            model(IDS[:1].expand(80, -1), personality=others)
            assert torch.equal(model.base(IDS).logits, now)
            after = logits(model, second)
            assert any(torch.allclose(now, one, rtol=1e-4, atol=1e-4) for one in (wanted, after)), at
    assert torch.equal(logits(model, None), bare)


def test_a_model_is_not_unloaded_inside_a_call() -> None:
    model = personality_model(tiny_model("llama"))
    with torch.no_grad(), model.speaking("E+5", rows=3):
        wanted = model.base(IDS).logits
        with pytest.raises(RuntimeError, match="while a call of the model is running"):
            model.unload()
        assert torch.equal(model.base(IDS).logits, wanted)
    refused = []

    def unload(*_: Any) -> None:
        with pytest.raises(RuntimeError, match="while a call of the model is running"):
            model.unload()
        refused.append(True)

    hook = model.base.model.layers[1].register_forward_hook(unload)
    model(IDS, personality="E+5")
    model(IDS)
    hook.remove()
    assert len(refused) == 2
    model.unload()
