"""Adapters of high rank, alone, beside others and beside a hypernetwork, against PEFT's own models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import Character, HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.hypernet import from_peft
from dpg_fast.kernels import use_backend
from tests.model.test_wrapper import greedy
from tests.model.tiny import prompts, tiny_model

peft = pytest.importorskip("peft", reason="PEFT writes the adapters and is the reference here")

RANKS = {"high": 256, "middle": 128, "low": 4}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path], dict[str, Any]]:
    """A base, directories of adapters, and the PEFT models they are saves of."""
    folder = tmp_path_factory.mktemp("ranks")
    base, rivals = tiny_model("llama"), {}
    for seed, (name, rank) in enumerate(RANKS.items(), 1):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", init_lora_weights=False)
        rival = peft.get_peft_model(copy.deepcopy(base), config).eval()
        with torch.no_grad():
            for key, weight in rival.named_parameters():
                if "lora_" in key:
                    weight.normal_(0, 0.2 / rank**0.25)
        rival.save_pretrained(folder / name)
        rivals[name] = rival
    return base, {name: folder / name for name in RANKS}, rivals


@torch.no_grad()
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("names", [("high",), ("middle",), ("low", "high", "middle")])
def test_adapters_equal_pefts(written: Any, names: tuple[str, ...], backend: str | None) -> None:
    base, folders, rivals = written
    ids = prompts(len(names) + 1, 9)
    bare = base(ids).logits
    model = PersonalityModel.from_model(
        copy.deepcopy(base), hypernet=from_peft({name: folders[name] for name in names})
    )
    people = [*map(Character, names), None]
    with use_backend(backend):
        found = model(ids, personality=people).logits
        tokens = greedy(model, ids, personality=people)
    for row, name in enumerate(names):
        wanted = rivals[name](input_ids=ids[row : row + 1]).logits[0]
        assert (wanted - bare[row]).norm() > 0.1 * bare[row].norm()
        assert (found[row] - wanted).norm() <= 5e-6 * wanted.norm()
        assert torch.equal(tokens[row : row + 1], greedy(rivals[name], ids[row : row + 1]))
    assert (found[-1] - bare[-1]).norm() <= 1e-6 * bare[-1].norm()


@torch.no_grad()
def test_beside_a_hypernetwork_and_back(written: Any, tmp_path: Path) -> None:
    base, folders, rivals = written
    ids = prompts(2, 9)
    network = HyperNetwork(HypernetConfig(rank=8), find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(0), std=0.1)
    model = PersonalityModel.from_model(copy.deepcopy(base), hypernet=network, characters={"high": folders["high"]})
    found = model(ids, personality=[Character("high"), Personality(character="high", extraversion=4)]).logits
    wanted = rivals["high"](input_ids=ids[:1]).logits[0]
    assert (found[0] - wanted).norm() <= 5e-6 * wanted.norm()
    model.to_peft(Personality(character="high", extraversion=4), tmp_path / "sum", dtype=torch.float32)
    both = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "sum")).eval()
    assert (found[1] - both(input_ids=ids[1:]).logits[0]).norm() <= 5e-6 * found[1].norm()


@torch.no_grad()
def test_exact_blends(written: Any) -> None:
    base, folders, _ = written
    names = ("high", "middle")
    stored = from_peft({name: folders[name] for name in names}, exact_blends=True)
    assert stored.config.rank == 384
    model = PersonalityModel.from_model(copy.deepcopy(base), hypernet=stored)
    merged = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folders["high"]), adapter_name="high")
    merged.load_adapter(str(folders["middle"]), adapter_name="middle")
    merged.add_weighted_adapter(["high", "middle"], [0.3, -0.5], "blend", combination_type="cat")
    merged.set_adapter("blend")
    ids = prompts(1, 9)
    wanted = merged.eval()(input_ids=ids).logits
    found = model(ids, personality=Character({"high": 0.3, "middle": -0.5})).logits
    assert (found - wanted).norm() <= 5e-6 * wanted.norm()
