"""The wrapped model against the bare one: who is changed, who is not, in every way of calling it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from dpg_fast import (
    Calibration,
    Character,
    HypernetConfig,
    HyperNetwork,
    Personality,
    PersonalityModel,
    Pole,
    SteeringTable,
)
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.cli.demo import adapter_directory, hypernet_directory
from dpg_fast.compat.transformers import cache_argument, enable_checkpointing
from dpg_fast.hypernet import from_peft
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.artifact import packaged
from dpg_fast.neurons import PoleNeurons
from tests.model.tiny import FAMILIES, prompts, tiny_model
from tests.support.hub import local_hub

PEOPLE = [Personality("E+4"), None, Personality("E-4 N+3"), Personality("O5C-5")]


def random_table(layers: int, intermediate: int, seed: int = 0, strength: float = 0.8) -> SteeringTable:
    """Every pole, with about a third of the neurons of every layer, disjoint within a trait."""
    generator = torch.Generator().manual_seed(seed)
    neurons: dict[Pole, PoleNeurons] = {}
    for letter in "OCEAN":
        which = torch.randint(0, 3, (layers, intermediate), generator=generator)
        for sign, kind in (("+", 1), ("-", 2)):
            layer, neuron = (which == kind).nonzero(as_tuple=True)
            n = layer.numel()
            neurons[Pole.parse(letter + sign)] = PoleNeurons(
                layer.to(torch.int32),
                neuron.to(torch.int32),
                torch.rand(n, generator=generator) * 0.4 + 0.1,
                torch.rand(n, generator=generator) * 0.5 + 0.4,
                torch.rand(n, generator=generator) * strength,
            )
    return SteeringTable(neurons, layers, intermediate)


def personality_model(
    base: nn.Module, *, lora: bool = True, steer: bool = True, seed: int = 0, rank: int = 3
) -> PersonalityModel:
    architecture = find_architecture(base)
    hypernet = None
    if lora:
        torch.manual_seed(seed)
        hypernet = HyperNetwork(HypernetConfig(rank=rank, codes=6, alpha=2.0 * rank), architecture.sites)
        hypernet.randomize_(torch.Generator().manual_seed(seed), std=0.1)
    table = random_table(architecture.num_layers, architecture.intermediate, seed) if steer else None
    return PersonalityModel.from_model(base, hypernet=hypernet, steering=table)


def greedy(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    kwargs.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(input_ids=ids, do_sample=False, max_new_tokens=12, min_new_tokens=12, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_none_is_the_bare_model_and_others_are_not(family: str) -> None:
    ids = prompts(4, 7)
    bare = tiny_model(family)
    expected = greedy(bare, ids)
    with torch.no_grad():
        logits = bare(ids).logits
    model = personality_model(tiny_model(family))
    assert torch.equal(greedy(model, ids), expected)
    assert torch.equal(greedy(model, ids, personality=[None] * 4), expected)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)
        changed = model(ids, personality=PEOPLE).logits
    assert torch.allclose(changed[1], logits[1], atol=1e-5, rtol=1e-5)
    for row in (0, 2, 3):
        assert (changed[row] - logits[row]).norm() > 0.05 * logits[row].norm()
    mixed = greedy(model, ids, personality=PEOPLE)
    assert torch.equal(mixed[1], expected[1])
    assert not torch.equal(mixed[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_neutral_row_is_the_bare_model_if_the_network_says_so(dtype: torch.dtype) -> None:
    base = tiny_model("llama", dtype=dtype)
    config = HypernetConfig(rank=3, neutral="base")
    network = HyperNetwork(config, find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(0), std=0.1)
    model = PersonalityModel.from_model(base, hypernet=network, steering=random_table(3, 72))
    ids = prompts(3, 7)
    with torch.no_grad():
        logits = model(torch.cat([ids[:1]] * 3), personality=[None, Personality(), Personality("E+5")]).logits
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
@pytest.mark.parametrize("parts", ["lora", "steer", "both"])
def test_a_row_does_not_depend_on_its_neighbours(family: str, parts: str) -> None:
    model = personality_model(tiny_model(family), lora=parts != "steer", steer=parts != "lora")
    ids = prompts(4, 9)
    together = greedy(model, ids, personality=PEOPLE)
    order = [2, 0, 3, 1]
    shuffled = greedy(model, ids[order], personality=[PEOPLE[i] for i in order])
    assert torch.equal(shuffled, together[order])
    for row, person in enumerate(PEOPLE):
        assert torch.equal(greedy(model, ids[row : row + 1], personality=person)[0], together[row])


@pytest.mark.parametrize("parts", ["lora", "steer", "both"])
def test_cache_beams_static_cache_and_no_cache_agree(parts: str) -> None:
    model = personality_model(tiny_model("llama"), lora=parts != "steer", steer=parts != "lora")
    ids = prompts(4, 9)
    expected = greedy(model, ids, personality=PEOPLE)
    assert torch.equal(greedy(model, ids, personality=PEOPLE, use_cache=False), expected)
    assert torch.equal(greedy(model, ids, personality=PEOPLE, cache_implementation="static"), expected)
    beams = greedy(model, ids, personality=PEOPLE, num_beams=3)
    for row, person in enumerate(PEOPLE):
        alone = greedy(model, ids[row : row + 1], personality=person, num_beams=3)
        assert torch.equal(alone[0], beams[row])


def test_num_return_sequences_and_sampling_repeat_each_row() -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(2, 6)
    kwargs: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2}
    output = greedy(model, ids, personality=[PEOPLE[0], None], **kwargs)
    assert output.shape[0] == 4
    assert torch.equal(output[2:], greedy(model, ids[1:], personality=None, **kwargs)[:, : output.shape[1]])

    def sample(people: Any) -> torch.Tensor:
        torch.manual_seed(5)
        mask = torch.ones_like(ids)
        return model.generate(
            ids, attention_mask=mask, do_sample=True, max_new_tokens=8, num_return_sequences=3, personality=people
        )

    assert torch.equal(sample(PEOPLE[:2]), sample(PEOPLE[:2]))
    assert not torch.equal(sample(PEOPLE[:2]), sample([None, None]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_a_row(side: str) -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(2, 9)
    short = ids[1:, :5]
    padded = ids.clone()
    mask = torch.ones_like(ids)
    where = slice(0, 4) if side == "left" else slice(5, 9)
    padded[1, where], mask[1, where] = 0, 0
    padded[1, mask[1].bool()] = short[0]
    people = [PEOPLE[0], PEOPLE[2]]
    with torch.no_grad():
        position = (mask.cumsum(1) - 1).clamp_min(0)
        batch = model(padded, attention_mask=mask, position_ids=position, personality=people).logits[1]
        alone = model(short, personality=people[1]).logits[0]
    assert torch.allclose(batch[mask[1].bool()], alone, atol=2e-5, rtol=1e-4)
    if side == "left":
        generated = greedy(model, padded, attention_mask=mask, personality=people)
        assert torch.equal(generated[1, 9:], greedy(model, short, personality=people[1])[0, 5:])


def test_steering_starts_at_the_first_generated_token() -> None:
    model = personality_model(tiny_model("llama"), lora=False)
    ids = prompts(2, 8)
    person = Personality("E+5 A-5")
    out = greedy(model, ids, personality=person, output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():
        bare = model(ids).logits
        full = model(out.sequences[:, :-1], personality=person, steer_from=8).logits
    assert torch.allclose(out.logits[0], bare[:, -1], atol=1e-5)  # the prompt is not steered
    assert torch.allclose(full[:, :7], bare[:, :7], atol=1e-5)
    assert torch.allclose(torch.stack(out.logits[1:], 1), full[:, 8:], atol=1e-4)
    everything = greedy(
        model, ids, personality=person, steer_tokens="all", output_logits=True, return_dict_in_generate=True
    )
    assert not torch.allclose(everything.logits[0], bare[:, -1], atol=1e-3)


def test_a_prompt_of_one_token_is_not_decoding() -> None:
    model = personality_model(tiny_model("llama"), lora=False)
    ids = prompts(1, 1)
    out = greedy(model, ids, personality=Personality("E+5"), output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():
        assert torch.allclose(out.logits[0], model(ids).logits[:, -1], atol=1e-6)
        assert not torch.allclose(out.logits[1], model(out.sequences[:, :2]).logits[:, -1], atol=1e-3)


def test_continuing_from_a_cache_keeps_the_personality() -> None:
    model = personality_model(tiny_model("llama"))
    ids, person = prompts(2, 8), Personality("N-5 O+2")
    with torch.no_grad():
        cached = cache_argument(model, DynamicCache(config=model.config))
        model(ids[:, :5], personality=person, steer_from=8, **cached)
        split = model(ids[:, 5:], personality=person, steer_from=8, **cached).logits
        whole = model(ids, personality=person, steer_from=8).logits
    assert torch.allclose(split, whole[:, 5:], atol=1e-4)


def test_changing_personalities_moves_no_weights() -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(4, 5)
    greedy(model, ids, personality=PEOPLE)

    def layout() -> list[tuple[int, int]]:
        adapters = [*model._runtime._surgery.linear_adapters.values(), *model._runtime._surgery.mlp_adapters.values()]
        tensors = [
            t
            for a in adapters
            for t in (getattr(a, n, None) for n in ("A", "B", "B_gate", "B_up", "add"))
            if t is not None
        ]
        tensors += [*model.parameters(), *model._runtime.supply.current.values[:3]]
        return [(id(t), t.data_ptr()) for t in tensors]

    before = layout()
    for level in range(1, 5):
        greedy(model, ids, personality=[Personality(E=level), Personality(N=-level), None, Personality(O=level)])
    assert layout() == before


def test_more_personalities_than_slots() -> None:
    base = tiny_model("llama")
    model = personality_model(base)
    people = [Personality(E=i / 40, N=-i / 40) for i in range(1, 131)]
    ids = prompts(1, 4).repeat(130, 1)
    with torch.no_grad():
        logits = model(ids, personality=people).logits
        for row in (0, 64, 129):
            assert torch.allclose(logits[row], model(ids[:1], personality=people[row]).logits[0], atol=1e-5)
    assert model._runtime.supply.current.capacity >= 130


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_unload_gives_back_the_untouched_model(family: str) -> None:
    base = tiny_model(family)
    classes = {name: type(module) for name, module in base.named_modules()}
    state = {name: value.clone() for name, value in base.state_dict().items()}
    ids = prompts(2, 5)
    expected = greedy(base, ids)
    model = personality_model(base)
    assert list(base.state_dict()) == list(state)
    assert not any(p.requires_grad for p in base.parameters())
    greedy(model, ids, personality="E+4")
    restored = model.unload()
    assert restored is base
    assert {name: type(module) for name, module in base.named_modules()} == classes
    assert "forward" not in base.__dict__
    assert all(p.requires_grad for p in base.parameters())
    assert all(torch.equal(value, state[name]) for name, value in base.state_dict().items())
    assert torch.equal(greedy(base, ids), expected)
    with pytest.raises(RuntimeError, match="unloaded"):
        model.generate(ids, personality="E+4")
    personality_model(base)  # can be wrapped again


def test_threads_do_not_mix_personalities() -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(1, 6)
    people = [Personality("E+5"), Personality("E-5"), None, Personality("N+5")]
    expected = [greedy(model, ids, personality=p) for p in people]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(4)}

    def work(index: int) -> None:
        for _ in range(3):
            found[index].append(greedy(model, ids, personality=people[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, outputs in found.items():
        assert len(outputs) == 3
        assert all(torch.equal(output, expected[index]) for output in outputs)


def test_streaming() -> None:
    class Collect(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    model = personality_model(tiny_model("llama"))
    streamer, ids = Collect(), prompts(1, 5)
    output = greedy(model, ids, personality="N+4", streamer=streamer)
    assert streamer.tokens == [*output[0].tolist(), -1]


def test_training_reaches_only_the_hypernetwork() -> None:
    base = tiny_model("llama").train()
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=2))
    ids = prompts(3, 8)
    people = [Personality("E+5"), None, Personality("E-5")]
    optimizer = torch.optim.Adam(model.hypernet.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(ids, personality=people, labels=ids).loss
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    assert all(p.grad is None for p in base.parameters())
    with torch.no_grad():  # inference picks the trained weights up
        logits = model(ids, personality=people).logits
        again = model(ids, personality=torch.tensor([p.scores for p in people if p])[[0, 0, 1]]).logits
        bare = model(ids).logits
    assert not torch.allclose(logits[0], bare[0], atol=1e-2)
    assert torch.allclose(logits[1], bare[1], atol=1e-5)
    assert torch.allclose(logits[2], again[2], atol=1e-5)


def test_gradient_checkpointing_sees_the_same_personalities() -> None:
    ids = prompts(2, 6)
    people = [Personality("E+5"), Personality("N+5")]

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = personality_model(tiny_model("llama").train(), seed=3)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, personality=people, labels=ids).loss.backward()
        return [p.grad for p in model.hypernet.parameters()]

    assert sum(float(plain.abs().sum()) for plain in gradients(False)) > 0.1
    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)
    model = personality_model(tiny_model("llama").train())
    enable_checkpointing(model.base, {})
    with pytest.raises(ValueError, match="checkpointing"):
        model(ids, personality=people, labels=ids)


def test_casting_keeps_master_weights() -> None:
    model = personality_model(tiny_model("llama")).to(torch.bfloat16)
    assert model.base.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in model.hypernet.parameters())
    ids = prompts(2, 5)
    with torch.no_grad():
        changed = model(ids, personality=["E+5", None]).logits
        bare = model(ids).logits
    assert changed.dtype == torch.bfloat16
    assert not torch.allclose(changed[0], bare[0], atol=0.1)
    assert torch.allclose(changed[1].float(), bare[1].float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "targets", [("q_proj",), ("gate_proj", "o_proj"), ("up_proj", "down_proj"), ("gate_proj", "up_proj")]
)
def test_partial_targets_act(targets: tuple[str, ...]) -> None:
    base = tiny_model("llama")
    network = HyperNetwork(HypernetConfig(rank=2, targets=targets), find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(1), std=0.1)
    ids = prompts(2, 5)
    with torch.no_grad():
        bare = base(ids).logits
        model = PersonalityModel.from_model(base, hypernet=network)
        changed = model(ids, personality=["E+5", None]).logits
    assert (changed[0] - bare[0]).norm() > 1e-3 * bare[0].norm()
    assert torch.allclose(changed[1], bare[1], atol=1e-5)


def test_errors_name_what_was_wrong() -> None:
    ids = prompts(3, 4)
    plain = PersonalityModel.from_model(tiny_model("llama"))
    assert torch.equal(greedy(plain, ids), greedy(plain, ids, personality=None))
    with pytest.raises(ValueError, match="neither a hypernetwork nor personality neurons"):
        plain.generate(ids, personality="E+4")
    with pytest.raises(ValueError, match="already has a personality"):
        PersonalityModel.from_model(plain)
    with pytest.raises(ValueError, match="already has a personality"):
        PersonalityModel.from_model(plain.base)
    model = personality_model(tiny_model("llama"))
    with pytest.raises(ValueError, match="2 personalities were given for 3 rows"):
        model.generate(ids, personality=[None, "E+4"])
    with pytest.raises(ValueError, match=r"-5\.\.5"):
        model.generate(ids, personality="E+7")
    with pytest.raises(ValueError, match="O, C, E, A, N"):
        model.generate(ids, personality={"kindness": 3})
    with pytest.raises(TypeError, match="got int"):
        model.generate(ids, personality=3)
    with pytest.raises(ValueError, match="stored adapter"):
        model.generate(ids, personality=Character("harry"))
    with pytest.raises(ValueError, match="steer_tokens"):
        model.generate(ids, personality="E+4", steer_tokens="prompt")
    with pytest.raises(ValueError, match=r"tensor of numbers \[5\]"):
        model(ids, personality=torch.zeros(3, 4))
    table = random_table(3, 72)
    del table.neurons[Pole.parse("N+")]
    half = PersonalityModel.from_model(tiny_model("llama"), steering=SteeringTable(table.neurons, 3, 72))
    with pytest.raises(ValueError, match=r"no neurons for N\+"):
        half.generate(ids, personality="N+4")
    with pytest.raises(ValueError, match="the model has 3 of 72"):
        PersonalityModel.from_model(tiny_model("llama"), steering=random_table(2, 72))


def test_unsupported_models_are_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

    small = MambaForCausalLM(MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=11, state_size=4))
    with pytest.raises(UnsupportedArchitectureError, match="have no MLP; accepted are causal LMs"):
        PersonalityModel.from_model(small)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    mixtral = MixtralForCausalLM(MixtralConfig(vocab_size=11, num_local_experts=2, **sizes))
    with pytest.raises(UnsupportedArchitectureError, match=r"mixture of experts \(model.layers.0.mlp.experts\)"):
        PersonalityModel.from_model(mixtral, hypernet=HypernetConfig())


def test_save_and_load(tmp_path: Path) -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(3, 6)
    people = ["E+4", None, "N-2 O+5"]
    expected = greedy(model, ids, personality=people)
    model.save_pretrained(tmp_path / "adapter", notes="Measured: nothing.")
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert names == {"dpg_config.json", "hypernet.safetensors", "neurons.safetensors", "calibration.json", "README.md"}
    assert "Measured: nothing." in (tmp_path / "adapter" / "README.md").read_text()
    loaded = PersonalityModel.load(tiny_model("llama"), tmp_path / "adapter")
    assert torch.equal(greedy(loaded, ids, personality=people), expected)
    half = PersonalityModel.load(tiny_model("llama", dtype=torch.bfloat16), tmp_path / "adapter")
    assert half.base.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="the weights differ"):
        PersonalityModel.load(tiny_model("llama", seed=1), tmp_path / "adapter")
    PersonalityModel.load(tiny_model("llama", seed=1), tmp_path / "adapter", allow_mismatch=True)
    with pytest.raises(ValueError, match="hidden_size is 64"):
        PersonalityModel.load(tiny_model("llama", hidden_size=64), tmp_path / "adapter")
    with pytest.raises(ValueError, match="no dpg_config"):
        PersonalityModel.load(tiny_model("llama"), tmp_path)


def test_from_pretrained_of_a_directory(tmp_path: Path) -> None:
    base = tiny_model("qwen2")
    base.save_pretrained(tmp_path / "base")
    model = personality_model(base)
    ids = prompts(2, 5)
    expected = greedy(model, ids, personality="C+5")
    model.save_pretrained(tmp_path / "adapter")
    loaded = PersonalityModel.from_pretrained(tmp_path / "base", tmp_path / "adapter", dtype=torch.float32)
    assert torch.equal(greedy(loaded, ids, personality="C+5"), expected)


def test_through_a_hub_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub's own client, and a server on a socket."""
    model, ids = personality_model(tiny_model("llama")), prompts(2, 5)
    expected = greedy(model, ids, personality="C+5")
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        url = model.push_to_hub("someone/people", notes="Measured: nothing yet.", private=True)
        assert url == f"{hub.url}/someone/people" and hub.private["someone/people"]
        model.save_pretrained(tmp_path / "saved", notes="Measured: nothing yet.")
        own = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
        assert {name: hub.repositories["someone/people"][name] for name in own} == own
        loaded = PersonalityModel.load(tiny_model("llama"), "someone/people")
        assert torch.equal(greedy(loaded, ids, personality="C+5"), expected)
        loaded.push_to_hub("someone/people")  # over what is there, with the notes that were loaded
        assert b"Measured: nothing yet." in hub.repositories["someone/people"]["README.md"]
        with pytest.raises(ValueError, match="someone/else is neither a directory"):
            PersonalityModel.load(tiny_model("llama"), "someone/else")
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        with pytest.raises(HfHubHTTPError, match="401"):
            model.push_to_hub("someone/people")


def test_a_card_says_what_the_calibration_measured(tmp_path: Path) -> None:
    model = personality_model(tiny_model("llama"))
    model.save_pretrained(tmp_path)
    assert "were not calibrated" in (tmp_path / "README.md").read_text()
    model.calibration = Calibration.load(packaged("smollm2") / "calibration.json")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| E+ | 1.5 | +0.2 | +3.3 | x 1.52 | effect grows no further |" in text
    assert "2.5 was allowed" in text and "## Limits" in text


def test_stored_adapters_speak_as_characters(tmp_path: Path) -> None:
    base = tiny_model("llama")
    network = HyperNetwork(HypernetConfig(rank=3), find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(5), std=0.1)
    ids = prompts(1, 6)
    people = {"harry": Personality("E+3"), "ron": Personality("C-4 N+2")}
    with torch.no_grad():
        wrapped = PersonalityModel.from_model(base, hypernet=network)
        expected = {name: wrapped(ids, personality=person).logits[0] for name, person in people.items()}
    for name, person in people.items():
        network.to_peft(person, tmp_path / name, base_model="base")
    stored = PersonalityModel.from_model(
        wrapped.unload(), hypernet=from_peft({name: tmp_path / name for name in people}), steering=random_table(3, 72)
    )
    with torch.no_grad():
        rows = [Character("ron"), None, Character("harry"), Personality("E+5")]
        found = stored(ids.repeat(4, 1), personality=rows, steer_from=99).logits
        bare = stored(ids).logits[0]
    assert torch.allclose(found[0], expected["ron"], atol=1e-5, rtol=1e-5)
    assert torch.allclose(found[2], expected["harry"], atol=1e-5, rtol=1e-5)
    assert torch.allclose(found[1], bare, atol=1e-5)
    assert torch.allclose(found[3], bare, atol=1e-5)  # a Personality steers neurons only, and none before token 99
    with pytest.raises(ValueError, match="ginny"):
        stored.generate(ids, personality=Character("ginny"))
    stored.save_pretrained(tmp_path / "adapter")
    again = PersonalityModel.load(stored.unload(), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(again(ids, personality=Character("ron")).logits[0], expected["ron"], atol=1e-5)


@pytest.mark.parametrize("parts", ["lora", "steer", "both"])
def test_speaking_changes_personalities_in_place(parts: str) -> None:
    """A decode loop of one's own; every tensor that a captured graph would read stays where it is."""
    model = personality_model(tiny_model("llama"), lora=parts != "steer", steer=parts != "lora")
    ids = prompts(3, 6)
    rounds = [[PEOPLE[0], None, PEOPLE[2]], [PEOPLE[3], PEOPLE[0], None], [None, None, PEOPLE[0]], [None, None, None]]
    wanted = [model(ids, personality=people).logits for people in rounds]
    with torch.no_grad(), model.speaking(rounds[0], rows=3) as speaking:
        found = [model.base(ids).logits]
        kept = [speaking.row_slots, *speaking._repeated.values(), *speaking.values[:3]]
        places = [t.data_ptr() for t in kept]
        for people in rounds[1:]:
            assert speaking.change(people)
            found.append(model.base(ids).logits)
        assert places == [
            t.data_ptr() for t in (speaking.row_slots, *speaking._repeated.values(), *speaking.values[:3])
        ]
        with pytest.raises(ValueError, match="2 personalities were given for 3 rows"):
            speaking.change(PEOPLE[:2])
        many = [[Personality(openness=i / 100, neuroticism=j) for j in (-1, 0, 1)] for i in range(30)]
        assert all(speaking.change(people) for people in many), "old slots are used again"
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    bare = model(ids).logits
    with torch.no_grad(), model.speaking(None, rows=3) as speaking:
        assert (model.base(ids).logits - bare).norm() <= 1e-5 * bare.norm()
        speaking.change("E+5")
        assert (model.base(ids).logits - bare).norm() > 1e-3 * bare.norm()
    assert torch.equal(model.base(ids).logits, bare)
    table = model._runtime.supply.current
    assert table is not None and not table._pinned()


def test_inference_mode_and_other_modes_take_turns(tiny_llama: Any) -> None:
    """Slots made in inference mode can be rewritten outside of it, also after the table grew there."""
    model = PersonalityModel.from_model(tiny_llama, steering=random_table(2, 72)).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        first = model(ids, personality="E+5").logits.clone()
        many = [Personality(f"O+{level / 20}") for level in range(1, 71)]
        model(ids.expand(70, 3), personality=many)
    with torch.no_grad():
        model(ids, personality="E-5 N+2")
        assert torch.equal(model(ids, personality="E+5").logits, first)


def test_the_packages_adapters_have_names() -> None:
    found = {name: artifact.locate(name) for name in artifact.PACKAGED}
    assert found == {"smollm2": adapter_directory(), "smollm2-hypernet": hypernet_directory()}
    assert all((directory / artifact.CONFIG).is_file() for directory in found.values())
