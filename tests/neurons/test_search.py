"""The search on a tiny model: which tokens count, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.architecture import find_architecture
from dpg_fast.neurons import ActivationCounter, SearchSettings, search_neurons
from dpg_fast.neurons import search as search_module
from dpg_fast.neurons.search import DecodeTap
from dpg_fast.personality import POLES, Pole, Trait

QUESTIONS = {
    Trait.EXTRAVERSION: ["A party?", "A walk alone?", "Who?"],
    Trait.NEUROTICISM: ["It is late. And now?", "Afraid?"],
}
DESCRIPTIONS = {p: [f"You are {p}, one.", f"You are {p}, two."] for p in POLES if p.trait in QUESTIONS}
SETTINGS = SearchSettings(batch_size=2, max_new_tokens=6, minimum=10, threshold=0.05)


@pytest.mark.parametrize("prompt_length", [1, 5])
def test_only_decoded_tokens_before_the_end_count(tiny_llama: Any, prompt_length: int) -> None:
    architecture = find_architecture(tiny_llama)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 250, (4, prompt_length), generator=generator)
    mask = torch.ones_like(ids)
    plain = tiny_llama.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=9, pad_token_id=0, eos_token_id=[]
    )
    eos = int(plain[0, prompt_length + 3])  # so that at least one row ends early
    counter = ActivationCounter(architecture.num_layers, architecture.intermediate)
    with DecodeTap(tiny_llama, architecture, counter, prompt_length, {eos}):
        output = tiny_llama.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=9, pad_token_id=0, eos_token_id=eos
        )

    expected = torch.zeros_like(counter.positive)
    tokens = 0
    for row in output.tolist():
        answer = row[prompt_length:]
        kept = answer.index(eos) if eos in answer else len(answer) - 1  # the last token is never fed back
        kept = min(kept, len(answer) - 1)
        seen: dict[int, torch.Tensor] = {}
        handles = [
            mlp.act_module.register_forward_hook(
                lambda m, a, out, layer=mlp.layer, seen=seen: seen.__setitem__(layer, out[0])
            )
            for mlp in architecture.mlps
        ]
        with torch.no_grad():
            tiny_llama(torch.tensor([row[: prompt_length + kept]]))
        for handle in handles:
            handle.remove()
        tokens += kept
        for layer, values in seen.items():
            expected[layer] += (values[prompt_length:] > 0).sum(0)
    assert counter.finish().tokens == tokens
    assert (counter.positive - expected).abs().sum() <= 2  # a value at zero may round to the other side
    assert not tiny_llama._forward_pre_hooks
    assert not any(mlp.act_module._forward_hooks for mlp in architecture.mlps)


def test_search_finds_a_table_and_resumes(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Pole, int]] = []
    table = search_neurons(
        tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, progress=lambda pole, n: seen.append((pole, n))
    )
    assert set(table.poles) == set(DESCRIPTIONS)
    assert sum(n for pole, n in seen if pole == Pole.parse("E+")) == 3
    for pole in table.poles:
        found = table.neurons[pole]
        assert len(found) > 0
        assert found.diff.tolist() == sorted(found.diff.tolist(), reverse=True)
        assert torch.isfinite(found.p95).all()

    calls = []
    original = search_module.run_pole

    def dies_at_the_third(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(search_module, "run_pole", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        search_neurons(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, checkpoint=tmp_path / "partial")
    calls[:] = [1, 1, 1]
    resumed = search_neurons(
        tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, checkpoint=tmp_path / "partial"
    )
    assert len(calls) == 3 + 2  # two of the four poles were already there
    assert torch.equal(resumed.add, table.add)
    assert torch.equal(resumed.clamp_mask, table.clamp_mask)

    other = SearchSettings(batch_size=2, max_new_tokens=7, minimum=10)
    with pytest.raises(ValueError, match="another search"):
        search_neurons(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, other, checkpoint=tmp_path / "partial")


def test_missing_texts_are_named(tiny_llama: Any, byte_tokenizer: Any) -> None:
    few = {p: d for p, d in DESCRIPTIONS.items() if str(p) != "N-"}
    with pytest.raises(ValueError, match="N-"):
        search_neurons(tiny_llama, byte_tokenizer, QUESTIONS, few, SETTINGS)
    with pytest.raises(ValueError, match="max_new_tokens"):
        SearchSettings(max_new_tokens=0)
