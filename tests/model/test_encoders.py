"""Hypernetworks that read scores or text, with a bank or a wide head: what holds for all of them on a model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import Description, Personality, PersonalityModel
from dpg_fast.hypernet import HyperNetwork, encoders
from dpg_fast.model.cost import hypernet_cost, time_to_generate
from dpg_fast.model.wide import WideTable
from tests.model.test_wrapper import greedy, random_table
from tests.model.tiny import prompts, tiny_model
from tests.model.variants import SMALL, VARIANTS, personality_model

PEOPLE = [Personality("E+4"), None, Personality("E-4 N+3"), Personality("O5C-5")]
TEXTS = [Description("a shy librarian who loves old maps"), Description("a loud salesman", Personality("E+5"))]


@pytest.fixture
def base() -> Any:
    return tiny_model("llama", vocab_size=258)


@pytest.mark.parametrize("kind", VARIANTS)
def test_it_starts_as_the_base_model(kind: str, base: Any, byte_tokenizer: Any) -> None:
    ids = prompts(4, 7)
    with torch.no_grad():
        bare = base(ids).logits
        model = personality_model(base, byte_tokenizer, VARIANTS[kind], std=0)
        assert torch.allclose(model(ids, personality=PEOPLE).logits, bare, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(ids).logits, bare)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("kind", VARIANTS)
def test_rows_are_independent_and_none_is_the_base(kind: str, family: str, byte_tokenizer: Any) -> None:
    base = tiny_model(family, vocab_size=258)
    ids = prompts(4, 9)
    expected = greedy(base, ids)
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    together = greedy(model, ids, personality=PEOPLE)
    assert torch.equal(together[1], expected[1]) and not torch.equal(together[0], expected[0])
    order = [2, 0, 3, 1]
    assert torch.equal(greedy(model, ids[order], personality=[PEOPLE[i] for i in order]), together[order])
    for row, person in enumerate(PEOPLE):
        assert torch.equal(greedy(model, ids[row : row + 1], personality=person)[0], together[row])


@pytest.mark.parametrize("targets", ["all", ("q_proj", "k_proj", "gate_proj"), ("down_proj",)])
@pytest.mark.parametrize("kind", VARIANTS)
def test_materialised_weights_are_the_same_in_peft(
    kind: str, targets: Any, base: Any, byte_tokenizer: Any, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is the reference here")
    import dataclasses

    ids = prompts(2, 11)
    model = personality_model(base, byte_tokenizer, dataclasses.replace(VARIANTS[kind], targets=targets))
    items: list[Any] = [TEXTS[0] if kind in ("text", "wide text") else PEOPLE[0], PEOPLE[2]]
    network: Any = model.hypernet
    with torch.no_grad():
        found = model(ids, personality=items).logits
        bare = model(ids).logits
        for row, item in enumerate(items):
            network.to_peft(item, tmp_path / str(row), base_model="base")
        model.unload()
        for row in range(2):
            rival = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / str(row))).eval()
            expected = rival(ids[row : row + 1]).logits[0]
            change = (expected - bare[row]).norm()
            assert change > 1e-3 * bare[row].norm()
            assert (found[row] - expected).norm() < 1e-5 * expected.norm() + 2e-5 * change


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", VARIANTS)
def test_the_gradient_of_a_mixed_batch_is_the_sum_of_single_ones(
    kind: str, checkpointing: bool, base: Any, byte_tokenizer: Any
) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    assert model.hypernet is not None
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    ids = prompts(4, 9)

    def loss(rows: list[int], people: Any) -> torch.Tensor:
        logits = model(ids[rows], personality=people).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[rows, 1:].flatten(), reduction="sum")

    def gradients() -> dict[str, torch.Tensor]:
        assert model.hypernet is not None
        found = {n: p.grad.clone() for n, p in model.hypernet.named_parameters() if p.grad is not None}
        model.hypernet.zero_grad()
        return found

    # all forwards come before the backward pass, so recomputation must find each one's own weights
    mixed, single = loss([0, 1, 2, 3], PEOPLE), [loss([row], [person]) for row, person in enumerate(PEOPLE)]
    mixed.backward()
    together = gradients()
    sum(single[row] for row in (0, 2, 3)).backward()  # type: ignore[union-attr]
    apart = gradients()
    assert set(together) == {name for name, _ in model.hypernet.named_parameters()}
    assert any(name.startswith("trunk.") and grad.abs().max() > 0 for name, grad in together.items())
    for name, grad in together.items():
        assert (grad - apart[name]).norm() <= 1e-4 * max(float(apart[name].norm()), 1e-3), name


@pytest.mark.parametrize("kind", VARIANTS)
def test_save_and_load(kind: str, base: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    ids = prompts(2, 6)
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    with torch.no_grad():
        expected = model(ids, personality=PEOPLE[2]).logits
    model.save_pretrained(tmp_path / "adapter")
    again = PersonalityModel.load(model.unload(), tmp_path / "adapter", tokenizer=byte_tokenizer)
    assert isinstance(again.hypernet, HyperNetwork) and again.hypernet.config == VARIANTS[kind]
    with torch.no_grad():
        assert torch.equal(again(ids, personality=PEOPLE[2]).logits, expected)
    stored = json.loads((tmp_path / "adapter" / "dpg_config.json").read_text())["hypernet"]["config"]
    assert stored["encoder"] == VARIANTS[kind].encoder and stored["head"] == VARIANTS[kind].head


@pytest.mark.parametrize("kind", VARIANTS)
def test_new_weights_take_effect_and_a_changed_personality_too(kind: str, base: Any, byte_tokenizer: Any) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    ids = prompts(1, 6)
    with torch.no_grad():
        first = model(ids, personality=PEOPLE[0]).logits
        alone = model(ids, personality=PEOPLE[2]).logits
        with model.speaking(PEOPLE[0], 1) as speaking:
            assert torch.equal(model.base(ids).logits, first)
            speaking.change(PEOPLE[2])
            assert torch.equal(model.base(ids).logits, alone)
            network: Any = model.hypernet
            network.bank.B(network.sites[0]).mul_(3.0)
        assert not torch.allclose(model(ids, personality=PEOPLE[0]).logits, first)


def test_a_wide_head_grows_while_others_speak_and_forgets_the_oldest(base: Any, byte_tokenizer: Any) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS["wide"])
    ids = prompts(1, 5)
    people = [Personality(E=i / 10, N=-i / 10) for i in range(1, 21)]
    with torch.no_grad():
        alone = [model(ids, personality=person).logits[0] for person in people]
        with model.speaking(people[0], 1):
            many = model(ids.repeat(20, 1), personality=people).logits
            assert torch.allclose(model.base(ids).logits[0], alone[0], atol=1e-5)
        assert torch.allclose(many, torch.stack(alone), atol=1e-5)
    table = model._runtime.supply.current
    assert isinstance(table, WideTable) and table.capacity == 32
    assert model.hypernet is not None and model.hypernet.bank.num_codes == 9


def test_steering_takes_the_scores_beside_a_description(base: Any, byte_tokenizer: Any) -> None:
    table = random_table(3, 72)
    ids = prompts(1, 6)
    model = PersonalityModel.from_model(base, steering=table)
    with torch.no_grad():
        expected = model(ids, personality="E+5").logits
        assert torch.equal(model(ids, personality=TEXTS[1]).logits, expected)
    with pytest.raises(ValueError, match=r"no scores to steer by.*personality="):
        model(ids, personality=TEXTS[0])


@pytest.mark.parametrize("kind", ["scores", "both", "wide"])
def test_a_description_without_scores_is_refused_where_scores_are_read(
    kind: str, base: Any, byte_tokenizer: Any
) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    ids = prompts(1, 6)
    with pytest.raises(ValueError, match=r"trait scores.*has no scores.*encoder=\"text\""):
        model(ids, personality=[TEXTS[0]])
    with torch.no_grad():
        said = model(ids, personality=TEXTS[1]).logits
        assert torch.equal(said, model(ids, personality=TEXTS[1].personality).logits) == (kind != "both")


def test_texts_are_read_once_alone_and_without_an_adapter(base: Any, byte_tokenizer: Any) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS["text"])
    network: Any = model.hypernet
    read: list[str] = []
    reader = network.reader

    def counted(text: str) -> Any:
        read.append(text)
        return reader(text)

    network.reader = counted
    ids = prompts(2, 6)
    with torch.no_grad():
        together = model(ids, personality=TEXTS).logits
        model.generate(input_ids=ids, personality=TEXTS, max_new_tokens=5, do_sample=False)
        assert read == [item.text for item in TEXTS]
        network.bank.B(network.sites[0]).mul_(2.0)  # an adapter at work does not change what is read
        with model.speaking(PEOPLE[0], 1):
            again = reader(TEXTS[0].text)
        alone = reader(TEXTS[0].text)
        assert torch.equal(again, alone)
        network.bank.B(network.sites[0]).mul_(0.5)
        other = model(ids, personality=[TEXTS[0], None]).logits
    assert torch.allclose(other[0], together[0], atol=1e-6)
    bare = model.unload()
    with torch.no_grad():
        states = bare(byte_tokenizer(TEXTS[0].text, return_tensors="pt")["input_ids"], output_hidden_states=True)
    assert torch.allclose(states.hidden_states[3 * 5 // 6].mean((0, 1)), alone, atol=1e-6)


def test_chat_takes_descriptions_and_brings_the_tokenizer(
    base: Any, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "REFERENCE_TEXTS", 8)
    model = PersonalityModel.from_model(base, hypernet=VARIANTS["text"])
    with pytest.raises(ValueError, match=r"give tokenizer="):
        model(prompts(1, 4), personality=TEXTS[0])
    answers = model.chat("How?", personality=[TEXTS[0], None, "E+4"], tokenizer=byte_tokenizer, max_new_tokens=3)
    assert len(answers) == 3


def test_without_a_model_nothing_can_be_read(base: Any, byte_tokenizer: Any) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS["text"])
    network: Any = model.hypernet
    known = network.codes([PEOPLE[2]])
    model.unload()
    assert all(torch.equal(a, b) for a, b in zip(network.codes([PEOPLE[2]]), known, strict=True))
    with pytest.raises(RuntimeError, match="put it on one first"):
        network.codes([Description("somebody new")])


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_cost_is_counted(kind: str, base: Any, byte_tokenizer: Any) -> None:
    model = personality_model(base, byte_tokenizer, VARIANTS[kind])
    assert model.hypernet is not None
    cost = hypernet_cost(model.hypernet, personalities=9, dtype=torch.float32)
    values = [*model.hypernet.parameters(), *model.hypernet.buffers()]
    assert cost.trunk + cost.bank + cost.fixed == sum(value.numel() for value in values)
    entries = 16 if "wide" in kind else SMALL["codes"]
    assert cost.served_bytes * model.hypernet.config.codes == 4 * cost.bank * entries
    assert cost.flops_per_token * 2 == cost.served_bytes
    assert 0 < time_to_generate(model, 1) < 60
    assert "MFLOP" in str(cost)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "both", "wide"])
def test_smollm2(kind: str, smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is the reference here")
    base, tokenizer = copy.deepcopy(smollm2[0]), smollm2[1]
    ids = torch.randint(100, 40_000, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = base(ids).logits
        model = personality_model(base, tokenizer, VARIANTS[kind], std=0.02, reference=32)
        found = model(ids, personality=[PEOPLE[0], None, PEOPLE[2]]).logits
        assert torch.allclose(found[1], bare[1], atol=1e-3, rtol=1e-4)
        network: Any = model.hypernet
        network.to_peft(PEOPLE[2], tmp_path / "lora", base_model="base")
        rival = peft.PeftModel.from_pretrained(model.unload(), str(tmp_path / "lora")).eval()
        expected = rival(ids[2:]).logits[0]
    change = (expected - bare[2]).norm()
    assert change > 1e-3 * bare[2].norm()
    assert (found[2] - expected).norm() < 1e-5 * expected.norm() + 1e-4 * change
