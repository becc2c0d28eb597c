"""Models that accelerate has put on their devices, or whose weights it keeps elsewhere, equal the plain model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor

from dpg_fast import HypernetConfig, Personality, PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError
from dpg_fast.hypernet import HyperNetwork
from dpg_fast.model.disk.fingerprint import fingerprint, mismatch
from tests.model.test_wrapper import random_table
from tests.model.tiny import prompts, tiny_model
from tests.model.variants import SMALL

ROWS = ["E+5 N-2", "E-5", None]
DECODE: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}

WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "hooks": lambda model, _: dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "cpu": lambda model, _: cpu_offload(model),
    "disk": lambda model, folder: disk_offload(model, str(folder)),
    "partly": lambda model, folder: dispatch_model(
        model,
        {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
        | {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"},
        offload_dir=str(folder),
    ),
}


def personality_model(base: Any, **changes: Any) -> PersonalityModel:
    torch.manual_seed(0)
    model = PersonalityModel.from_model(
        base, hypernet=HypernetConfig(**{**SMALL, **changes}), steering=random_table(3, 72)
    )
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch.Generator().manual_seed(0), std=0.1)
    return model


def padded() -> tuple[Tensor, Tensor]:
    ids, mask = prompts(3, 7), torch.ones(3, 7, dtype=torch.long)
    ids[0, :3] = mask[0, :3] = 0
    return ids, mask


def gradients(model: PersonalityModel, ids: Tensor) -> list[Tensor]:
    assert model.hypernet is not None
    model.zero_grad()
    model(ids, labels=ids, personality=ROWS).loss.backward()
    return [p.grad.clone() for p in model.hypernet.parameters() if p.grad is not None]


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_plain_model(way: str, tied: bool, tmp_path: Path) -> None:
    plain = personality_model(tiny_model("llama", tie_word_embeddings=tied))
    bare = tiny_model("llama", tie_word_embeddings=tied)
    placed = WAYS[way](tiny_model("llama", tie_word_embeddings=tied), tmp_path / "offload")
    before = {name: module.__dict__.copy() for name, module in placed.named_modules()}
    model = personality_model(placed)
    ids, mask = padded()
    assert model.device == torch.device("cpu")
    with torch.no_grad():
        expected = plain(ids, attention_mask=mask, personality=ROWS).logits
        given = model(ids, attention_mask=mask, personality=ROWS).logits
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(ids, attention_mask=mask).logits, bare(ids, attention_mask=mask).logits)
    for extra in ({}, {"num_beams": 2}, {"use_cache": False}):
        answers = [m.generate(ids, attention_mask=mask, personality=ROWS, **DECODE, **extra) for m in (plain, model)]
        assert torch.equal(*answers)
        assert not torch.equal(answers[0], bare.generate(ids, attention_mask=mask, **DECODE, **extra))
    for mine, theirs in zip(gradients(model, ids), gradients(plain, ids), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    model.save_pretrained(tmp_path / "adapter")
    for name in ("a", "b"):
        (plain if name == "a" else model).to_peft(Personality("E+5"), tmp_path / name)
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert model.unload() is placed
    for name, module in placed.named_modules():
        assert module.__dict__.keys() == before[name].keys()
    with torch.no_grad():
        assert torch.equal(placed(ids, attention_mask=mask).logits, bare(ids, attention_mask=mask).logits)
        loaded = PersonalityModel.load(placed, tmp_path / "adapter")
        again = loaded(ids, attention_mask=mask, personality=ROWS).logits
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)
        remove_hook_from_submodules(loaded.unload())
        assert torch.equal(placed(ids, attention_mask=mask).logits, bare(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("way", ["hooks", "cpu", "disk"])
def test_a_wrapped_model_may_be_dispatched_later(way: str, tmp_path: Path) -> None:
    plain, model = personality_model(tiny_model("llama")), personality_model(tiny_model("llama"))
    ids = prompts(3, 6)
    with torch.no_grad():
        expected = plain(ids, personality=ROWS).logits
        model(ids, personality=ROWS)
        WAYS[way](model.base, tmp_path)
        torch.testing.assert_close(model(ids, personality=ROWS).logits, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(model.unload()(ids).logits, tiny_model("llama")(ids).logits)


def test_a_wide_head_under_offload() -> None:
    plain, model = personality_model(tiny_model("llama"), head="wide"), cpu_offload(tiny_model("llama"))
    model, ids = personality_model(model, head="wide"), prompts(3, 6)
    with torch.no_grad():
        expected = plain(ids, personality=ROWS).logits
        torch.testing.assert_close(model(ids, personality=ROWS).logits, expected, rtol=1e-5, atol=1e-5)


def test_fingerprints_see_offloaded_weights() -> None:
    model = tiny_model("llama")
    stored = fingerprint(model)
    assert fingerprint(cpu_offload(model)) == stored
    assert mismatch(stored, model) is None
    assert "weights differ" in str(mismatch(stored, cpu_offload(tiny_model("llama", seed=1))))


def test_from_pretrained_with_a_device_map(tmp_path: Path) -> None:
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    plain = personality_model(base)
    plain.save_pretrained(tmp_path / "adapter")
    ids = prompts(3, 6)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    for device_map in ("auto", places):
        model = PersonalityModel.from_pretrained(
            tmp_path / "base", tmp_path / "adapter", device_map=device_map, offload_folder=str(tmp_path / "offload")
        )
        with torch.no_grad():
            got = model(ids.to(model.device), personality=ROWS).logits.cpu()
            torch.testing.assert_close(got, plain(ids, personality=ROWS).logits, rtol=1e-4, atol=1e-4)


def scaled(model: Any) -> Any:
    """With an MLP that is not what its structure suggests."""
    original = type(model.model.layers[1].mlp)
    model.model.layers[1].mlp.__class__ = type(
        "Scaled", (original,), {"forward": lambda self, x: 2 * original.forward(self, x)}
    )
    return model


def test_an_mlp_that_is_not_what_it_seems_is_found_under_offload() -> None:
    plain, model = (
        personality_model(scaled(tiny_model("llama"))),
        personality_model(cpu_offload(scaled(tiny_model("llama")))),
    )
    assert [adapter.fused for adapter in model._runtime._surgery.mlp_adapters.values()] == [True, False, True]
    ids = prompts(3, 6)
    with torch.no_grad():
        expected = plain(ids, personality=ROWS).logits
        torch.testing.assert_close(model(ids, personality=ROWS).logits, expected, rtol=1e-5, atol=1e-5)


def test_layers_without_weights_and_moves_are_refused_by_name() -> None:
    model = tiny_model("llama")
    model.model.layers[2].to("meta")
    with pytest.raises(UnsupportedArchitectureError, match=r"model\.layers\.2\.\S+ has no weights.*device_map"):
        personality_model(model)
    moved = personality_model(cpu_offload(tiny_model("llama")))
    with pytest.raises(ValueError, match=r"runs layers of the base model on cpu.*remove_hook_from_submodules"):
        moved.to("meta")
    moved.to("cpu")
    with torch.no_grad():
        assert moved(prompts(3, 4), personality=ROWS).logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["hooks", "disk"])
def test_verify_through_hooks(way: str, tmp_path: Path) -> None:
    personality_model(WAYS[way](tiny_model("llama"), tmp_path)).verify(quick=True).require()


@pytest.mark.slow
def test_two_devices() -> None:
    """In a process of its own, because the pretend devices are there for all of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.on_two_devices"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "all equal" in done.stdout
