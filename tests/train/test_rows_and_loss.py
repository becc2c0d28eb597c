"""Targets, batches and the loss of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dpg_fast.hypernet import HypernetConfig
from dpg_fast.model import PersonalityModel
from dpg_fast.text.records import DialogueRecord, Turn
from dpg_fast.train import Rows, TrainingRow, batch_loss, collate, target_loss, text_sources
from dpg_fast.train.attention import grouped


def record(scores: Sequence[float] | None, *said: str) -> DialogueRecord:
    turns = [Turn(role="user" if i % 2 == 0 else "assistant", content=text) for i, text in enumerate(said)]
    return DialogueRecord(messages=turns, personality=scores, source="test")  # type: ignore[arg-type]


@pytest.fixture
def wrapped(tiny_llama: Any) -> PersonalityModel:
    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2, codes=6, hidden=8, depth=1))
    assert model.hypernet is not None
    model.hypernet.randomize_(torch.Generator().manual_seed(1), std=0.1)
    return model


def rows_of(tokenizer: Any) -> list[TrainingRow]:
    records = [
        record((5, 0, 0, 0, 0), "Hi?", "Hello there."),
        record((0, -3, 2, 0, 0), "Why?", "No.", "And?", "Yes, so."),
    ]
    return [source.finished for source in text_sources(records, tokenizer)]


def test_target_loss_is_cross_entropy_for_one_token_and_divergence_for_several() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator)
    tokens = torch.randint(11, (6,), generator=generator)
    one = target_loss(logits, tokens[:, None], torch.zeros(6, 1))
    torch.testing.assert_close(one, F.cross_entropy(logits, tokens, reduction="sum"))
    candidates = torch.stack([torch.randperm(11, generator=generator)[:4] for _ in range(6)])
    log_q = torch.randn(6, 4, generator=generator).log_softmax(1)
    log_p = logits.log_softmax(1).gather(1, candidates)
    torch.testing.assert_close(target_loss(logits, candidates, log_q), F.kl_div(log_p, log_q.exp(), reduction="sum"))
    padded = torch.cat([log_q, torch.full((6, 2), -torch.inf)], 1)
    with_padding = target_loss(logits, torch.cat([candidates, torch.zeros(6, 2, dtype=torch.long)], 1), padded)
    torch.testing.assert_close(with_padding, target_loss(logits, candidates, log_q))


def test_loss_is_zero_where_the_model_is_the_target() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    every = torch.arange(9).expand(3, 9)
    loss = target_loss(logits, every, logits.detach().log_softmax(1))
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_only_the_assistant_is_learnt(byte_tokenizer: Any) -> None:
    for row, expected in zip(
        rows_of(byte_tokenizer), ("Hello there.<|end|>", "No.<|end|>Yes, so.<|end|>"), strict=True
    ):
        assert byte_tokenizer.decode(row.tokens[row.positions + 1]) == expected
        assert torch.equal(row.candidates[:, 0], row.tokens[row.positions + 1])


def test_dialogues_without_personality_or_assistant_are_left_out(byte_tokenizer: Any) -> None:
    kept = text_sources([record(None, "Hi?", "No."), record((1, 0, 0, 0, 0), "Hi?", "Yes.")], byte_tokenizer)
    assert len(kept) == 1
    with pytest.raises(ValueError, match="none of 1 record "):
        text_sources([record((1, 0, 0, 0, 0), "Hi?")], byte_tokenizer)


def test_batch_loss_is_that_of_the_full_logits(wrapped: PersonalityModel, byte_tokenizer: Any) -> None:
    row = rows_of(byte_tokenizer)[1]
    total, count = batch_loss(wrapped, collate([row], 0))
    logits = wrapped(input_ids=row.tokens[None], personality=row.personality[None]).logits[0]
    expected = F.cross_entropy(logits[row.positions].float(), row.tokens[row.positions + 1], reduction="sum")
    assert count == len(row.positions)
    torch.testing.assert_close(total, expected)


def gradients(model: PersonalityModel, rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
    assert model.hypernet is not None
    model.hypernet.zero_grad()
    batch_loss(model, collate(rows, 0))[0].backward()
    return {name: p.grad.clone() for name, p in model.hypernet.named_parameters() if p.grad is not None}


def test_gradients_of_a_mixed_batch_are_the_sum_of_single_ones(wrapped: PersonalityModel, byte_tokenizer: Any) -> None:
    rows = rows_of(byte_tokenizer)
    mixed, parts = gradients(wrapped, rows), [gradients(wrapped, [row]) for row in rows]
    assert set(mixed) == {name for name, _ in wrapped.hypernet.named_parameters()}  # type: ignore[union-attr]
    for name, found in mixed.items():
        torch.testing.assert_close(
            found, parts[0][name] + parts[1][name], rtol=1e-3, atol=1e-4 * float(found.abs().max())
        )
    assert all(p.grad is None for p in wrapped.base.parameters())


def test_gradient_checkpointing_changes_no_gradient(wrapped: PersonalityModel, byte_tokenizer: Any) -> None:
    rows = rows_of(byte_tokenizer)
    wrapped.train()
    plain = gradients(wrapped, rows)
    wrapped.activation_checkpointing_enable()
    for name, found in gradients(wrapped, rows).items():
        torch.testing.assert_close(found, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_grouped_attention_equals_the_usual_one(tiny_llama: Any, padding: str) -> None:
    ids = torch.randint(2, 250, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, slice(0, 4) if padding == "left" else slice(8, 12)] = 0
    kept = mask.bool()
    expected = tiny_llama(input_ids=ids, attention_mask=mask).logits[kept]
    with grouped(tiny_llama):
        torch.testing.assert_close(
            tiny_llama(input_ids=ids, attention_mask=mask).logits[kept], expected, rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(
            tiny_llama.generate(ids, max_new_tokens=5, do_sample=False),
            tiny_llama.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False),
        )
    assert tiny_llama.config._attn_implementation == "sdpa"


def test_a_visit_depends_on_its_index_alone(byte_tokenizer: Any) -> None:
    class Noise:
        def row(self, random: np.random.Generator) -> TrainingRow:
            return TrainingRow(*[torch.tensor([random.random()])] * 5)

    rows, again = Rows([Noise(), Noise()], visits=3, seed=4), Rows([Noise(), Noise()], visits=3, seed=4)
    values = [float(rows[i].tokens) for i in range(len(rows))]
    assert len(set(values)) == 6
    assert float(again[5].tokens) == values[5]
    with pytest.raises(ValueError, match="nothing to learn"):
        Rows([], 1)
