"""Several answers in one line: the same loss and the same gradients as a line for each, for every kind of hypernetwork."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dpg_fast.hypernet import encoders
from dpg_fast.train import TrainingRow, batch_loss, collate, load_settings, run_training, text_sources
from dpg_fast.train.attention import grouped
from dpg_fast.train.loss import segment_mask
from tests.model.variants import VARIANTS, personality_model
from tests.train.test_rows_and_loss import record
from tests.train.test_trainer import losses, project  # noqa: F401


def rows_of(tokenizer: Any) -> list[TrainingRow]:
    records = [
        record((5, 0, 0, 0, 0), "Hi?", "Hello there."),
        record((0, -3, 2, 0, 0), "Why?", "No.", "And?", "Yes, so."),
        record((0, 0, 0, 4, -4), "How?", "Well."),
        record((5, 0, 0, 0, 0), "What?", "That."),
    ]
    return [source.finished for source in text_sources(records, tokenizer)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "grouped"])
@pytest.mark.parametrize("kind", VARIANTS)
def test_loss_and_gradients_are_those_of_separate_lines(
    kind: str, attention: str, checkpointing: bool, tiny_llama: Any, byte_tokenizer: Any
) -> None:
    tiny_llama.set_attn_implementation("eager" if attention == "eager" else "sdpa")
    model = personality_model(tiny_llama, byte_tokenizer, VARIANTS[kind])
    assert model.hypernet is not None
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    rows = rows_of(byte_tokenizer)
    packed = collate(rows, 0, pack=2 * max(len(row.tokens) for row in rows))
    assert len(packed["input_ids"]) < len(rows) and packed["line"].tolist() != [0] * 4
    found = []
    for batch in (collate(rows, 0), packed):
        with grouped(tiny_llama) if attention == "grouped" else nullcontext():
            total, count = batch_loss(model, batch)
            total.backward()
        gradients = {name: p.grad.clone() for name, p in model.hypernet.named_parameters() if p.grad is not None}
        model.hypernet.zero_grad()
        found.append((total.detach(), count, gradients))
    (loss, count, apart), (packed_loss, packed_count, together) = found
    assert count == packed_count
    torch.testing.assert_close(packed_loss, loss, rtol=1e-5, atol=1e-5)
    assert apart.keys() == together.keys() and apart
    for name, gradient in apart.items():
        assert (together[name] - gradient).norm() <= 2e-4 * gradient.norm() + 1e-6, name


def test_lines_hold_every_row_once_and_no_more_than_fits(byte_tokenizer: Any) -> None:
    rows = rows_of(byte_tokenizer)
    lengths = [len(row.tokens) for row in rows]
    for room in (1, max(lengths), 2 * max(lengths), sum(lengths)):
        batch = collate(rows, 7, pack=room)
        assert batch["input_ids"].shape[1] <= max(room, max(lengths))
        for number, row in enumerate(rows):
            own = batch["segments"] == number
            assert batch["input_ids"][own].tolist() == row.tokens.tolist()
            assert batch["position_ids"][own].tolist() == list(range(len(row.tokens)))
            line = int(batch["line"][number])
            places = batch["positions"][number][: len(row.positions)]
            assert batch["segments"][line, places].unique().tolist() == [number]
        assert (batch["input_ids"][batch["segments"] < 0] == 7).all()
    assert len(collate(rows, 0, pack=sum(lengths))["input_ids"]) == 1


def test_segments_do_not_see_each_other() -> None:
    mask = segment_mask(torch.tensor([[0, 0, 2, 2, -1]]), torch.float32)[0, 0]
    seen = [[int(j) for j in (row == 0).nonzero().flatten()] for row in mask]
    assert seen == [[0], [0, 1], [2], [2, 3], [4]]


def test_segments_that_do_not_fit_are_refused(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model = personality_model(tiny_llama, byte_tokenizer, VARIANTS["scores"])
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"run from 0 to 2, and there are 2"):
        model(ids, personality=["E+4", None], segments=torch.tensor([[0, 1, 2, 2]]))
    with pytest.raises(ValueError, match=r"shape \[1, 3\], the forward has \[1, 4\]"):
        model(ids, personality=["E+4", None], segments=torch.tensor([[0, 1, 1]]))
    with pytest.raises(ValueError, match=r"one for each segment"):
        model(ids, personality="E+4", segments=torch.tensor([[0, 0, 0, 0]]))
    with torch.no_grad():
        packed = model(ids, personality=["E+4", None], segments=torch.tensor([[0, 0, -1, -1]])).logits
        assert not torch.allclose(packed[:, 0], model(ids).logits[:, 0], atol=1e-4)


@pytest.mark.parametrize("changes", [["data.pack=64", "hypernet.encoder=text"], ["hypernet.head=wide"]])
def test_a_run_tells_its_cost_and_is_resumed(
    changes: list[str],
    project: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(encoders, "REFERENCE_TEXTS", 16)
    changes = [*changes, "hypernet.text_features=4"]
    adapter = run_training(load_settings(project / "run.yaml", changes))
    told = capsys.readouterr().out
    assert "parameters in the bank" in told and "ms measured" in told
    assert (adapter / "hypernet.safetensors").is_file()
    whole = losses(project / "out")
    assert len(whole) == 8 and whole[-1] < whole[0]
    settings = yaml.safe_load((project / "run.yaml").read_text())
    assert settings["trainer"]["save_steps"] == 2
    # as after a kill at step 4: only the first checkpoints are there
    for checkpoint in (project / "out").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > 6:
            shutil.rmtree(checkpoint)
    again = run_training(load_settings(project / "run.yaml", changes))
    assert again == adapter and losses(project / "out") == pytest.approx(whole, rel=1e-4)
