"""Wording, the fixed map of text encoders, trunks with groups, and their settings."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from dpg_fast import Description, HypernetConfig, HyperNetwork, Personality
from dpg_fast.hypernet import Site, Trunk, WideTrunk, describe, from_config, input_groups
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


def test_sites_of_one_input_share_a_group() -> None:
    groups = input_groups(SITES)
    own = [groups[f"model.layers.0.{name}"] for name in (*NAMES, "mlp.down_proj")]
    assert own[0] == own[1] == own[2] and own[4] == own[5]
    assert len(set(own)) == 4 and len(set(groups.values())) == 8
    assert sorted(set(groups.values())) == list(range(8))


@pytest.mark.parametrize("codes", [3, 6, 9])
@pytest.mark.parametrize("features", [6, 10])
def test_groups_start_alike_and_have_weights_of_their_own(codes: int, features: int) -> None:
    plain, grouped = Trunk(codes, 7, 2, features), Trunk(codes, 7, 2, features, groups=3)
    for trunk in (plain, grouped):
        torch.manual_seed(0)
        trunk.reset_parameters()
    x = torch.randn(4, features)
    x[:, 0] = 1.0
    a, b = plain(x)
    for shared in (x, x[:, None].expand(-1, 3, -1)):
        many_a, many_b = grouped(shared)
        assert many_a.shape == (4, 3, codes)
        for group in range(3):
            torch.testing.assert_close(many_a[:, group], a)
            torch.testing.assert_close(many_b[:, group], b)
    with torch.no_grad():
        grouped.skip.weight[: 2 * codes].add_(1.0)
    changed, _ = grouped(x)
    assert not torch.allclose(changed[:, 0], a) and torch.allclose(changed[:, 1], a)


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
    assert HypernetConfig(encoder="layers").per_layer_codes
    assert HypernetConfig(encoder="text").features == 6 + 32 and HypernetConfig().features == 6
    for fields, words in (
        ({"head": "tall"}, "head must be one of bank, wide"),
        ({"head": "wide", "depth": 0}, "depth >= 1"),
        ({"head": "wide", "hidden": 5000}, r"hidden must be a whole number in 1\.\.1024"),
        ({"encoder": "stored", "head": "wide"}, "no head"),
        ({"encoder": "stored", "per_layer_codes": True}, "one code for all layers"),
        ({"text_features": 0}, r"text_features must be a whole number in 1\.\.256"),
        ({"codes": 65}, r"codes must be a whole number in 1\.\.64"),
    ):
        with pytest.raises(ValueError, match=words):
            HypernetConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="per_layer_codes must be true or false"):
        HypernetConfig(per_layer_codes=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", ["scores", "text", "layers", "both"])
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


def test_codes_for_each_layer_and_what_they_materialise() -> None:
    torch.manual_seed(0)
    network = HyperNetwork(HypernetConfig(rank=2, hidden=5, per_layer_codes=True), SITES)
    network.randomize_(torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.trunk.skip.weight.add_(0.3 * torch.randn_like(network.trunk.skip.weight))  # type: ignore[union-attr]
        people = [Personality("E+4"), Personality("N-2")]
        a, b = network.codes(people)
        assert a.shape == b.shape == (2, 8, 6)
        groups = network.groups
        assert groups is not None
        for row, person in enumerate(people):
            for name, (A, B) in network.materialise(person).items():
                one_a, one_b = network.bank.materialise(a[row, groups[name]], b[row, groups[name]])[name]
                torch.testing.assert_close(A, one_a)
                torch.testing.assert_close(B, one_b)
