"""PEFT directories: what is written loads in PEFT and computes the same; what PEFT writes is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpg_fast.hypernet import (
    HypernetConfig,
    HyperNetwork,
    PeftFormatError,
    Site,
    from_peft,
    read_peft,
    write_peft,
)
from dpg_fast.personality.scores import Character, Personality

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama() -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()


def phi3() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.Phi3Config(**SIZES)
    return transformers.Phi3ForCausalLM(config).eval()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(23)
        yield


def sites_of(model: nn.Module) -> list[Site]:
    return [
        Site(name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]


def logits(model: nn.Module) -> Tensor:
    ids = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        result: Tensor = model(input_ids=ids).logits
    return result


@torch.no_grad()
def add_by_hand(model: nn.Module, pairs: dict[str, tuple[Tensor, Tensor]], scale: float) -> nn.Module:
    for name, (a, b) in pairs.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight += (scale * (b.double() @ a.double())).float()
    return model


@pytest.mark.parametrize("make", [llama, phi3])
@pytest.mark.parametrize("targets", ["all", None])
def test_written_adapter_computes_the_same_in_peft(
    make: Callable[[], nn.Module], targets: str | None, tmp_path: Path
) -> None:
    model = make()
    sites = sites_of(model)
    chosen: Any = "all" if targets else (("qkv_proj", "gate_up_proj") if make is phi3 else ("q_proj", "down_proj"))
    config = HypernetConfig(rank=3, codes=7, alpha=4.5, targets=chosen)
    network = HyperNetwork(config, sites)
    network.randomize_(torch.Generator().manual_seed(1), std=0.3)
    person = Personality("E+4 N-2.5")
    directory = network.to_peft(person, tmp_path / "deep" / "adapter", base_model="org/base")
    assert directory.name == "adapter" and [p.name for p in directory.parent.iterdir()] == ["adapter"]

    base = logits(model)
    expected = logits(add_by_hand(make(), network.materialise(person), config.scale))
    loaded = peft.PeftModel.from_pretrained(make(), directory)
    found = logits(loaded)
    spread = (expected - base).abs().max()
    assert spread > 0.05  # the adapter does something
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max().clamp_min(1)
    adapted = {name for name, m in loaded.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert adapted == {site.name for site in network.sites}
    stated = json.loads((directory / "adapter_config.json").read_text())
    assert stated["base_model_name_or_path"] == "org/base"
    assert stated["lora_alpha"] / stated["r"] == config.scale


def test_whole_names_hit_no_other_layer(tmp_path: Path) -> None:
    model = llama()
    only = [site for site in sites_of(model) if site.name == "model.layers.1.self_attn.v_proj"]
    network = HyperNetwork(HypernetConfig(rank=2), only)
    loaded = peft.PeftModel.from_pretrained(model, network.to_peft(Personality(), tmp_path / "a", base_model="b"))
    adapted = [name for name, m in loaded.get_base_model().named_modules() if hasattr(m, "lora_A")]
    assert adapted == ["model.layers.1.self_attn.v_proj"]


@pytest.mark.parametrize("make", [llama, phi3])
def test_round_trip(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network = HyperNetwork(HypernetConfig(rank=4, alpha=8), sites_of(make()))  # scale 2: exact in binary
    network.randomize_()
    person = Personality("O+1 C-5")
    stored = from_peft(network.to_peft(person, tmp_path / "carl", base_model="b"))
    assert stored.names == ("carl",) and stored.config.scale == 1 and stored.sites == network.sites
    back = stored.materialise(Character("carl"))
    for name, (a, b) in network.materialise(person).items():
        assert torch.equal(back[name][0], a) and torch.equal(back[name][1], 2 * b)
    # and out again
    again = from_peft({"x": stored.to_peft(Character("carl"), tmp_path / "again", base_model="b")})
    for name, (a, b) in again.materialise(Character("x")).items():
        assert torch.equal(a, back[name][0]) and torch.equal(b, back[name][1])


def test_writing_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {"m.q": (torch.randn(2, 3), torch.randn(5, 2))}
    target = write_peft(tmp_path / "a", pairs, alpha=2, base_model="b")
    before = load_file(target / "adapter_model.safetensors")
    with pytest.raises(FileExistsError, match=r"overwrite"):
        write_peft(target, pairs, alpha=2, base_model="b")
    changed = {"m.q": (torch.zeros(2, 3), torch.zeros(5, 2))}

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", fail)
        with pytest.raises(OSError, match=r"disk full"):
            write_peft(target, changed, alpha=2, base_model="b", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    after = load_file(target / "adapter_model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    write_peft(target, changed, alpha=2, base_model="b", overwrite=True, dtype=torch.bfloat16)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    replaced = load_file(target / "adapter_model.safetensors")
    assert all(t.dtype == torch.bfloat16 and not t.any() for t in replaced.values())
    with pytest.raises(ValueError, match=r"one rank"):
        write_peft(tmp_path / "b", {}, alpha=2, base_model="b")


# --- reading what PEFT itself writes ---


def made_by_peft(path: Path, seed: int = 0, make: Callable[[], nn.Module] = llama, **options: Any) -> Tensor:
    """An adapter with random A and B made and saved by PEFT; returns its model's logits."""
    arguments: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "down_proj"],
        **options,
    }
    model = peft.get_peft_model(make(), peft.LoraConfig(**arguments))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.eval().save_pretrained(path)
    return logits(model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"down_proj": 7, r"layers\.1\.self_attn\.q_proj": 2},
            "alpha_pattern": {"q_proj": 5},
        },
        {"init_lora_weights": "gaussian", "layers_to_transform": [1]},
        {"make": phi3, "target_modules": ["qkv_proj", "gate_up_proj"]},
    ],
    ids=["plain", "rslora", "patterns", "one-layer", "phi3"],
)
def test_reading_an_adapter_of_peft(options: dict[str, Any], tmp_path: Path) -> None:
    make = options.get("make", llama)
    expected = made_by_peft(tmp_path / "nora", **options)
    stored = from_peft(tmp_path / "nora")
    found = logits(add_by_hand(make(), stored.materialise(Character("nora")), stored.config.scale))
    assert (expected - logits(make())).abs().max() > 0.05
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max().clamp_min(1)


@pytest.mark.parametrize("exact", [False, True])
def test_several_adapters(exact: bool, tmp_path: Path) -> None:
    expected = {
        "ann": made_by_peft(tmp_path / "1", seed=1, r=3, lora_alpha=5),
        "bob": made_by_peft(tmp_path / "2", seed=2, r=6, use_rslora=True, target_modules=["q_proj", "up_proj"]),
    }
    stored = from_peft({"ann": tmp_path / "1", "bob": tmp_path / "2"}, exact_blends=exact)
    assert stored.config.rank == (9 if exact else 6) and stored.config.codes == 2
    assert {site.kind for site in stored.sites} == {"q_proj", "down_proj", "up_proj"}
    for name, wanted in expected.items():
        found = logits(add_by_hand(llama(), stored.materialise(Character(name)), stored.config.scale))
        assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max().clamp_min(1)
    # a layer that ann does not change
    a, b = stored.materialise(Character("ann"))["model.layers.0.mlp.up_proj"]
    assert not a.any() and not b.any()
    # blends: exact sums, or mixtures of the factors with cross terms
    parts = {name: stored.materialise(Character(name)) for name in expected}
    blend = stored.materialise(Character({"ann": 0.3, "bob": -0.5}))
    site = "model.layers.1.self_attn.q_proj"
    total = 0.3 * parts["ann"][site][1] @ parts["ann"][site][0] - 0.5 * parts["bob"][site][1] @ parts["bob"][site][0]
    error = (blend[site][1] @ blend[site][0] - total).abs().max()
    assert (error < 1e-6) == exact


def test_different_bases_are_refused(tmp_path: Path) -> None:
    pairs = {"m.q": (torch.randn(2, 3), torch.randn(5, 2))}
    for name in ("x", "y"):
        write_peft(tmp_path / name, pairs, alpha=2, base_model=f"org/{name}")
    both = {name: tmp_path / name for name in ("x", "y")}
    with pytest.raises(ValueError, match=r"different base models \(x: org/x, y: org/y\)"):
        from_peft(both)
    assert from_peft(both, allow_mismatch=True).names == ("x", "y")


def test_limits(tmp_path: Path) -> None:
    write_peft(tmp_path / "wide", {"m.q": (torch.randn(513, 3), torch.randn(5, 513))}, alpha=2, base_model="b")
    with pytest.raises(ValueError, match=r"rank 513; a bank holds at most 512: reduce"):
        from_peft(tmp_path / "wide")
    for name, rank in (("x", 300), ("y", 256)):
        pairs = {"m.q": (torch.randn(rank, 3), torch.randn(5, rank))}
        write_peft(tmp_path / name, pairs, alpha=2, base_model="b")
    both = {name: tmp_path / name for name in ("x", "y")}
    assert from_peft(both).config.rank == 300
    with pytest.raises(ValueError, match=r"\[300, 256\] sum to 556.*without exact_blends"):
        from_peft(both, exact_blends=True)
    write_peft(tmp_path / "z", {"m.q": (torch.randn(2, 4), torch.randn(5, 2))}, alpha=2, base_model="b")
    with pytest.raises(PeftFormatError, match=r"m.q: adapter 'z' has 4 -> 5, another 3 -> 5"):
        from_peft({"x": tmp_path / "x", "z": tmp_path / "z"})
    with pytest.raises(ValueError, match=r"no adapters"):
        from_peft({})
    with pytest.raises(ValueError, match=r"at most 64"):
        from_peft({str(i): tmp_path / "x" for i in range(65)})


# --- refusals ---


def edited(path: Path, **fields: Any) -> Path:
    write_peft(path, {"m.q": (torch.randn(2, 3), torch.randn(5, 2))}, alpha=2, base_model="b")
    config = json.loads((path / "adapter_config.json").read_text())
    config.update(fields)
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "LoRA biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*fully trained"),
        ({"trainable_token_indices": [3]}, "token"),
        ({"peft_type": "IA3"}, "'IA3'; only LORA"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base weights"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"r": 3}, "rank 2.*states 3"),
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"target_parameters": ["w"]}, "bare parameters"),
    ],
)
def test_unsupported_fields(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(PeftFormatError, match=words):
        read_peft(edited(tmp_path / "a", **fields))


def test_unset_unknown_fields_are_fine(tmp_path: Path) -> None:
    adapter = read_peft(edited(tmp_path / "a", something_new=None, other_new=False, more={}))
    assert adapter.base_model == "b" and list(adapter.pairs) == ["m.q"]


def test_dora_saved_by_peft_is_refused(tmp_path: Path) -> None:
    made_by_peft(tmp_path / "d", use_dora=True)
    with pytest.raises(PeftFormatError, match=r"DoRA"):
        from_peft(tmp_path / "d")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"base_model.model.m.q.lora_A.weight": (2, 3)}, "m.q has only lora_A"),
        ({"base_model.model.m.q.lora_embedding_A": (2, 3)}, "output head or the embeddings.*lora_embedding_A"),
        (
            {
                "base_model.model.m.q.lora_A.weight": (2, 3, 1, 1),
                "base_model.model.m.q.lora_B.weight": (5, 2),
            },
            "linear",
        ),
        (
            {"base_model.model.m.q.lora_A.weight": (2, 3), "base_model.model.m.q.lora_B.weight": (5, 4)},
            "linear",
        ),
        ({}, "no tensor"),
    ],
)
def test_unsupported_tensors(tensors: dict[str, tuple[int, ...]], words: str, tmp_path: Path) -> None:
    path = edited(tmp_path / "a")
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, path / "adapter_model.safetensors")
    with pytest.raises(PeftFormatError, match=words):
        read_peft(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"local directory"):
        read_peft(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json"):
        read_peft(tmp_path)
    path = edited(tmp_path / "a")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pickle"):
        read_peft(path)
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(PeftFormatError, match=r"JSON"):
        read_peft(path)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    pairs = {"m.q": (torch.randn(2, 3), torch.randn(5, 2))}
    write_peft(tmp_path / "a", pairs, alpha=3, base_model="b", dtype=torch.float16)
    a, b = read_peft(tmp_path / "a").pairs["m.q"]
    assert a.dtype == b.dtype == torch.float32
    assert torch.equal(a, pairs["m.q"][0].half().float())
    torch.testing.assert_close(b, pairs["m.q"][1].half().float() * 1.5)
    assert math.isfinite(b.sum().item())
