"""Sites, target selection and the configuration."""

from __future__ import annotations

import json
import random

import pytest

from dpg_fast.hypernet import HypernetConfig, Site, select_sites, sort_sites

SITES = [
    Site(f"model.layers.{layer}.{name}", 6, 10)
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
]


def test_sites_have_one_order() -> None:
    shuffled = SITES.copy()
    random.Random(3).shuffle(shuffled)
    names = [site.name for site in sort_sites(shuffled)]
    assert names == [site.name for site in sort_sites(SITES)]
    assert names[0] == "model.layers.0.mlp.up_proj"
    assert names.index("model.layers.2.mlp.up_proj") < names.index("model.layers.10.mlp.up_proj")
    with pytest.raises(ValueError, match=r"twice"):
        sort_sites([SITES[0], SITES[0]])


def test_select_sites() -> None:
    assert len(select_sites(SITES, "all")) == 36
    assert {site.kind for site in select_sites(SITES, ("q_proj", "mlp.up_proj"))} == {"q_proj", "up_proj"}
    assert [site.name for site in select_sites(SITES, ("model.layers.3.self_attn.q_proj",))] == [
        "model.layers.3.self_attn.q_proj"
    ]
    with pytest.raises(ValueError, match=r"gate_proj.*available targets: up_proj, o_proj, q_proj"):
        select_sites(SITES, ("q_proj", "gate_proj"))
    with pytest.raises(ValueError, match=r"'proj'"):
        select_sites(SITES, ("proj",))  # whole components only
    with pytest.raises(ValueError, match=r"no linear layer"):
        select_sites([], "all")


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", "a/b"])
def test_site_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"module path"):
        Site(name, 3, 3)


def test_site_sizes() -> None:
    with pytest.raises(ValueError, match=r"in_features"):
        Site("a", 0, 3)
    with pytest.raises(TypeError, match=r"out_features"):
        Site("a", 3, 3.0)  # type: ignore[arg-type]


def test_config_round_trip() -> None:
    config = HypernetConfig(rank=5, codes=3, alpha=7, targets=("q_proj", "up_proj"))
    assert HypernetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert HypernetConfig.from_dict({}) == HypernetConfig()
    assert config.scale == 7 / 5
    assert HypernetConfig(targets=["q_proj"]).targets == ("q_proj",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": 0}, "rank.*1..512.*0"),
        ({"rank": 513}, "rank.*1..512.*513"),
        ({"codes": 0}, "codes.*1..64"),
        ({"codes": 65}, "codes.*1..64"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"hidden": 0}, "hidden"),
        ({"depth": -1}, "depth"),
        ({"depth": 0, "codes": 7}, "linear in the scores"),
        ({"encoder": "voice"}, "scores, text, both, stored"),
        ({"targets": "q_proj"}, 'targets must be "all".*q_proj'),
        ({"targets": ()}, "targets is empty"),
        ({"targets": ("q", "q")}, "repeats"),
        ({"width": 3}, "unknown field.*width.*accepted: rank"),
    ],
)
def test_config_values(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HypernetConfig.from_dict(fields)


@pytest.mark.parametrize("fields", [{"rank": 8.0}, {"codes": True}, {"alpha": "16"}])
def test_config_types(fields: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        HypernetConfig.from_dict(fields)


def test_first_layer_leaves_earlier_ones_alone() -> None:
    sites = [Site(f"model.layers.{layer}.mlp.up_proj", 4, 8) for layer in range(12)]
    kept = select_sites(sites, "all", first_layer=10)
    assert [site.layer for site in kept] == [10, 11]
    assert Site("lm_head", 4, 8).layer is None
    with pytest.raises(ValueError, match="last layer is 11"):
        select_sites(sites, "all", first_layer=12)
    with pytest.raises(ValueError, match="first_layer"):
        HypernetConfig(first_layer=-1)
    assert HypernetConfig.from_dict({"rank": 2}).first_layer == 0  # as written before there was such a field
