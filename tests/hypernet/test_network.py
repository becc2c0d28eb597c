"""Bank, trunk and the two adapter networks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpg_fast.hypernet import (
    HypernetConfig,
    HyperNetwork,
    LoraBank,
    Site,
    StoredAdapters,
    from_config,
)
from dpg_fast.personality.scores import Character, Personality

SITES = [
    Site(f"model.layers.{layer}.{name}", d_in, d_out)
    for layer in range(3)
    for name, d_in, d_out in (("self_attn.q_proj", 13, 22), ("mlp.down_proj", 31, 13))
]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield


def grid(n: int, seed: int = 0) -> Tensor:
    return torch.randint(-5, 6, (n, 5), generator=torch.Generator().manual_seed(seed)).float()


def stored(names: tuple[str, ...] = ("ann", "bob", "cy"), rank: int = 4) -> StoredAdapters:
    config = HypernetConfig(rank=rank, codes=len(names), alpha=float(rank), encoder="stored")
    network = StoredAdapters(config, SITES, names)
    network.randomize_(torch.Generator().manual_seed(5))
    return network


# --- bank ---


def test_bank_shapes_keys_and_order() -> None:
    bank = LoraBank(SITES, rank=4, codes=3)
    for site in SITES:
        assert bank.A(site).shape == (3, 4, site.in_features) and bank.A(site.name) is bank.A(site)
        assert bank.B(site).shape == (3, 4, site.out_features)
        assert bank.A(site).dtype == bank.B(site).dtype == torch.float32
    keys = set(bank.state_dict())
    assert "lora_A.model/layers/0/self_attn/q_proj" in keys and "lora_B.model/layers/2/mlp/down_proj" in keys
    assert len(keys) == 2 * len(SITES)
    with pytest.raises(KeyError, match=r"up_proj.*6 sites.*down_proj, q_proj"):
        bank.A("model.layers.0.mlp.up_proj")
    with pytest.raises(ValueError, match=r"at least one site"):
        LoraBank([], 4, 3)


def test_bank_materialise_is_the_definition() -> None:
    bank = LoraBank(SITES, rank=4, codes=3)
    bank.randomize_(std=1.0)
    a, b = torch.randn(3), torch.randn(3)
    for name, (big_a, big_b) in bank.materialise(a, b).items():
        expected_a = sum(a[k].double() * bank.A(name)[k].double() for k in range(3))
        expected_b = sum(b[k].double() * bank.B(name)[k].double().T for k in range(3))
        assert isinstance(expected_a, Tensor) and isinstance(expected_b, Tensor)
        torch.testing.assert_close(big_a.double(), expected_a, rtol=0, atol=4e-7 * 3)
        torch.testing.assert_close(big_b.double(), expected_b, rtol=0, atol=4e-7 * 8)
        assert big_a.is_contiguous() and big_b.is_contiguous()
    with pytest.raises(ValueError, match=r"code_b must have shape \[3\]"):
        bank.materialise(a, b[:2])


def test_randomize_is_seeded_and_fills_only_b() -> None:
    first, second = LoraBank(SITES, 4, 3), LoraBank(SITES[::-1], 4, 3)
    before = {key: value.clone() for key, value in first.lora_A.items()}
    first.randomize_(torch.Generator().manual_seed(2))
    second.randomize_(torch.Generator().manual_seed(2))
    for site in SITES:
        assert torch.equal(first.B(site), second.B(site)) and first.B(site).abs().max() > 0
    assert all(torch.equal(before[key], value) for key, value in first.lora_A.items())


# --- trunk ---


@pytest.mark.parametrize("codes", [6, 9])
def test_first_codes_are_constant_and_traits(codes: int) -> None:
    network = HyperNetwork(HypernetConfig(codes=codes), SITES)
    scores = grid(7)
    for code in network.codes(scores):
        assert code.shape == (7, codes) and code.dtype == torch.float32 and code.is_contiguous()
        assert torch.equal(code[:, 0], torch.ones(7))
        torch.testing.assert_close(code[:, 1:6], scores / 5, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("codes", "depth"), [(1, 2), (2, 1), (4, 0), (6, 0), (6, 2), (17, 3)])
def test_initial_code_power(codes: int, depth: int) -> None:
    """sum_k a_k**2 has the mean that the initialisation of A counts on."""
    network = HyperNetwork(HypernetConfig(codes=codes, depth=depth), SITES)
    a, b = network.codes(grid(20000))
    for code in (a, b):
        measured = code.square().sum(dim=1).mean().item()
        assert measured == pytest.approx(network.bank.code_power, rel=0.08)
        if codes > 1:
            assert code[:, 1:].std(dim=0).min() > 0.02  # no code is dead


def test_variance_of_generated_a_is_that_of_peft() -> None:
    site = Site("proj", 257, 3)
    network = HyperNetwork(HypernetConfig(codes=9, rank=16), [site])
    a, _ = network.codes(grid(400))
    generated = torch.einsum("nk,krd->nrd", a, network.bank.A(site))
    # lora_A of PEFT: kaiming_uniform(a=sqrt(5)), which is uniform in +-1/sqrt(d_in)
    assert generated.square().mean().item() == pytest.approx(1 / (3 * 257), rel=0.1)


def test_codes_are_a_function_of_each_row_alone() -> None:
    network = HyperNetwork(HypernetConfig(codes=9), SITES)
    people = [Personality.from_scores(row) for row in grid(5).tolist()]
    a, b = network.codes(people)
    tensor_a, tensor_b = network.scores_to_codes(grid(5))
    assert torch.equal(a, tensor_a) and torch.equal(b, tensor_b)
    for row, person in enumerate(people):
        one_a, one_b = network.codes([person])
        torch.testing.assert_close(one_a[0], a[row], rtol=0, atol=1e-6)
        torch.testing.assert_close(one_b[0], b[row], rtol=0, atol=1e-6)
    empty_a, empty_b = network.codes([])
    assert empty_a.shape == empty_b.shape == (0, 9)


def test_codes_run_outside_autocast() -> None:
    network = HyperNetwork(HypernetConfig(codes=9), SITES)
    expected = network.scores_to_codes(grid(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.scores_to_codes(grid(5))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_scores_of_other_dtypes_and_wrong_shapes() -> None:
    network = HyperNetwork(HypernetConfig(codes=6), SITES)
    assert torch.equal(network.scores_to_codes(grid(3).long())[0], network.scores_to_codes(grid(3))[0])
    for shape in ((5,), (2, 4), (1, 2, 5)):
        with pytest.raises(ValueError, match=r"\[N, 5\]"):
            network.scores_to_codes(torch.zeros(shape))


# --- training ---


def loss_of(network: HyperNetwork) -> Tensor:
    a, b = network.scores_to_codes(grid(4, seed=1))
    total = torch.zeros(())
    for site in network.sites:
        x = torch.randn(4, site.in_features, generator=torch.Generator().manual_seed(7))
        u = torch.einsum("nk,krd,nd->nr", a, network.bank.A(site), x)
        total = total + (torch.einsum("nk,kro,nr->no", b, network.bank.B(site), u) - 1).square().mean()
    return total


@pytest.mark.parametrize(("codes", "depth"), [(3, 2), (6, 2), (6, 0), (11, 1)])
def test_zero_start_and_gradients(codes: int, depth: int) -> None:
    network = HyperNetwork(HypernetConfig(codes=codes, depth=depth), SITES)
    for person in (Personality("E+4 N-2"), Personality.NEUTRAL):
        for a, b in network.materialise(person).values():
            assert torch.equal(b @ a, torch.zeros(b.shape[0], a.shape[1]))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of(network)
        loss.backward()
        return loss.item()

    first = step()
    for site in network.sites:  # B learns at once, in every entry; nothing else can yet
        grad = network.bank.B(site).grad
        assert grad is not None and bool((grad.flatten(1).abs().amax(dim=1) > 0).all())
        a_grad = network.bank.A(site).grad
        assert a_grad is not None and not a_grad.any()
    assert all(p.grad is None or not p.grad.any() for p in network.trunk.parameters())
    optimiser.step()
    second = step()
    reached = [network.trunk.skip.weight] + ([network.trunk.head.weight] if network.trunk.head else [])
    for weight in reached:
        assert weight.grad is not None and weight.grad.any()
    for site in network.sites:
        a_grad = network.bank.A(site).grad
        assert a_grad is not None and a_grad.any()
    optimiser.step()
    third = step()  # by now every parameter learns
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert third < second < first


# --- construction, configuration, state ---


def test_sites_and_initial_weights_do_not_depend_on_the_order_given() -> None:
    shuffled = SITES.copy()
    random.Random(1).shuffle(shuffled)
    torch.manual_seed(4)
    first = HyperNetwork(HypernetConfig(), SITES)
    torch.manual_seed(4)
    second = HyperNetwork(HypernetConfig(), shuffled)
    assert first.sites == second.sites
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


def test_targets_select_and_errors_name_the_choices() -> None:
    network = HyperNetwork(HypernetConfig(targets=("q_proj",)), SITES)
    assert {site.kind for site in network.sites} == {"q_proj"} and len(network.sites) == 3
    with pytest.raises(ValueError, match=r"up_proj.*available targets: down_proj, q_proj"):
        HyperNetwork(HypernetConfig(targets=("up_proj",)), SITES)
    with pytest.raises(ValueError, match=r"no sites"):
        HyperNetwork(HypernetConfig(), [])
    with pytest.raises(ValueError, match=r"scores"):
        HyperNetwork(HypernetConfig(encoder="stored"), SITES)


@pytest.mark.parametrize("kind", ["scores", "stored"])
def test_config_and_state_round_trip(kind: str, tmp_path: object) -> None:
    item: Personality | Character
    network: HyperNetwork | StoredAdapters
    if kind == "scores":
        network, item = HyperNetwork(HypernetConfig(codes=9, targets=("q_proj",)), SITES), Personality("E+4")
        network.randomize_()
    else:
        network, item = stored(), Character({"ann": 0.5, "cy": -1})
    save_file(network.state_dict(), f"{tmp_path}/w.safetensors")
    again = from_config(json.loads(json.dumps(network.to_config())), SITES)
    assert type(again) is type(network) and again.config == network.config and again.sites == network.sites
    again.load_state_dict(load_file(f"{tmp_path}/w.safetensors"))
    expected = network.materialise(item)
    for name, (a, b) in again.materialise(item).items():
        assert torch.equal(a, expected[name][0]) and torch.equal(b, expected[name][1])


def test_from_config_checks_the_base_model() -> None:
    values = HyperNetwork(HypernetConfig(), SITES).to_config()
    assert from_config(values).sites == from_config(values, SITES).sites
    with pytest.raises(ValueError, match=r"no linear layer 'model.layers.0"):
        from_config(values, SITES[2:])
    other = [Site(SITES[0].name, 13, 99), *SITES[1:]]
    with pytest.raises(ValueError, match=r"13 -> 99.*13 -> 22"):
        from_config(values, other)
    with pytest.raises(ValueError, match=r"missing"):
        from_config({"config": {}})
    with pytest.raises(ValueError, match=r"unknown"):
        from_config({**values, "extra": 1})
    with pytest.raises(ValueError, match=r"names"):
        from_config({k: v for k, v in stored().to_config().items() if k != "names"})


# --- kinds ---


def test_wrong_kinds() -> None:
    network = HyperNetwork(HypernetConfig(), SITES)
    with pytest.raises(TypeError, match=r"must be a Personality, not Character"):
        network.codes([Personality("E+1"), Character("ann")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"None is the base model"):
        network.codes([None])  # type: ignore[list-item]
    adapters = stored()
    with pytest.raises(TypeError, match=r"must be a Character, not Personality"):
        adapters.codes([Personality("E+1")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"Character"):
        adapters.codes([None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"not by trait scores"):
        adapters.scores_to_codes(grid(2))
    with pytest.raises(ValueError, match=r"'dora'; available: ann, bob, cy"):
        adapters.codes([Character("dora")])


def test_stored_codes() -> None:
    adapters = stored()
    a, b = adapters.codes([Character("bob"), Character({"ann": 0.25, "cy": -4})])
    assert torch.equal(a, torch.tensor([[0, 1, 0], [0.5, 0, 2.0]]))
    assert torch.equal(b, torch.tensor([[0, 1, 0], [0.5, 0, -2.0]]))
    assert a.dtype == b.dtype == torch.float32
    for name, (big_a, big_b) in adapters.materialise(Character("bob")).items():
        assert torch.equal(big_a, adapters.bank.A(name)[1]) and torch.equal(big_b, adapters.bank.B(name)[1].T)


def test_stored_construction_errors() -> None:
    config = HypernetConfig(rank=2, codes=2, encoder="stored")
    for names, words in ((("a", "a"), "repeat"), (("a",), "1 names for 2"), (("a", ""), "empty")):
        with pytest.raises(ValueError, match=words):
            StoredAdapters(config, SITES, names)
    with pytest.raises(ValueError, match=r"stored"):
        StoredAdapters(HypernetConfig(codes=1), SITES, ("a",))


@pytest.mark.parametrize("sizes", [{}, {"depth": 0}, {"codes": 9}, {"head": "wide"}], ids=str)
def test_neutral_can_be_the_base_model(sizes: dict[str, Any]) -> None:
    config = HypernetConfig(rank=4, hidden=16, **{"neutral": "base"} | sizes)
    network = HyperNetwork(config, SITES)
    network.randomize_()
    for parameter in network.trunk.parameters():
        torch.nn.init.normal_(parameter)
    a, b = network.codes([Personality(), Personality("E+0.0001"), Personality("E+5")])
    assert not a[0].any() and not b[0].any()
    assert 0 < b[1].abs().max() < 1e-3 < b[2].abs().max()
    for _, lora_b in network.materialise(Personality()).values():
        assert not lora_b.any()
    again = from_config(json.loads(json.dumps(network.to_config())))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.codes([Personality("E+5 N-1")])[1], network.codes([Personality("E+5 N-1")])[1])
    learnt = HyperNetwork(HypernetConfig(rank=4, hidden=16, **sizes), SITES)
    learnt.load_state_dict(network.state_dict())
    assert learnt.codes([Personality()])[1].any()


@pytest.mark.parametrize("encoder", ["text", "both", "stored"])
def test_a_text_has_no_zero(encoder: Any) -> None:
    with pytest.raises(ValueError, match='neutral="base" needs encoder="scores"'):
        HypernetConfig(encoder=encoder, neutral="base")
    with pytest.raises(ValueError, match="neutral must be one of learnt, base, not 'zero'"):
        HypernetConfig(neutral="zero")  # type: ignore[arg-type]
