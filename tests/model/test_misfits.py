"""What does not fit a model, or is given in the wrong place, is refused with its name and a way out; scores in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.hypernet import PeftFormatError, Site, from_peft, write_peft
from tests.model.test_wrapper import personality_model
from tests.model.tiny import prompts, tiny_model

HEAD = "output head or the embeddings are not supported"


def written(folder: Path, names: list[str], width: int = 48, out: int = 48) -> Path:
    return write_peft(
        folder, {name: (torch.randn(2, width), torch.randn(out, 2)) for name in names}, alpha=2, base_model="base"
    )


def refusal(folder: Path, **kinds: Any) -> str:
    with pytest.raises(ValueError) as error:
        PersonalityModel.from_model(tiny_model("llama", **kinds), characters={"a": folder})
    return str(error.value)


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_head_and_embeddings(name: str, tmp_path: Path) -> None:
    found = refusal(written(tmp_path / "a", ["model.layers.0.self_attn.q_proj", name], out=97))
    assert HEAD in found or "other sizes" in found
    found = refusal(written(tmp_path / "b", [name], out=97))
    assert HEAD in found and name in found and "target_modules" in found


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]])
@pytest.mark.parametrize("save", [True, False])
def test_head_and_embeddings_as_peft_saves_them(targets: list[str], save: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT writes the adapter")
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(r=2, target_modules=targets))
    model.save_pretrained(tmp_path / "a", save_embedding_layers=save)
    found = refusal(tmp_path / "a")
    assert HEAD in found and targets[1] in found
    if save:
        with pytest.raises(PeftFormatError, match=HEAD):
            from_peft(tmp_path / "a")


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "", "base.model."])
def test_another_prefix_is_named(prefix: str, tmp_path: Path) -> None:
    names = [f"{prefix}layers.{layer}.self_attn.{kind}_proj" for layer in (0, 2) for kind in ("q", "o")]
    found = refusal(written(tmp_path / "a", names))
    assert f"begin with {prefix!r}, this model's with 'model.'" in found


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    name = "model.language_model.layers.7.self_attn.q_proj"
    found = refusal(written(tmp_path / "a", [name]))
    assert f"layers that the model lacks: {name}" in found and "model.layers.0.self_attn.q_proj" in found


def test_layers_that_cannot_be_adapted(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", ["extra"])
    model = tiny_model("llama")
    model.extra = torch.nn.Linear(48, 48)
    with pytest.raises(ValueError, match=r"cannot be adapted: extra; accepted are the attention and MLP"):
        PersonalityModel.from_model(model, characters={"a": folder})


def test_other_sizes() -> None:
    other = HyperNetwork(HypernetConfig(rank=2), find_architecture(tiny_model("llama", hidden_size=32)).sites)
    with pytest.raises(ValueError, match=r"mlp\.down_proj has 72 -> 32 features in the bank, 72 -> 48.*21 of 21"):
        PersonalityModel.from_model(tiny_model("llama"), hypernet=other)
    few = [Site("model.layers.3.self_attn.q_proj", 48, 48)]
    with pytest.raises(ValueError, match=r"lacks: model\.layers\.3"):
        PersonalityModel.from_model(tiny_model("llama"), hypernet=HyperNetwork(HypernetConfig(rank=2), few))


def test_a_refused_model_is_as_it_was(tmp_path: Path) -> None:
    base = tiny_model("llama")
    before = {name: type(module) for name, module in base.named_modules()}
    with pytest.raises(ValueError, match=HEAD):
        PersonalityModel.from_model(base, characters={"a": written(tmp_path / "a", ["lm_head"], out=97)})
    assert before == {name: type(module) for name, module in base.named_modules()} and "forward" not in base.__dict__


def test_a_peft_directory_in_place_of_an_adapter(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    folder = written(tmp_path / "a", ["model.layers.0.self_attn.q_proj"])
    with pytest.raises(ValueError, match=r"is a PEFT adapter.*add_characters.*characters="):
        PersonalityModel.from_pretrained(tmp_path / "base", folder)
    model = PersonalityModel.from_pretrained(tmp_path / "base")  # what the message says
    model.add_characters({"name": folder})
    PersonalityModel.from_model(model.unload(), characters={"name": folder})


SCORES = [[4.0, -3.0, 0.0, 2.0, 1.0], [-5.0, 5.0, 5.0, -1.0, 0.0]]


@torch.no_grad()
@pytest.mark.parametrize(
    "form",
    [
        torch.tensor(SCORES),
        torch.tensor(SCORES).to(torch.float16),
        torch.tensor(SCORES).long(),
        torch.tensor(SCORES).to(torch.int8),
        np.array(SCORES),
        np.array(SCORES, dtype=np.int64),
        np.array(SCORES, dtype=np.float32),
        [torch.tensor(row) for row in SCORES],
        [np.array(SCORES[0]), torch.tensor(SCORES[1]).int()],
        tuple(np.array(SCORES)),
    ],
    ids=lambda form: f"{type(form).__name__} {getattr(form, 'dtype', '')}",
)
def test_scores_in_every_form(form: Any) -> None:
    model = personality_model(tiny_model("llama"))
    ids = prompts(2, 5)
    wanted = model(ids, personality=[Personality.from_scores(row) for row in SCORES]).logits
    assert torch.equal(model(ids, personality=form).logits, wanted)
    assert torch.equal(model(ids[:1], personality=form[0]).logits, model(ids[:1], personality=form[:1]).logits)
    generated = model.generate(ids, personality=form, max_new_tokens=3)
    assert torch.equal(generated, model.generate(ids, personality=torch.tensor(SCORES), max_new_tokens=3))
    segments = torch.tensor([[0, 0, 1, 1, -1]] * 2)
    packed = model(ids, personality=form, segments=segments).logits
    assert torch.equal(packed, model(ids, personality=torch.tensor(SCORES), segments=segments).logits)


@pytest.mark.parametrize(
    ("form", "error", "words"),
    [
        (torch.zeros(2, 5, dtype=torch.bool), ValueError, "tensor of numbers.*bool"),
        (torch.zeros(2, 5, dtype=torch.complex64), ValueError, "tensor of numbers.*complex"),
        (np.zeros((2, 5), dtype=bool), ValueError, "tensor of numbers.*bool"),
        (np.array(["E+4"] * 5), ValueError, "tensor of numbers"),
        (np.zeros((2, 4)), ValueError, r"\[2, 4\]"),
        (torch.zeros(3, 5), ValueError, "3 personalities were given for 2 rows"),
        (torch.full((2, 5), 6), ValueError, r"-5\.\.5"),
        ([torch.zeros(2, 5), None], TypeError, r"Tensor of shape \[2, 5\]"),
        ([torch.zeros(4), None], ValueError, r"\[4\]"),
        ([1, 2, 3, 4, 5], ValueError, "5 personalities"),
        ([1, 2], TypeError, "got int"),
    ],
    ids=str,
)
def test_what_is_no_score_is_named(form: Any, error: type[Exception], words: str) -> None:
    model = personality_model(tiny_model("llama"))
    with pytest.raises(error, match=words):
        model.generate(prompts(2, 5), personality=form, max_new_tokens=1)
