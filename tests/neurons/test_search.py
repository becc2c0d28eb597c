"""The search on a tiny model: which tokens count, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.neurons import ActivationCounter, PoleStatistics, SearchSettings, SelectionRule, search_neurons
from dpg_fast.neurons import search as search_module
from dpg_fast.neurons.checkpoint import RUNNING
from dpg_fast.neurons.search import collect_statistics, search_memory
from dpg_fast.neurons.statistics import table_bytes
from dpg_fast.neurons.tap import WAITING_BYTES, DecodeTap, steps_together
from dpg_fast.personality.scores import POLES, Pole, Trait

QUESTIONS = {
    Trait.EXTRAVERSION: ["A party?", "A walk alone?", "Who?"],
    Trait.NEUROTICISM: ["It is late. And now?", "Afraid?"],
}
DESCRIPTIONS = {p: [f"You are {p}, one.", f"You are {p}, two."] for p in POLES if p.trait in QUESTIONS}
SETTINGS = SearchSettings(
    batch_size=2, max_new_tokens=6, means=True, selection=SelectionRule(minimum=10, threshold=0.05)
)


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
    counter = ActivationCounter(architecture.num_layers, architecture.intermediate, 3, means=True)
    slots = torch.tensor([2, 0, 2, -1], dtype=torch.int32)
    with DecodeTap(tiny_llama, architecture, counter, {eos}, 2).watch(prompt_length, slots):
        output = tiny_llama.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=9, pad_token_id=0, eos_token_id=eos
        )

    expected = torch.zeros_like(counter.positive)
    means: dict[int, list[torch.Tensor]] = {0: [], 2: []}
    tokens = [0, 0, 0]
    for row, slot in zip(output.tolist(), slots.tolist(), strict=True):
        if slot < 0:
            continue
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
        tokens[slot] += kept
        for layer, values in seen.items():
            expected[layer, slot] += (values[prompt_length:] > 0).sum(0)
        means[slot].append(torch.stack([seen[layer][prompt_length:].mean(0) for layer in sorted(seen)]))
    assert counter.tokens.tolist() == tokens
    assert (counter.positive - expected).abs().sum() <= 2  # a value at zero may round to the other side
    with pytest.raises(ValueError, match="no decode tokens"):
        counter.finish(1)
    both = counter.finish(2)
    assert both.answers == 2
    assert both.mean is not None and both.variance is not None
    torch.testing.assert_close(both.mean, torch.stack(means[2]).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.variance, torch.stack(means[2]).var(0), rtol=1e-3, atol=1e-5)
    assert not tiny_llama._forward_pre_hooks
    assert not any(mlp.act_module._forward_hooks for mlp in architecture.mlps)


def same(a: dict[Pole, PoleStatistics], b: dict[Pole, PoleStatistics]) -> bool:
    fields = ("positive", "p95", "mean", "variance")
    return a.keys() == b.keys() and all(
        a[p].tokens == b[p].tokens and all(torch.equal(getattr(a[p], f), getattr(b[p], f)) for f in fields) for p in a
    )


def test_search_finds_a_table(tiny_llama: Any, byte_tokenizer: Any) -> None:
    seen: list[tuple[Any, ...]] = []
    table = search_neurons(
        tiny_llama,
        byte_tokenizer,
        QUESTIONS,
        DESCRIPTIONS,
        SETTINGS,
        progress=lambda *step: seen.append(step),
    )
    assert set(table.poles) == set(DESCRIPTIONS)
    assert [step[:3] for step in seen] == [("answers", done, 2 * (3 + 2)) for done in (0, 2, 4, 6, 8, 10)]
    assert seen[0][3] == "" and seen[-1][3].endswith(" tokens/s") and sum(table.origin["decode_tokens"].values()) > 0
    for pole in table.poles:
        found = table.neurons[pole]
        assert len(found) > 0
        assert found.diff.tolist() == sorted(found.diff.tolist(), reverse=True)
        assert torch.isfinite(found.p95).all()


def test_batches_mix_the_poles_without_mixing_their_counts(tiny_llama: Any, byte_tokenizer: Any) -> None:
    together = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS)
    single = SearchSettings(batch_size=1, max_new_tokens=6, means=True)
    apart = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, single)
    for pole in DESCRIPTIONS:
        assert together[pole].tokens == apart[pole].tokens
        assert together[pole].answers == len(QUESTIONS[pole.trait])
        moved = (together[pole].positive - apart[pole].positive).abs()
        assert moved.max() <= 1 and moved.sum() <= 3  # padding changes roundings, and values near zero their sign


@pytest.mark.parametrize("batches_before_death", [1, 3])
def test_killed_search_continues_from_its_tables(
    batches_before_death: int, tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS)
    calls: list[int] = []
    original = search_module.write_tokens

    def dies(model: Any, tokenizer: Any, prompts: list[str], **rest: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == batches_before_death + 1:
            raise KeyboardInterrupt
        return original(model, tokenizer, prompts, **rest)

    monkeypatch.setattr(search_module, "write_tokens", dies)
    run = {"checkpoint": tmp_path / "partial", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, **run)
    assert (tmp_path / "partial" / RUNNING).exists() == (batches_before_death >= 2)
    calls[:] = [0] * 10
    resumed = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, **run)
    assert len(calls) - 10 == (5 if batches_before_death == 1 else 3)
    assert same(resumed, whole)

    again = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, **run)
    assert len(calls) - 10 == (5 if batches_before_death == 1 else 3)  # nothing was generated again
    assert same(again, whole)
    assert not (tmp_path / "partial" / RUNNING).exists()
    other = SearchSettings(batch_size=2, max_new_tokens=7)
    with pytest.raises(ValueError, match=r"settings\.max_new_tokens"):
        collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, other, **run)


def test_finished_statistics_serve_another_selection(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    search_neurons(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS, checkpoint=tmp_path)
    calls: list[int] = []
    table = search_neurons(
        tiny_llama,
        byte_tokenizer,
        QUESTIONS,
        DESCRIPTIONS,
        SearchSettings(batch_size=2, max_new_tokens=6, means=True, selection=SelectionRule(minimum=3, threshold=1.0)),
        checkpoint=tmp_path,
        progress=lambda what, done, total, note: calls.append(done),
    )
    assert not calls
    assert all(len(found) <= 3 for found in table.neurons.values())


def test_waiting_gates_are_bounded() -> None:
    assert steps_together(30, 1536, 24, 48, torch.bfloat16) == 48
    steps = steps_together(32, 14336, 64, 400, torch.bfloat16)
    assert 1 < steps < 400
    assert steps * 32 * 14336 * 64 * 2 <= WAITING_BYTES < (steps + 1) * 32 * 14336 * 64 * 2
    assert steps_together(80, 28672, 512, 400, torch.float32) == 1


def test_memory_is_what_the_tables_take() -> None:
    answers = {Pole.parse("E+"): 5, Pole.parse("E-"): 4}
    counter = ActivationCounter(3, 8, 2, means=True, max_tokens=5 * 6)
    held = sum(t.numel() * t.element_size() for n, t in counter.state().items() if n not in ("tokens", "answers"))
    assert held == table_bytes(3, 8, 2, 5 * 6, True)
    # gates of all six steps of two rows in bfloat16, and the rows' running sums in float32
    assert search_memory(3, 8, answers, SETTINGS, torch.bfloat16) == held + 3 * 8 * 2 * (6 * 2 + 4)
    assert ActivationCounter(1, 1, max_tokens=2**31).histogram.dtype == torch.int64
    assert counter.histogram.dtype == torch.int32
    # NPTI's full search of Llama-3-8B: 36,000 answers of up to 500 tokens for each of ten poles
    assert table_bytes(32, 14336, 10, 36_000 * 500, False) == 32 * 14336 * 10 * (8 + 301 * 4)


def test_missing_texts_are_named(tiny_llama: Any, byte_tokenizer: Any) -> None:
    few = {p: d for p, d in DESCRIPTIONS.items() if str(p) != "N-"}
    with pytest.raises(ValueError, match="N-"):
        search_neurons(tiny_llama, byte_tokenizer, QUESTIONS, few, SETTINGS)
    with pytest.raises(ValueError, match="at least one question"):
        search_neurons(tiny_llama, byte_tokenizer, {Trait.EXTRAVERSION: []}, DESCRIPTIONS, SETTINGS)
    with pytest.raises(ValueError, match="max_new_tokens"):
        SearchSettings(max_new_tokens=0)
    with pytest.raises(ValueError, match="means"):
        SearchSettings(means=False, selection=SelectionRule(criterion="effect"))


@pytest.mark.parametrize("kind", ["w1 w3 w2", "merged, up first", "plain", "plain, squared", "factors"])
def test_activations_of_any_mlp_are_counted(kind: str) -> None:
    """Against what the activation itself gave, whether it is a module, a function or one that the kernels do not know."""
    from tests.architecture.test_mlps import KINDS, with_mlps
    from tests.families.checks import behind_activation
    from tests.model.tiny import prompts

    base = with_mlps(KINDS[kind])
    architecture = find_architecture(base)
    act = architecture.act or "identity"
    assert (act == "identity") == (kind == "plain, squared")
    counter = ActivationCounter(architecture.num_layers, architecture.intermediate, 1, act=act, means=True)
    ids, slots = prompts(2, 4), torch.zeros(2, dtype=torch.int32)
    options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": []}
    with DecodeTap(base, architecture, counter, set(), 3).watch(4, slots):
        base.generate(ids, attention_mask=torch.ones_like(ids), **options)
    seen: dict[int, list[torch.Tensor]] = {mlp.layer: [] for mlp in architecture.mlps}

    def keep(layer: int) -> Any:
        def change(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen[layer].append(output.detach())
            return output

        return change

    for mlp in architecture.mlps:
        behind_activation(mlp, keep(mlp.layer))
    base.generate(ids, attention_mask=torch.ones_like(ids), **options)
    statistics = counter.finish()
    assert statistics.tokens == 2 * 5
    assert statistics.mean is not None
    for layer, values in seen.items():
        decoded = torch.cat(values[1:], dim=1)  # [2, 5, I]
        assert torch.equal(statistics.positive[layer], (decoded > 0).sum((0, 1)))
        assert torch.allclose(statistics.mean[layer], decoded.mean(1).mean(0), atol=1e-5)


@pytest.mark.parametrize("way", ["hooks", "cpu", "disk"])
def test_models_that_accelerate_has_placed_are_counted_alike(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, way: str
) -> None:
    from accelerate import cpu_offload, disk_offload, dispatch_model

    plain = collect_statistics(tiny_llama, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS)
    placed = {
        "hooks": lambda: dispatch_model(tiny_llama, {"": "cpu"}, force_hooks=True),
        "cpu": lambda: cpu_offload(tiny_llama),
        "disk": lambda: disk_offload(tiny_llama, str(tmp_path)),
    }[way]()
    found = collect_statistics(placed, byte_tokenizer, QUESTIONS, DESCRIPTIONS, SETTINGS)
    for pole, statistics in plain.items():
        assert statistics.tokens == found[pole].tokens > 0
        torch.testing.assert_close(found[pole].probability, statistics.probability)
        torch.testing.assert_close(found[pole].p95, statistics.p95)


def test_batches_of_other_sizes_count_no_stale_token(tiny_llama: Any) -> None:
    """The last batch is smaller, and its tokens do not fill the buffer of the first evenly."""
    architecture = find_architecture(tiny_llama)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 9, "min_new_tokens": 9, "pad_token_id": 0}

    def counted(sizes: list[int]) -> ActivationCounter:
        counter = ActivationCounter(architecture.num_layers, architecture.intermediate, 1)
        tap = DecodeTap(tiny_llama, architecture, counter, set(), 3)
        for rows in sizes:
            ids = torch.arange(2, 2 + rows * 4).view(rows, 4)
            with tap.watch(4, torch.zeros(rows, dtype=torch.int32)):
                tiny_llama.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return counter

    for sizes in ([3, 2], [2, 3], [5, 1, 4]):
        together, apart = counted(sizes), [counted([rows]) for rows in sizes]
        assert torch.equal(together.positive, sum(one.positive for one in apart))
        assert torch.equal(together.histogram, sum(one.histogram for one in apart))
        assert int(together.tokens) == sum(sizes) * 8


def test_answers_that_are_read_again_are_refused(tiny_llama: Any) -> None:
    architecture = find_architecture(tiny_llama)
    counter = ActivationCounter(architecture.num_layers, architecture.intermediate, 1)
    ids = torch.arange(2, 9)[None]
    watch = DecodeTap(tiny_llama, architecture, counter, set(), 3).watch(7, torch.zeros(1, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="before 8 have been counted already; generate with a cache"), watch:
        tiny_llama.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0, use_cache=False
        )
