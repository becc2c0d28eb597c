"""Characters beside hypernetworks of every kind: codes for each layer, and texts that are read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import Character, Description, HypernetConfig, Personality, PersonalityModel
from dpg_fast.hypernet import CombinedNetwork
from tests.model.characters import write_character
from tests.model.tiny import prompts, tiny_model
from tests.model.variants import SMALL, VARIANTS, personality_model

pytest.importorskip("peft", reason="PEFT writes the adapters")
SCORES = Personality("E+3 O-2")


def change(network: Any, item: Any) -> dict[str, torch.Tensor]:
    pairs = network.materialise(item)
    return {name: network.config.scale * (B.detach().double() @ A.detach().double()) for name, (A, B) in pairs.items()}


@pytest.fixture(scope="module")
def place(smollm2_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    tokenizer = copy.deepcopy(smollm2_tokenizer)
    base = tiny_model("llama", vocab_size=len(tokenizer))
    folder = tmp_path_factory.mktemp("character")
    write_character(base, folder / "a", "a", 1, targets=("q_proj", "gate_proj", "up_proj"))
    return tokenizer, base, folder


def make(place: tuple[Any, Any, Path], config: HypernetConfig) -> PersonalityModel:
    tokenizer, base, _ = place
    return personality_model(tiny_model("llama", vocab_size=base.config.vocab_size), tokenizer, config)


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("wide")])
@pytest.mark.parametrize("targets", ["all", ("q_proj", "down_proj")])
def test_a_character_beside_every_kind_of_hypernetwork(place: Any, name: str, targets: Any, tmp_path: Path) -> None:
    values = VARIANTS[name].to_dict() | {"targets": targets, "first_layer": 0 if targets == "all" else 1}
    model = make(place, HypernetConfig.from_dict(values))
    alone = change(model.hypernet, SCORES)
    described: Any = Description("a loud sailor", SCORES)
    read = change(model.hypernet, described)
    ids = prompts(4, 9)
    with torch.no_grad():
        before = model(ids[:1], personality=SCORES).logits[0]
    model.add_characters({"a": place[2] / "a"})
    assert isinstance(model.hypernet, CombinedNetwork)
    own = change(model.hypernet, Character("a"))
    both = Personality("@a/late E+3 O-2")
    for item, parts in (
        (SCORES, [alone]),
        (described, [read]),
        (Personality("@a/late"), [own]),
        (both, [alone, own]),
        (Description("a loud sailor", both), [read, own]),
    ):
        for site, found in change(model.hypernet, item).items():
            expected = sum((part[site] for part in parts if site in part), torch.zeros_like(found))
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6), (item, site)
    people: list[Any] = [SCORES, Personality("@a"), Personality("@a E+3 O-2"), None]
    with torch.no_grad():
        together = model(ids, personality=people).logits
        assert torch.allclose(together[0], before, atol=2e-4)
        for row, person in enumerate(people):
            assert torch.allclose(model(ids[row : row + 1], personality=person).logits[0], together[row], atol=2e-4)
    model.save_pretrained(tmp_path)
    again = PersonalityModel.load(model.unload(), tmp_path, tokenizer=place[0])
    with torch.no_grad():
        assert torch.allclose(again(ids, personality=people).logits, together, atol=2e-4)
    stage = again.stage_token_id(both)
    assert again.stage_token_id(Description("x", both)) == stage == place[1].config.vocab_size + 1  # type: ignore[arg-type]


def test_texts_without_scores_and_wide_heads(place: Any) -> None:
    model = make(place, VARIANTS["scores"])
    model.add_characters({"a": place[2] / "a"})
    with pytest.raises(ValueError, match="has no scores"):
        model(prompts(1, 5), personality=Description("x", Personality("@a")))
    reads = make(place, VARIANTS["text"])
    with pytest.raises(ValueError, match="names a stored adapter, and this model has none"):
        reads(prompts(1, 5), personality=Description("x", Personality("@a")))
    reads.add_characters({"a": place[2] / "a"})
    assert reads(prompts(1, 5), personality=Description("x", Personality("@a"))).logits.shape[1] == 5
    wide = make(place, HypernetConfig(**SMALL | {"hidden": 100}, head="wide"))
    with pytest.raises(ValueError, match="wide head"):
        wide.add_characters({"a": place[2] / "a"})
    assert wide(prompts(1, 5), personality=SCORES).logits.shape[1] == 5
