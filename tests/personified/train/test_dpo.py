"""The second step on tiny models: the reference is the character after the first step, resuming, rewards and lengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from dpg_fast.personified.train import DpoSettings, SftSettings, load_tuned, run_dpo, run_sft
from dpg_fast.personified.train.dpo import dpo_trainer, reference_rows
from dpg_fast.personified.train.preferences import Scores, load_pairs, margins, score_pairs, trl_rows
from dpg_fast.personified.train.settings import PairDataSettings, trainer_arguments
from dpg_fast.personified.train.tuned import read_training
from dpg_fast.train import read_settings


@pytest.fixture
def tuned(project: Path) -> Path:
    run_sft(read_settings(SftSettings, project / "sft.yaml"))
    return project


def dpo(project: Path, *overrides: str) -> Path:
    return run_dpo(read_settings(DpoSettings, project / "dpo.yaml", overrides))


def arguments(project: Path, **more: Any) -> Any:
    return trainer_arguments(
        DPOConfig, project / "x", "float32", {"per_device_eval_batch_size": 4, "disable_tqdm": True} | more
    )


@pytest.mark.parametrize("precomputed", [False, True])
def test_at_the_start_rewards_are_0_and_the_loss_is_ln_2(tuned: Path, precomputed: bool) -> None:
    model, tokenizer, card = load_tuned(tuned / "sft" / "adapter", str(tuned / "base"), trainable=True)
    pairs = load_pairs(
        PairDataSettings((tuned / "pairs.jsonl",), held_out=0), card.character, list(card.stages.values())
    )
    rows = Dataset.from_list(trl_rows(pairs.train, False))
    settings = arguments(tuned, precompute_ref_log_probs=precomputed, beta=0.5)
    trainer = dpo_trainer(model, None, settings, tokenizer, rows, rows)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["eval_rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert found["eval_rewards/rejected"] == pytest.approx(0, abs=1e-6)
    # which the bare base model as the reference would not give
    with model.disable_adapter():
        bare = score_pairs(model, tokenizer, pairs.train, False)
    now = score_pairs(model, tokenizer, pairs.train, False)
    assert abs(margins(now, bare, 0.5)["chosen"]) > 0.1
    # and our own scores are TRL's
    assert found["eval_logps/chosen"] == pytest.approx(
        now.chosen.mean(), rel=0.15
    )  # TRL counts the newline after the turn


def test_trl_alone_leaves_the_references_stage_tokens_untrained(tuned: Path) -> None:
    """If TRL mends this, `reference_rows` has nothing to do and can go."""
    model, tokenizer, card = load_tuned(tuned / "sft" / "adapter", str(tuned / "base"), trainable=True)
    pairs = load_pairs(
        PairDataSettings((tuned / "pairs.jsonl",), held_out=0), card.character, list(card.stages.values())
    )
    rows = Dataset.from_list(trl_rows(pairs.train, False))
    trainer = DPOTrainer(
        model=model, args=arguments(tuned), processing_class=tokenizer, train_dataset=rows, eval_dataset=rows
    )
    before = trainer.evaluate()
    assert abs(before["eval_rewards/chosen"]) > 1e-4
    assert reference_rows(trainer.model) == 1
    assert reference_rows(trainer.model) == 0
    assert trainer.evaluate()["eval_rewards/chosen"] == pytest.approx(0, abs=1e-6)


def test_the_second_step_prefers_the_chosen_side_and_only_the_adapter_changes(tuned: Path) -> None:
    adapter = dpo(tuned, "trainer.max_steps=10", "trainer.learning_rate=0.01")
    found = read_training(adapter)
    losses = [line["loss"] for line in found["curve"] if "loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses[-1] < losses[0]
    assert found["method"] == "dpo" and found["beta"] == 0.1 and found["sft"]["records"]["train"] == 14
    assert found["pairs"]["train"] > 0 and found["pairs"]["held_out"] > 0 and found["rewards"]["on"] == "held out"
    assert set(found["pairs"]["lengths"]) >= {"all", "stage", "personality"}
    assert not (adapter / "ref").exists()
    model, tokenizer, card = load_tuned(adapter, str(tuned / "base"))
    sft, _, _ = load_tuned(tuned / "sft" / "adapter", str(tuned / "base"))
    pairs = load_pairs(
        PairDataSettings((tuned / "pairs.jsonl",), held_out=0), card.character, list(card.stages.values())
    )
    told = margins(
        score_pairs(model, tokenizer, pairs.train, False), score_pairs(sft, tokenizer, pairs.train, False), 0.1
    )
    assert told["margin"] > 0 and told["accuracy"] > 0.5
    # the reference is no part of what was written, and the base is as it was
    assert list(model.peft_config) == ["default"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tied"], indirect=True)
@pytest.mark.parametrize("precomputed", ["true", "false"])
def test_a_stopped_run_goes_on_against_the_same_reference(tuned: Path, precomputed: str, monkeypatch: Any) -> None:
    from transformers import TrainerCallback

    option = f"trainer.precompute_ref_log_probs={precomputed}"
    whole = [line["loss"] for line in read_training(dpo(tuned, option))["curve"] if "loss" in line]

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    train = DPOTrainer.train

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(Stop())
        return train(self, *args, **kwargs)

    second = [f"output={tuned / 'second'}", option]
    with monkeypatch.context() as patch:
        patch.setattr(DPOTrainer, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            dpo(tuned, *second)
    found = read_training(dpo(tuned, *second))["curve"]
    assert [line["loss"] for line in found if "loss" in line] == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_full_parameters_have_a_frozen_copy_as_reference(project: Path) -> None:
    run_sft(read_settings(SftSettings, project / "sft.yaml", ["full=true", "trainer.learning_rate=1e-3"]))
    sft = f"sft={project / 'sft' / 'model'}"
    directory = dpo(project, sft, "trainer.learning_rate=1e-4", "pairs.held_out=0", "trainer.max_steps=4")
    found = read_training(directory)
    losses = [line["loss"] for line in found["curve"] if "loss" in line]
    assert directory.name == "model" and losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found["rewards"]["on"] == "train" and found["rewards"]["margin"] > 0
    load_tuned(directory)


def scores(chosen: list[float], rejected: list[float], lengths: list[tuple[int, int]]) -> Scores:
    return Scores(np.array(chosen), np.array(rejected), *np.array(lengths).T)


def test_margins_tell_length_from_preference() -> None:
    lengths = [(10, 5), (5, 10), (12, 4), (4, 12)]
    zero = scores([0] * 4, [0] * 4, lengths)
    by_length = margins(scores([5, -5, 8, -8], [0] * 4, lengths), zero, 0.1)
    assert by_length["length_correlation"] == pytest.approx(1) and by_length["accuracy"] == 0.5
    assert (by_length["accuracy_longer"], by_length["accuracy_shorter"]) == (1, 0)
    fair = margins(scores([2, 2, 1, 1], [0, 0, -1, -1], lengths), zero, 0.1)
    assert fair["length_correlation"] == 0 and fair["accuracy"] == 1 and fair["margin"] == pytest.approx(0.2)


def test_pairs_of_a_question_stay_together(project: Path) -> None:
    settings = PairDataSettings((project / "pairs.jsonl",), held_out=0.3)
    found = load_pairs(settings, "ada_moor", ["TIME-I", "TIME-II"])
    sides = [{p.chosen_id.split("@")[0] for p in part} for part in (found.train, found.held)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert {p.character for p in [*found.train, *found.held]} == {"Ada Moor"}
    row = trl_rows(found.train, False)[0]
    assert (
        row["prompt"][0]["content"].startswith(f"<{found.train[0].label}>") and "[" not in row["chosen"][0]["content"]
    )


@pytest.mark.parametrize(
    ("settings", "character", "labels", "message"),
    [
        ({}, "cid", ["TIME-I", "TIME-II"], "no pair of cid .* pairs of Ada Moor, Bo Hale"),
        ({}, "ada_moor", ["TIME-I"], "pairs of TIME-II, but ada_moor was tuned with TIME-I"),
        ({"kinds": ("friends",)}, "ada_moor", ["TIME-I"], "pairs.kinds"),
        ({"held_out": 1.0}, "ada_moor", ["TIME-I"], "held_out"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, settings: Any, character: str, labels: list[str], message: str) -> None:
    from tests.personified.train.people import write_people

    write_people(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pairs(PairDataSettings((tmp_path / "pairs.jsonl",), **settings), character, labels)
    with pytest.raises(FileNotFoundError, match=r"no .*nothing"):
        load_pairs(PairDataSettings((tmp_path / "nothing",)), character, labels)


def test_scores_do_not_depend_on_padding(tuned: Path) -> None:
    model, tokenizer, card = load_tuned(tuned / "sft" / "adapter", str(tuned / "base"))
    pairs = load_pairs(PairDataSettings((tuned / "pairs.jsonl",)), card.character, list(card.stages.values())).train
    together, alone = (score_pairs(model, tokenizer, pairs, False, batch=n) for n in (8, 1))
    np.testing.assert_allclose(together.chosen, alone.chosen, rtol=1e-4)
    with torch.inference_mode():
        assert together.chosen_tokens[0] == len(pairs[0].chosen[0].content.split("[Response] ")[1]) + 1
