"""Wording, the fixed map of text encoders, and their settings."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from dpg_fast import Description, HypernetConfig, HyperNetwork, Personality
from dpg_fast.hypernet import Site, WideTrunk, describe, from_config
from dpg_fast.hypernet.encoders import fit_projection
from dpg_fast.hypernet.trunk import TEXT_SPREAD
from dpg_fast.hypernet.wording import WORDINGS, reference_people

NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
SITES = [
    Site(f"model.layers.{layer}.{name}", 12 if "down" not in name else 20, 20 if "gate" in name or "up" in name else 12)
    for layer in range(2)
    for name in (*NAMES, "mlp.down_proj")
]


def test_descriptions_are_values() -> None:
    item = Description("  a shy librarian ", "E-4")
    assert item.text == "a shy librarian" and item.personality == Personality("E-4")
    assert item == Description("a shy librarian", Personality("E-4")) != Description("a shy librarian")
    assert len({item, Description("a shy librarian", "E-4"), Description("a shy librarian")}) == 2
    assert pickle.loads(pickle.dumps(item)) == item == copy.deepcopy(item)
    assert repr(item) == "Description('a shy librarian', Personality(\"E-4\"))"
    with pytest.raises(AttributeError, match="cannot be changed"):
        item.text = "else"  # type: ignore[misc]
    with pytest.raises(ValueError, match="empty"):
        Description(" \n")
    with pytest.raises(ValueError, match="9000 characters; at most 8192"):
        Description("a" * 9000)
    with pytest.raises(TypeError, match="not int"):
        Description(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wording", range(WORDINGS))
def test_every_level_and_pole_has_its_words(wording: int) -> None:
    people = [Personality(E=level) for level in (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5)]
    texts = [describe(person, wording) for person in people]
    assert len(set(texts)) == 11
    assert describe(Personality("O3 C-1 E0 A5 N-5"), wording) == describe(Personality("O3 C-1 E0 A5 N-5"), wording + 4)
    assert len({describe(Personality("O3 C-1"), w) for w in range(WORDINGS)}) == WORDINGS


def test_reference_people_come_with_their_opposites() -> None:
    people = reference_people(100)
    assert people == reference_people(100) and len(people) == 100
    assert all(a == -b for a, b in list(pairwise(people))[::2])
    assert {sum(1 for score in person.scores if score) for person in people} == {1, 2, 3, 4, 5}


def test_the_fixed_map_finds_scores_and_components() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 5, generator=generator) * 2 - 1
    scores = torch.cat([scores, -scores])
    noise = 0.1 * torch.randn(400, 24, generator=generator)
    states = 50.0 + scores @ torch.randn(5, 24, generator=generator) + noise
    centre, weights = fit_projection(states, scores, 3)
    found = (states - centre) @ weights
    assert weights.shape == (24, 8)
    assert float((found[:, :5] - scores).square().mean() / scores.square().mean()) < 0.05
    components = found[:, 5:]
    assert torch.allclose(components.std(dim=0), torch.full((3,), TEXT_SPREAD), atol=0.01)
    assert torch.allclose(torch.corrcoef(components.t()), torch.eye(3), atol=0.01)
    flat, more = fit_projection(states[:, :2], scores, 4)  # fewer directions than components
    assert flat.shape == (2,) and torch.equal(more[:, 7:], torch.zeros(2, 2))


def test_a_wide_trunk_has_the_power_of_a_banks_traits() -> None:
    torch.manual_seed(0)
    trunk = WideTrunk(32, 2)
    levels = torch.randint(-5, 6, (2000, 5)) / 5
    a, b = trunk(torch.cat([torch.ones(2000, 1), levels], dim=1))
    assert a.shape == (2000, 33) and torch.equal(a, b) and torch.equal(a[:, 0], torch.ones(2000))
    assert float(a[:, 1:].detach().square().sum(dim=1).mean()) == pytest.approx(2.0, rel=0.1)


def test_settings_of_encoders_and_heads() -> None:
    wide = HypernetConfig(head="wide", hidden=200, codes=6)
    assert wide.codes == 201 and HypernetConfig.from_dict(wide.to_dict()) == wide
    assert HypernetConfig(encoder="text").features == 6 + 32 and HypernetConfig().features == 6
    for fields, words in (
        ({"head": "tall"}, "head must be one of bank, wide"),
        ({"head": "wide", "depth": 0}, "depth >= 1"),
        ({"head": "wide", "hidden": 5000}, r"hidden must be a whole number in 1\.\.1024"),
        ({"encoder": "stored", "head": "wide"}, "no head"),
        ({"text_features": 0}, r"text_features must be a whole number in 1\.\.256"),
        ({"codes": 65}, r"codes must be a whole number in 1\.\.64"),
    ):
        with pytest.raises(ValueError, match=words):
            HypernetConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dense_only must be true or false"):
        HypernetConfig(dense_only=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", ["scores", "text", "both"])
@pytest.mark.parametrize("head", ["bank", "wide"])
def test_configurations_round_trip(encoder: str, head: str) -> None:
    torch.manual_seed(0)
    config = HypernetConfig(rank=2, hidden=5, encoder=encoder, head=head, first_layer=1, text_features=3)  # type: ignore[arg-type]
    network = HyperNetwork(config, SITES)
    again = from_config(network.to_config(), SITES)
    assert isinstance(again, HyperNetwork) and again.config == config
    again.load_state_dict(network.state_dict())
    assert all(site.layer == 1 for site in again.sites)
    if encoder != "scores":
        with pytest.raises(RuntimeError, match="put it on one first"):
            again.codes([Personality("E+4")])


def test_files_of_earlier_versions() -> None:
    stored = HypernetConfig(rank=2).to_dict()
    assert HypernetConfig.from_dict({**stored, "per_layer_codes": False}) == HypernetConfig(rank=2)
    with pytest.raises(ValueError, match="per_layer_codes"):
        HypernetConfig.from_dict({**stored, "per_layer_codes": True})
    with pytest.raises(ValueError, match="encoder must be one of scores, text, both, stored"):
        HypernetConfig.from_dict({**stored, "encoder": "layers"})
