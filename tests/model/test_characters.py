"""Tuned characters as bank entries: with stages, beside a hypernetwork and neurons, against PEFT's own models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpg_fast import Character, HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.hypernet import CombinedNetwork, PeftFormatError, StoredAdapters, from_peft
from dpg_fast.personality.stages import CARD_FILE
from tests.model.characters import write_character
from tests.model.test_wrapper import greedy, random_table
from tests.model.tiny import SIZES, prompts, tiny_model

peft = pytest.importorskip("peft", reason="PEFT writes the adapters and is the reference here")

V = SIZES["vocab_size"]
STAGED = [(name, stage) for name in ("a", "b", "c") for stage in ("early", "late")]
KINDS: dict[str, Any] = {
    "a": {"rank": 4},
    "b": {"rank": 2, "targets": ("o_proj", "gate_proj", "up_proj")},
    "c": {"rank": 5, "targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
}


def profile_network(base: Any, targets: Any = "all") -> HyperNetwork:
    torch.manual_seed(0)
    config = HypernetConfig(rank=3, codes=6, alpha=7.0, targets=targets)
    network = HyperNetwork(config, find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(0), std=0.1)
    return network


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Any]]:
    """Directories of three characters of the tiny Llama, and the PEFT models they are saves of."""
    folder = tmp_path_factory.mktemp("three")
    base = tiny_model("llama")
    rivals = {
        name: write_character(base, folder / name, name, seed, **kind)
        for seed, (name, kind) in enumerate(KINDS.items(), 1)
    }
    return {name: folder / name for name in KINDS}, rivals


def with_token(ids: torch.Tensor, number: int) -> torch.Tensor:
    """A prompt of one row with a stage token in its middle."""
    return torch.cat([ids[:3], torch.tensor([number]), ids[3:]])


def stage_prompts(model: PersonalityModel, people: list[Any], seed: int = 0) -> torch.Tensor:
    ids = prompts(len(people), 8, seed)
    rows = [
        with_token(row, model.stage_token_id(person) if getattr(person, "stage", None) else 5)
        for row, person in zip(ids, people, strict=True)
    ]
    return torch.stack(rows)


def rival_ids(row: torch.Tensor, stage: str | None) -> torch.Tensor:
    """The same prompt with the id that PEFT's model has for the stage."""
    return torch.where(row >= V, V + ["early", "late", None].index(stage), row)[None]


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", False), ("llama", True), ("gemma3_text", True), ("phi3", False), ("gemma2", True)],
)
def test_every_character_and_stage_is_what_peft_alone_computes(family: str, tied: bool, tmp_path: Path) -> None:
    base = tiny_model(family, tie_word_embeddings=tied)
    every = {"targets": ("qkv_proj", "gate_up_proj")} if family == "phi3" else {}
    kinds = {name: (every or kind) for name, kind in KINDS.items()}
    rivals = {
        name: write_character(base, tmp_path / name, name, seed, **kind)
        for seed, (name, kind) in enumerate(kinds.items(), 1)
    }
    people: list[Any] = [Personality(character=name, stage=stage) for name, stage in STAGED]
    people += [None, Character("b"), Personality(character="a")]
    with torch.no_grad():
        ids_bare = prompts(9, 9)
        bare = base(ids_bare).logits
    before = {key: value.clone() for key, value in base.state_dict().items()}
    kind = type(base.get_input_embeddings())
    model = PersonalityModel.from_model(base, characters={name: tmp_path / name for name in kinds})
    ids = stage_prompts(model, people)
    with torch.no_grad():
        found = model(ids, personality=people).logits
        assert found.shape[-1] == V
        assert torch.equal(model(ids_bare).logits, bare)
        for row, person in enumerate(people):
            stage = getattr(person, "stage", None)
            if person is None:
                expected = base(ids[row : row + 1]).logits[0]
            else:
                name = person.names[0] if isinstance(person, Character) else person.character.names[0]
                expected = rivals[name](rival_ids(ids[row], stage)).logits[0, :, :V]
            assert (found[row] - expected).norm() < 3e-5 * expected.norm(), person
        early, late = found[0, 3], found[1, 3]
        assert (early - late).norm() > 0.05 * late.norm(), "the stages' tokens do nothing"
    assert model.unload() is base
    assert type(base.get_input_embeddings()) is kind and "dpg_stages" not in base.get_input_embeddings().__dict__
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    with torch.no_grad():
        assert torch.equal(base(ids_bare).logits, bare)


def test_three_characters_of_two_stages_in_one_batch_speak_as_alone(three: Any) -> None:
    directories, rivals = three
    base = tiny_model("llama")
    bare = greedy(base, prompts(1, 9)).clone()
    model = PersonalityModel.from_model(base, hypernet=profile_network(base), characters=directories)
    people: list[Any] = [Personality(character=name, stage=stage) for name, stage in STAGED]
    people += [None, Personality("E+4"), Personality("@b/late E+4 N-2"), Character("c")]
    ids = stage_prompts(model, people)
    together = greedy(model, ids, personality=people)
    assert torch.equal(greedy(model, prompts(1, 9)), bare) and int(together[:, 9:].max()) < V
    for row, person in enumerate(people):
        assert torch.equal(greedy(model, ids[row : row + 1], personality=person)[0], together[row]), person
    for row, (name, stage) in enumerate(STAGED):
        unknown = list(range(V, V + 2))  # PEFT's resized model could say them
        expected = greedy(rivals[name], rival_ids(ids[row], stage), suppress_tokens=unknown)
        assert torch.equal(expected[0, 9:], together[row, 9:])
    assert len({tuple(row.tolist()) for row in together[:6, 9:]}) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"num_beams": 3},
        {"no_repeat_ngram_size": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
)
def test_ways_of_generating_with_stages(three: Any, options: dict[str, Any]) -> None:
    model = PersonalityModel.from_model(tiny_model("llama"), characters=three[0])
    people = [Personality(character=name, stage=stage) for name, stage in STAGED[:3]]
    ids = stage_prompts(model, people)
    together = greedy(model, ids, personality=people, **options)
    assert int(together[:, 9:].max()) < V and torch.equal(together[:, :9], ids)
    for row, person in enumerate(people):
        assert torch.equal(greedy(model, ids[row : row + 1], personality=person, **options)[0], together[row])


def test_stage_tokens_are_never_sampled(three: Any) -> None:
    model = PersonalityModel.from_model(tiny_model("llama"), characters=three[0])
    person = Personality(character="a", stage="late")
    ids = stage_prompts(model, [person])
    torch.manual_seed(0)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        personality=person,
        do_sample=True,
        temperature=50.0,
        top_k=0,
        max_new_tokens=40,
        num_return_sequences=20,
        eos_token_id=None,
    )
    assert output.shape == (20, 49) and int(output[:, 9:].max()) < V


@pytest.mark.parametrize("targets", ["all", ("q_proj", "down_proj")])
def test_a_character_with_a_profile_is_the_exact_sum(three: Any, targets: Any) -> None:
    base = tiny_model("llama")
    profile = profile_network(base, targets)
    stored = from_peft(three[0])
    combined = CombinedNetwork(profile, stored)

    def change(network: Any, item: Any) -> dict[str, torch.Tensor]:
        pairs = network.materialise(item)
        return {name: network.config.scale * (B.double() @ A.double()) for name, (A, B) in pairs.items()}

    alone = change(profile, Personality("E+3 O-2"))
    for name in KINDS:
        own = change(stored, Character(name))
        for item, parts in (
            (Personality("E+3 O-2"), [alone]),
            (Character(name), [own]),
            (Personality(character=name), [own]),
            (Personality("E+3 O-2", character=name), [alone, own]),
        ):
            for site, found in change(combined, item).items():
                expected = sum((part[site] for part in parts if site in part), torch.zeros_like(found))
                assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6), (item, site)
    half = change(combined, Personality("@0.5*a E+3 O-2"))
    own = change(stored, Character("a"))
    for site, found in half.items():
        expected = sum((part for part in (alone.get(site),) if part is not None), torch.zeros_like(found))
        assert torch.allclose(found, expected + 0.5 * own.get(site, torch.zeros_like(found)), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        blend = change(CombinedNetwork(profile, from_peft(three[0], exact_blends=True)), Character({"a": 0.5, "c": -1}))
        third = change(stored, Character("c"))
        for site, found in blend.items():
            expected = 0.5 * own.get(site, torch.zeros_like(found)) - third.get(site, torch.zeros_like(found))
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_with_profiles_characters_both_and_neurons(three: Any) -> None:
    """Against models that each have only the parts that the row is made of."""
    people: list[Any] = [Personality("E+4"), Personality(character="a"), Personality("@a E+4"), Character("c"), None]
    ids = prompts(5, 9)
    sizes = find_architecture(tiny_model("llama"))
    table = random_table(sizes.num_layers, sizes.intermediate, strength=0.4)

    def logits(people: Any, ids: torch.Tensor, **parts: Any) -> torch.Tensor:
        base = tiny_model("llama")
        if parts.pop("hypernet", False):
            parts["hypernet"] = profile_network(base)
        with torch.no_grad():
            found: torch.Tensor = PersonalityModel.from_model(base, **parts)(ids, personality=people).logits
        return found

    everything = logits(people, ids, hypernet=True, characters=three[0], steering=table)
    for row, parts in ((0, {"hypernet": True, "steering": table}), (1, {"characters": three[0]})):
        expected = logits(people[row], ids[row : row + 1], **parts)[0]
        assert (everything[row] - expected).norm() < 3e-5 * expected.norm()
    unsteered = logits(people[2], ids[2:3], hypernet=True, characters=three[0])[0]
    assert (everything[2] - unsteered).norm() > 0.01 * unsteered.norm()
    expected = logits(people[2], ids[2:3], steering=table, characters=three[0])[
        0
    ]  # neurons and character, no profile LoRA
    assert (everything[2] - expected).norm() > 0.01 * expected.norm()
    assert (everything[3] - logits(people[3], ids[3:4], characters={"c": three[0]["c"]})[0]).norm() < 1e-3
    assert torch.allclose(everything[4], tiny_model("llama")(ids[4:]).logits[0], atol=2e-5)


def test_the_hypernetwork_beside_characters_still_trains(three: Any) -> None:
    base = tiny_model("llama")
    alone, ids = PersonalityModel.from_model(base, hypernet=profile_network(base)), prompts(2, 9)
    people: list[Any] = [Personality("E+4"), None]
    alone(ids, labels=ids, personality=people).loss.backward()
    expected = {name: p.grad for name, p in alone.hypernet.named_parameters()}
    second = tiny_model("llama")
    model = PersonalityModel.from_model(second, hypernet=profile_network(second), characters=three[0])
    model(ids, labels=ids, personality=people).loss.backward()
    network = model.hypernet
    assert isinstance(network, CombinedNetwork)
    for name, parameter in network.profile.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-7), name
    person = Personality("@a/late E+4")
    staged = stage_prompts(model, [person])
    model(staged, labels=torch.where(staged < V, staged, -100), personality=person).loss.backward()


def test_adding_characters_one_by_one_saving_and_loading(three: Any, tmp_path: Path) -> None:
    directories, _ = three
    base = tiny_model("llama")
    people: list[Any] = [Personality(character=name, stage=stage, E=2) for name, stage in STAGED] + [None]
    whole = PersonalityModel.from_model(base, hypernet=profile_network(base), characters=directories)
    ids = stage_prompts(whole, people)
    expected = greedy(whole, ids, personality=people)
    whole.save_pretrained(tmp_path / "whole")
    whole.unload()
    model = PersonalityModel.from_model(base, hypernet=profile_network(base))
    model.add_characters({"a": directories["a"]})
    model.add_characters({"b": directories["b"], "c": directories["c"]})
    assert torch.equal(greedy(model, ids, personality=people), expected)
    with pytest.raises(ValueError, match="'a' already"):
        model.add_characters({"a": directories["b"]})
    assert torch.equal(greedy(model, ids, personality=people), expected)
    model.unload()
    loaded = PersonalityModel.load(base, tmp_path / "whole")
    assert torch.equal(greedy(loaded, ids, personality=people), expected)
    assert [loaded.stage_token_id(p) for p in people[:-1]] == list(range(V, V + 6))
    assert "a, b, c (stages: a/early" in (tmp_path / "whole" / "README.md").read_text()
    with pytest.raises(ValueError, match="made for"):
        PersonalityModel.load(tiny_model("llama", seed=3), tmp_path / "whole")
    loaded.unload()
    only = PersonalityModel.from_model(base, characters=directories)
    assert isinstance(only.hypernet, StoredAdapters)
    only.save_pretrained(tmp_path / "only", bank_dtype=torch.bfloat16)
    only.unload()
    again = PersonalityModel.load(base, tmp_path / "only")
    assert torch.equal(again.hypernet.stages.rows, from_peft(directories).stages.rows)


def test_stages_survive_peft_export_and_merging(three: Any, tmp_path: Path) -> None:
    base = tiny_model("llama")
    model = PersonalityModel.from_model(base, hypernet=profile_network(base), characters=three[0])
    for item in (Personality(character="b", stage="late"), Personality("@b/late E+3")):
        ids = stage_prompts(model, [item])
        with torch.no_grad():
            expected = model(ids, personality=item).logits[0]
            folder = model.to_peft(item, tmp_path / "out", overwrite=True)
            grown = tiny_model("llama")
            grown.resize_token_embeddings(V + 2, mean_resizing=False)
            rival = peft.PeftModel.from_pretrained(grown, str(folder)).eval()
            for stage in ("early", "late"):
                found = rival(rival_ids(ids[0], stage)).logits[0, :, :V]
                assert ((found - expected).norm() < 3e-5 * expected.norm()) == (stage == "late")
            merged = rival.merge_and_unload()
            found = merged(rival_ids(ids[0], "late")).logits[0, :, :V]
            assert (found - expected).norm() < 3e-5 * expected.norm()
            again = PersonalityModel.from_model(tiny_model("llama"), characters={"b2": folder})
            person = Personality(character="b2", stage="late")
            found = again(stage_prompts(again, [person]), personality=person).logits[0]
            assert (found - expected).norm() < 3e-5 * expected.norm()
    blend = model.to_peft(Character({"a": 0.5, "b": 0.5}), tmp_path / "blend")
    assert not (blend / CARD_FILE).exists()


def test_another_base_is_refused(three: Any) -> None:
    other = tiny_model("llama", seed=5)
    with pytest.raises(ValueError, match=r"a \(.*was tuned on.*the weights differ"):
        PersonalityModel.from_model(other, characters=three[0])
    assert "forward" not in other.__dict__
    PersonalityModel.from_model(other, characters=three[0], allow_mismatch=True)


def test_what_cannot_be_asked_for(three: Any, tmp_path: Path) -> None:
    directories, _ = three
    write_character(tiny_model("llama"), tmp_path / "plain", "plain", 9, stages={})
    model = PersonalityModel.from_model(
        tiny_model("llama"), characters={**directories, "plain": tmp_path / "plain", "named": directories["a"]}
    )
    ids = prompts(1, 6)

    def call(person: Any, **kwargs: Any) -> Any:
        return model.generate(ids, personality=person, max_new_tokens=1, **kwargs)

    for person, words in (
        (Personality(character="a", stage="middle"), "no stage 'middle'; its stages: early, late"),
        (Personality(character="plain", stage="early"), "plain has no stage 'early'; it was tuned without stages"),
        (Personality(character="nobody", stage="early"), "nobody has no stage"),
        (Personality(character="nobody"), "no stored adapter 'nobody'; available: a, b, c, plain, named"),
        (Personality(character="a", stage="late"), r"row 0 asks for stage 'late' of a, but its token \(id 98\)"),
        (Personality(character="a", E=2), "know no scores"),
        (Personality("E+2"), "know no scores"),
    ):
        with pytest.raises(ValueError, match=words):
            call(person)
        with pytest.raises(ValueError, match=words):
            model(ids, personality=[person])
    assert call(Personality(character="named")).shape == (1, 7)
    assert model.stage_token_id(Personality(character="named", stage="late")) == V + 7
    with pytest.raises(ValueError, match="inputs_embeds"):
        embeds = model.get_input_embeddings()(ids)
        model.generate(inputs_embeds=embeds, personality=Personality(character="a", stage="late"), max_new_tokens=1)
    bare = PersonalityModel.from_model(tiny_model("llama"), hypernet=profile_network(tiny_model("llama")))
    with pytest.raises(ValueError, match="names a stored adapter, and this model has none"):
        bare(ids, personality=Personality(character="a"))
    with pytest.raises(TypeError, match="name -> directory"):
        bare.add_characters(str(directories["a"]))  # type: ignore[arg-type]


def damaged(source: Path, target: Path, change: Any) -> Path:
    """A copy of an adapter's directory in which ``change(config, card, tensors)`` has changed something."""
    target.mkdir()
    config = json.loads((source / "adapter_config.json").read_text())
    card = json.loads((source / CARD_FILE).read_text())
    tensors = load_file(source / "adapter_model.safetensors")
    change(config, card, tensors)
    (target / "adapter_config.json").write_text(json.dumps(config))
    if card:
        (target / CARD_FILE).write_text(json.dumps(card))
    save_file(tensors, target / "adapter_model.safetensors")
    return target


def without_rows(config: dict[str, Any], card: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    config["trainable_token_indices"] = None
    del tensors[next(key for key in tensors if "trainable_tokens" in key)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_rows, r"<TIME-I> \(id 97\), <TIME-II> \(id 98\), whose trained embedding rows are not in the adapter"),
        (lambda config, card, tensors: card.clear(), r"\[97, 98\] are not supported: there is no character.json"),
        (lambda config, card, tensors: card["tokens"].update({"<TIME-I>": 5}), r"\[97\].*not stage tokens of its"),
        (lambda config, card, tensors: card["tokens"].pop("<TIME-I>"), r"ids are given for \['<TIME-II>'\]"),
        (lambda config, card, tensors: card.update(schema=2), "schema 2 is not 1"),
        (
            lambda config, card, tensors: config.update(trainable_token_indices=[97]),
            "1 trained tokens, but rows of shape",
        ),
    ],
)
def test_stage_tokens_that_are_missing_are_an_error(three: Any, change: Any, words: str, tmp_path: Path) -> None:
    folder = damaged(three[0]["a"], tmp_path / "damaged", change)
    base = tiny_model("llama")
    with pytest.raises(ValueError, match=words) as caught:
        PersonalityModel.from_model(base, characters={"a": folder})
    assert "schema" in words or "ids" in words or isinstance(caught.value, PeftFormatError)
    assert "forward" not in base.__dict__ and type(base.get_input_embeddings()) is torch.nn.Embedding


def test_rows_of_another_width_are_refused(three: Any) -> None:
    network = from_peft({"a": three[0]["a"]})
    assert network.stages is not None
    network.stages.rows = torch.zeros(2, 47)
    base = tiny_model("llama")
    with pytest.raises(ValueError, match="47 features, the model's embedding has 48"):
        PersonalityModel.from_model(base, hypernet=network)
    assert "forward" not in base.__dict__
    assert all(
        type(module).__name__ in ("Linear", "Embedding")
        for module in base.modules()
        if hasattr(module, "weight") and "Norm" not in type(module).__name__
    )


@pytest.fixture(scope="module")
def chatting(
    smollm2_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any, dict[str, Path], dict[str, Any]]:
    """A tiny model under SmolLM2's tokenizer, with two characters tuned on it."""
    tokenizer = copy.deepcopy(smollm2_tokenizer)
    base = tiny_model("llama", vocab_size=len(tokenizer) + 6)  # padded, as many models' vocabularies are
    base.generation_config.pad_token_id = base.generation_config.eos_token_id = tokenizer.eos_token_id
    folder = tmp_path_factory.mktemp("chatting")
    rivals = {n: write_character(base, folder / n, n, s, tokenizer=tokenizer) for s, n in enumerate(("a", "b"))}
    return base, tokenizer, {name: folder / name for name in rivals}, rivals


def test_chat_puts_the_stage_where_training_did(chatting: Any) -> None:
    from transformers import AutoTokenizer

    from dpg_fast.personality.stages import label_messages
    from dpg_fast.text.prompting import chat_prompt

    base, tokenizer, directories, rivals = chatting
    size = len(tokenizer)
    model = PersonalityModel.from_model(copy.deepcopy(base), characters=directories)
    talk = [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Well."},
        {"role": "user", "content": " And <TIME-I> now?"},
    ]
    people: list[Any] = [Personality(character=n, stage=s) for n in ("a", "b") for s in ("early", "late")] + [None]
    batch = model.prompts(talk, personality=people, tokenizer=tokenizer)
    assert len(tokenizer) == size
    vocabulary = base.get_input_embeddings().num_embeddings
    texts = model.chat(talk, personality=people, tokenizer=tokenizer, max_new_tokens=12, repetition_penalty=1.1)
    assert isinstance(texts, list) and len(set(texts)) == 5
    for row, person in enumerate(people):
        name, stage = (person.character.names[0], person.stage) if person is not None else ("a", None)
        trained: Any = AutoTokenizer.from_pretrained(directories[name])
        token = {"early": "<TIME-I>", "late": "<TIME-II>", None: None}[stage]
        said = [talk[0], talk[1], {"role": "user", "content": " And <TIME-I> now?".replace("<TIME-I>", "#")}]
        plain = model.prompts(said, personality=people, tokenizer=tokenizer)
        expected = trained(chat_prompt(trained, label_messages(said, token)), add_special_tokens=False)["input_ids"]
        found = plain["input_ids"][row][plain["attention_mask"][row].bool()].tolist()
        number = trained.convert_tokens_to_ids(token) if token else -1
        assert [number if i >= vocabulary else i for i in found] == expected
        assert sum(i >= vocabulary for i in found) == (2 if token else 0)
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        if person is None:
            continue
        assert sum(int(i) >= vocabulary for i in ids) == 2, "a stage token in what the user wrote is only text"
        mapped = torch.where(ids >= vocabulary, number, ids)[None]
        options = {"suppress_tokens": [size, size + 1], "repetition_penalty": 1.0, "max_new_tokens": 12}
        with torch.no_grad():
            rival = rivals[name].generate(mapped, attention_mask=torch.ones_like(mapped), do_sample=False, **options)
        answer = model.chat(talk, personality=person, tokenizer=tokenizer, max_new_tokens=12)
        assert answer == tokenizer.decode(rival[0, ids.numel() :], skip_special_tokens=True).strip()
    several = model.chat(["Hello.", "Bye."], personality=people[:2], tokenizer=tokenizer, max_new_tokens=3)
    assert len(several) == 2
    name = next(iter(model._stage_tokenizer[2].names.values()))  # type: ignore[index]
    with pytest.raises(ValueError, match="stands for a stage"):
        model.chat(f"Hello {name}", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="has none"):
        model.chat([{"role": "system", "content": "x"}], personality=people[0], tokenizer=tokenizer)


def test_export_with_the_tokenizer(chatting: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base, tokenizer, directories, _ = chatting
    model = PersonalityModel.from_model(copy.deepcopy(base), characters=directories)
    folder = model.to_peft(Personality(character="a", stage="late"), tmp_path / "a", tokenizer=tokenizer)
    text = "<TIME-II>Hello"
    ours, theirs = (AutoTokenizer.from_pretrained(place)(text)["input_ids"] for place in (folder, directories["a"]))
    assert ours == theirs and ours[0] == len(tokenizer) + 1
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["<other>"])
    with pytest.raises(ValueError, match="was tuned with the stage tokens"):
        model.to_peft(Personality(character="a"), tmp_path / "b", tokenizer=grown)
    assert not (tmp_path / "b").exists()


def test_under_torch_compile(three: Any) -> None:
    model = PersonalityModel.from_model(tiny_model("llama"), characters=three[0])
    people: list[Any] = [Personality(character=name, stage=stage) for name, stage in STAGED[:2]]
    ids = stage_prompts(model, people)
    with torch.no_grad():
        expected = model(ids, personality=people).logits
        model.compile(backend="eager", fullgraph=True)
        assert torch.allclose(model(ids, personality=people).logits, expected, atol=1e-5)
        swapped = model(ids[[1, 0]], personality=people[::-1]).logits
        assert torch.allclose(swapped, expected[[1, 0]], atol=1e-5)
        assert torch.allclose(model(prompts(2, 9)).logits, tiny_model("llama")(prompts(2, 9)).logits, atol=1e-5)


@pytest.mark.slow
def test_smollm2(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    """Three characters, two stages each, in one batch: the tokens that each gives alone, here and in PEFT (greedy, fp32)."""
    base, tokenizer = copy.deepcopy(smollm2[0]), smollm2[1]
    rivals = {
        name: write_character(base, tmp_path / name, name, seed, tokenizer=tokenizer, std=0.05, **kind)
        for seed, (name, kind) in enumerate(KINDS.items(), 1)
    }
    question, options = "What do you remember of your first day at work?", {"max_new_tokens": 16, "min_new_tokens": 16}
    bare = PersonalityModel.from_model(base)
    plain = bare.chat(question, tokenizer=tokenizer, **options)
    bare.unload()
    model = PersonalityModel.from_model(
        base, hypernet=profile_network(base), characters={name: tmp_path / name for name in KINDS}
    )
    people: list[Any] = [Personality(character=name, stage=stage) for name, stage in STAGED]
    people += [None, Personality("E+4"), Personality("@a/late E+0.5")]
    batch = model.prompts(question, personality=people, tokenizer=tokenizer)
    together = model.generate(**batch, personality=people, do_sample=False, **options)[:, batch["input_ids"].shape[1] :]
    assert tokenizer.decode(together[6], skip_special_tokens=True).strip() == plain
    for row, person in enumerate(people):
        own = model.prompts(question, personality=person, tokenizer=tokenizer)
        alone = model.generate(**own, personality=person, do_sample=False, **options)[0, own["input_ids"].shape[1] :]
        assert torch.equal(alone, together[row]), person
        if row >= len(STAGED):
            continue
        name, stage = STAGED[row]
        ids, size = own["input_ids"], base.get_input_embeddings().num_embeddings
        number = len(tokenizer) + ["early", "late"].index(stage)
        unknown = [len(tokenizer), len(tokenizer) + 1]
        found = rivals[name].generate(
            torch.where(ids >= size, number, ids),
            attention_mask=own["attention_mask"],
            do_sample=False,
            suppress_tokens=unknown,
            **options,
        )
        assert torch.equal(found[0, ids.shape[1] :], together[row]), person
    assert len({tuple(together[row].tolist()) for row in (0, 2, 4, 6)}) == 4, "the characters do not differ"
    with torch.no_grad():
        last = model(**batch, personality=people).logits[:, -1]
    for early, late in ((0, 1), (2, 3), (4, 5)):
        assert (last[early] - last[late]).norm() > 0.05 * last[late].norm(), "the stages do not differ"
