"""Mixtures of experts: refused by structure, or taken with what is dense in them, and read back equal by PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpg_fast import HypernetConfig, Personality, PersonalityModel, SteeringTable
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.hypernet import from_peft
from tests.architecture.test_mlps import gated, with_mlps
from tests.families.registry import FAMILIES
from tests.model.test_wrapper import random_table
from tests.model.tiny import prompts

SHARED = (
    "Qwen2-MoE",
    "Qwen3-Next",
    "ERNIE 4.5 MoE",
    "DeepSeek-V3, shared expert of the dense size",
    "Granite MoE, shared expert",
)
ATTENTION = ("Mixtral", "Qwen3-MoE", "gpt-oss")
SIZES = ("DeepSeek-V3, as released", "GLM-4 MoE")
PERSON = Personality("E+4 N-1")
MIXTURE = r"is a mixture of experts \(.*experts\).*dense_only=True"


def built(name: str) -> Any:
    if not FAMILIES[name].installed:
        pytest.skip(f"the installed transformers has no {name}")
    return FAMILIES[name].build()


def dense_table(layers: int, neurons: int) -> SteeringTable:
    table = random_table(layers, neurons)
    return SteeringTable(table.neurons, layers, neurons, {"dense_only": True})


@pytest.mark.parametrize("name", [*SHARED, *ATTENTION, *SIZES])
def test_refused_unless_asked_for(name: str) -> None:
    base = built(name)
    with pytest.raises(UnsupportedArchitectureError, match=MIXTURE):
        PersonalityModel.from_model(base, hypernet=HypernetConfig())
    with pytest.raises(UnsupportedArchitectureError, match=MIXTURE):
        PersonalityModel.from_model(base, steering=random_table(3, 96))
    with pytest.raises(UnsupportedArchitectureError, match=MIXTURE):
        find_architecture(base)
    architecture = find_architecture(base, dense_only=True)
    assert all("experts." not in site.name or "shared" in site.name for site in architecture.sites)
    assert "left as they are" in architecture.describe()
    if name in ATTENTION:
        assert not architecture.mlps
    if name not in SHARED:
        with pytest.raises(
            UnsupportedArchitectureError, match="different MLP sizes" if name in SIZES else "no dense MLP"
        ):
            PersonalityModel.from_model(base, steering=dense_table(3, 96))


@pytest.mark.parametrize("name", [*SHARED, *ATTENTION, *SIZES, "DeepSeek-V3, dense layers only"])
def test_what_is_dense_is_written_so_that_peft_reads_it_back(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = built(name)
    ids = prompts(1, 9)
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=3, dense_only=True))
    network: Any = model.hypernet
    network.randomize_(torch.Generator().manual_seed(7), std=0.1)
    with torch.no_grad():
        bare, found = model(ids).logits, model(ids, personality=PERSON).logits
    model.save_pretrained(tmp_path / "saved")
    model.to_peft(PERSON, tmp_path / "peft")
    loaded = PersonalityModel.load(model.unload(), tmp_path / "saved")  # asks for nothing: it is in the configuration
    with torch.no_grad():
        assert torch.equal(loaded(ids, personality=PERSON).logits, found)
    stored = PersonalityModel.from_model(loaded.unload(), hypernet=from_peft({"ann": tmp_path / "peft"}))
    assert {site.name for site in stored.hypernet.sites} == {site.name for site in network.sites}  # type: ignore[union-attr]
    with torch.no_grad():
        again = stored(ids, personality=Personality(character="ann")).logits
    rival = peft.PeftModel.from_pretrained(stored.unload(), str(tmp_path / "peft")).eval()
    with torch.no_grad():
        expected = rival(ids).logits
    assert (expected - bare).norm() > 1e-2 * bare.norm()
    for ours in (found, again):
        assert (ours - expected).norm() < 2e-5 * expected.norm()


def test_neurons_of_shared_experts() -> None:
    base = built("Qwen2-MoE")
    ids = prompts(2, 9)
    with torch.no_grad():
        bare = base(ids).logits
        model = PersonalityModel.from_model(base, steering=dense_table(3, 96))
        found = model(ids, personality=[PERSON, None]).logits
    assert (found[0] - bare[0]).norm() > 1e-2 * bare[0].norm()
    assert (found[1] - bare[1]).norm() < 1e-5 * bare[1].norm()


def test_experts_in_a_list_are_a_mixture_too() -> None:
    """As older and user-defined models write them."""

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(
                gated(("gate_proj", "up_proj", "down_proj"), "silu", (0, 1, 2), True) for _ in range(3)
            )
            self.always = gated(("gate_proj", "up_proj", "down_proj"), "silu", (0, 1, 2), True)
            self.choose = nn.Linear(48, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share = self.choose(x).softmax(-1)
            return self.always(x) + sum(share[..., i, None] * part(x) for i, part in enumerate(self.parts))

    base = with_mlps(Mixture)
    with pytest.raises(UnsupportedArchitectureError, match=r"mixture of experts \(model\.layers\.0\.mlp\.parts\)"):
        find_architecture(base)
    found = find_architecture(base, dense_only=True)
    assert [mlp.name for mlp in found.mlps] == [f"model.layers.{i}.mlp.always" for i in range(3)]


def test_other_bare_parameters_are_still_refused(tmp_path: Path) -> None:
    from dpg_fast.hypernet.peft_io import PeftFormatError, read_peft, write_peft

    write_peft(tmp_path / "a", {"m.x": (torch.ones(2, 3), torch.ones(4, 2))}, alpha=2, base_model="base")
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target_parameters": ["mlp.experts.gate_up_proj"]}))
    with pytest.raises(PeftFormatError, match="fused experts"):
        read_peft(tmp_path / "a")
