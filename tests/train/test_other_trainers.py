"""A `PersonalityModel` under the trainers that people know: it learns, is saved and resumed, or says why it cannot."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from dpg_fast import PersonalityModel
from dpg_fast.compat.transformers import with_checkpointing_names
from dpg_fast.hypernet import HypernetConfig
from tests.model.tiny import FAMILIES, prompts, tiny_model

NOTHING = r"nothing would be trained.*personality=.*HypernetTrainer"
CONFIG = HypernetConfig(rank=2, codes=4, hidden=8, depth=1)


def wrapped(family: str = "llama", **changes: Any) -> PersonalityModel:
    torch.manual_seed(1)
    return PersonalityModel.from_model(tiny_model(family, **changes), hypernet=CONFIG)


def rows(count: int = 8, length: int = 6, personality: bool = True) -> Dataset:
    ids = prompts(count, length)
    columns: dict[str, Any] = {
        "input_ids": ids.tolist(),
        "attention_mask": torch.ones_like(ids).tolist(),
        "labels": ids.tolist(),
        "unrelated": list(range(count)),
    }
    if personality:
        columns["personality"] = [[5.0, 0.0, -5.0 + n, 0.0, 1.0] for n in range(count)]
    return Dataset.from_dict(columns)


def arguments(directory: Path, **options: Any) -> TrainingArguments:
    chosen = {
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "max_steps": 4,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return TrainingArguments(output_dir=str(directory), **with_checkpointing_names(TrainingArguments, chosen))


def weights(model: PersonalityModel) -> dict[str, torch.Tensor]:
    assert model.hypernet is not None
    return {name: p.detach().clone() for name, p in model.hypernet.named_parameters()}


def moved(model: PersonalityModel, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


# ---------------------------------------------------------------- signature


@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_finds_every_column_that_the_base_takes(family: str, tmp_path: Path) -> None:
    model = wrapped(family)
    trainer = Trainer(model=model, args=arguments(tmp_path))
    trainer._set_signature_columns_if_needed()
    of_the_base = set(inspect.signature(type(model.base).forward).parameters) - {"self"}
    assert of_the_base | {"personality", "segments", "steer_from"} <= set(trainer._signature_columns)
    assert trainer.label_names == ["labels"] and trainer.model_accepts_loss_kwargs
    assert set(inspect.signature(PersonalityModel.forward).parameters) >= {"labels", "attention_mask", "position_ids"}


def test_the_signature_follows_a_forward_of_the_class_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped()
    kind = type(model.base)
    whole = set(inspect.signature(model.forward).parameters)

    def forward(self: Any, *args: Any, only_here: int = 0, **kwargs: Any) -> Any:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(kind, "forward", forward)
        assert "only_here" in inspect.signature(model.forward).parameters
    assert set(inspect.signature(model.forward).parameters) == whole


def test_a_column_that_one_kind_of_base_takes_is_kept() -> None:
    model = wrapped()
    kind = type(model.base)

    class Other(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, token_type_ids: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    assert "token_type_ids" not in inspect.signature(model.forward).parameters
    base = model.unload()
    base.__class__ = Other
    assert "token_type_ids" in inspect.signature(PersonalityModel.from_model(base, hypernet=CONFIG).forward).parameters


# ---------------------------------------------------------------- Trainer


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_trainer_with_its_defaults_trains_evaluates_and_saves(options: dict[str, Any], tmp_path: Path) -> None:
    model = wrapped(tie_word_embeddings=True)
    before = weights(model)
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, **options)
        if not options
        else arguments(tmp_path, max_steps=2, **options),
        train_dataset=rows(),
        eval_dataset=rows(4),
    )
    trainer.train()
    assert moved(model, before)
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    other = PersonalityModel.load(tiny_model("llama", tie_word_embeddings=True), tmp_path / "saved")
    assert not moved(model, weights(other))


def test_masked_tokens_do_not_count(tmp_path: Path) -> None:
    """A collator that makes its own labels finds the mask, and what it masks is not learnt from."""
    seen = []

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {name: torch.tensor([e[name] for e in examples]) for name in ("input_ids", "attention_mask")}
        seen.append(set(examples[0]))
        return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    def loss_with(padding: int) -> float:
        data = rows()
        ids, mask = torch.tensor(data["input_ids"]), torch.tensor(data["attention_mask"])
        ids[:, -2:], mask[:, -2:] = padding, 0
        data = data.remove_columns(["input_ids", "attention_mask", "labels"])
        data = data.add_column("input_ids", ids.tolist()).add_column("attention_mask", mask.tolist())
        trainer = Trainer(
            model=wrapped(), args=arguments(tmp_path, max_steps=2), train_dataset=data, data_collator=collate
        )
        return float(trainer.train().training_loss)

    assert loss_with(3) == pytest.approx(loss_with(50), rel=1e-6)
    assert all({"attention_mask", "personality"} <= names and "unrelated" not in names for names in seen)


def test_a_resumed_run_goes_on_exactly_and_the_best_checkpoint_is_loaded(tmp_path: Path) -> None:
    def train(directory: Path, steps: int, resume: bool) -> tuple[PersonalityModel, Any]:
        model = wrapped(tie_word_embeddings=True)
        options = {
            "save_strategy": "steps",
            "save_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "load_best_model_at_end": not resume and steps == 6,
            "lr_scheduler_type": "constant",
            "learning_rate": 0.3,  # overshoots, so that the last checkpoint is not the best
        }
        trainer = Trainer(
            model=model,
            args=arguments(directory, max_steps=steps, **options),
            train_dataset=rows(),
            eval_dataset=rows(4),
        )
        trainer.train(resume_from_checkpoint=resume)
        return model, trainer

    whole, trainer = train(tmp_path / "whole", 6, False)
    train(tmp_path / "part", 4, False)
    resumed, _ = train(tmp_path / "part", 6, True)
    last = PersonalityModel.load(tiny_model("llama", tie_word_embeddings=True), tmp_path / "whole" / "checkpoint-6")
    assert not moved(resumed, weights(last))
    best = PersonalityModel.load(tiny_model("llama", tie_word_embeddings=True), trainer.state.best_model_checkpoint)
    assert not moved(whole, weights(best))
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert trainer.state.best_metric == min(losses) and losses[-1] != min(losses)


def test_another_model_under_trainer_is_saved_as_before(tmp_path: Path) -> None:
    Trainer(model=wrapped(), args=arguments(tmp_path))  # from now on Trainer knows of ours
    Trainer(model=tiny_model("llama"), args=arguments(tmp_path)).save_model(str(tmp_path / "plain"))
    assert type(tiny_model("llama")).from_pretrained(tmp_path / "plain").num_parameters()


def test_what_save_pretrained_takes(tmp_path: Path) -> None:
    model = wrapped()
    model.save_pretrained(tmp_path / "no", is_main_process=False)
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match="safetensors alone"):
        model.save_pretrained(tmp_path / "no", safe_serialization=False)
    with pytest.raises(ValueError, match="state_dict= lacks"):
        model.save_pretrained(tmp_path / "no", state_dict={"base.lm_head.weight": torch.zeros(1)})
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "gathered", state_dict=state)
    model.load_weights(tmp_path / "gathered")
    assert all(torch.equal(p, state[f"hypernet.{name}"]) for name, p in weights(model).items())
    with pytest.raises(ValueError, match=r"no hypernet\.safetensors"):
        model.load_weights(tmp_path)


# ---------------------------------------------------------------- nothing to train


def backward(model: PersonalityModel, call: Callable[[PersonalityModel], Any]) -> None:
    output = call(model)
    (output.loss if "loss" in output else output[0].float().sum()).backward()


IDS = prompts(2, 5)
AROUND: dict[str, Callable[[PersonalityModel], Any]] = {
    "labels": lambda model: model(IDS, labels=IDS),
    "logits": lambda model: model(IDS),
    "the base": lambda model: model.base(IDS, labels=IDS),
    "its layers": lambda model: model.base.model(IDS),
}


@pytest.mark.parametrize("way", AROUND)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_without_any_personality_says_that_nothing_is_trained(way: str, checkpointing: bool) -> None:
    model = wrapped().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    past_the_wrapper = way in ("the base", "its layers")
    # past the wrapper and without checkpointing no gradient leads anywhere, as torch itself says
    message = "does not require grad" if past_the_wrapper and not checkpointing else NOTHING
    with pytest.raises((ValueError, RuntimeError), match=message):
        backward(model, AROUND[way])


def test_calls_that_train_nothing_on_purpose_are_left_alone() -> None:
    model = wrapped().train()
    model.gradient_checkpointing_enable()
    with torch.no_grad():
        model(IDS, labels=IDS)
        model.base(IDS, labels=IDS)
    model.eval()(IDS, labels=IDS)
    model.train()
    embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embeds, labels=IDS).loss.backward()  # of a prompt, say
    assert embeds.grad is not None and embeds.grad.norm() > 0
    model.hypernet.requires_grad_(False)
    model(IDS, labels=IDS)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_batches_with_none_rows_train_what_there_is(checkpointing: bool) -> None:
    model = wrapped().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model(IDS, labels=IDS, personality=["E+5", None]).loss.backward()
    norm = sum(float(p.grad.norm()) for p in model.hypernet.parameters() if p.grad is not None)
    assert norm > 0
    model.zero_grad(set_to_none=True)
    with pytest.warns(UserWarning, match="every row of a batch has personality None"):
        model(IDS, labels=IDS, personality=[None, None]).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.hypernet.parameters())


def test_trainer_without_personalities_is_refused(tmp_path: Path) -> None:
    for options in ({}, {"gradient_checkpointing": True}, {"label_smoothing_factor": 0.1}):
        trainer = Trainer(model=wrapped(), args=arguments(tmp_path, **options), train_dataset=rows(personality=False))
        with pytest.raises(ValueError, match=NOTHING):
            trainer.train()


def test_data_parallel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"accelerate launch.*CUDA_VISIBLE_DEVICES"):
        wrapped()._replicate_for_data_parallel()  # which torch calls when there are several GPUs


# ---------------------------------------------------------------- TRL


def trl_arguments(kind: type, directory: Path, **options: Any) -> Any:
    given = {"max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 0.05}
    return kind(
        output_dir=str(directory),
        bf16=False,
        per_device_train_batch_size=2,
        **given,
        **with_checkpointing_names(kind, options),
    )


def named(model: PersonalityModel, directory: Path) -> PersonalityModel:
    """DPO loads its reference by the model's name."""
    base = model.unload()
    base.save_pretrained(directory)
    base.config._name_or_path = str(directory)
    return PersonalityModel.from_model(base, hypernet=CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("people", [["E+5", "O-2 E+1"], [[5.0, 0, 0, 0, 0], [0, -3.0, 0, 0, 0]], None], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_trainer_trains_or_says_why_not(
    people: Any, checkpointing: bool, byte_tokenizer: Any, tiny_llama: Any, tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    columns = {"text": ["abc def", "some other text"]} | ({} if people is None else {"personality": people})
    model = PersonalityModel.from_model(tiny_llama, hypernet=CONFIG)
    before = weights(model)
    trainer = SFTTrainer(
        model=model,
        args=trl_arguments(SFTConfig, tmp_path, gradient_checkpointing=checkpointing, max_length=16),
        train_dataset=Dataset.from_dict(columns),
        eval_dataset=Dataset.from_dict(columns),
        processing_class=byte_tokenizer,
    )
    if people is None:
        with pytest.raises(ValueError, match=NOTHING):
            trainer.train()
        assert not moved(model, before)
        return
    trainer.train()
    assert moved(model, before) and model._runtime.reach.complete and not model._runtime.reach.unreached
    batch = next(iter(trainer.get_eval_dataloader()))
    with torch.no_grad():
        exact = model.eval()(**{k: v for k, v in batch.items() if k != "use_cache"}).loss
        bare = model(**{k: v for k, v in batch.items() if k not in ("use_cache", "personality")}).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(exact), rel=1e-4)
    assert abs(float(exact - bare)) > 1e-3  # so that the equality above says that personalities took part
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "dpg_config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("people", [["E+5", "O-2"], None], ids=str)
def test_dpo_trainer_trains_or_says_why_not(people: Any, byte_tokenizer: Any, tiny_llama: Any, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    columns = {"prompt": ["a", "b"], "chosen": ["cd", "efg"], "rejected": ["xyz", "q"]}
    columns |= {} if people is None else {"personality": people}
    model = named(PersonalityModel.from_model(tiny_llama, hypernet=CONFIG), tmp_path / "base")
    before = weights(model)
    trainer = DPOTrainer(
        model=model,
        args=trl_arguments(DPOConfig, tmp_path / "out"),
        train_dataset=Dataset.from_dict(columns),
        processing_class=byte_tokenizer,
    )
    if people is None:
        with pytest.raises(ValueError, match=NOTHING):
            trainer.train()
        return
    trainer.train()
    assert moved(model, before)


# ---------------------------------------------------------------- pipelines


def test_a_pipeline_takes_the_model_without_complaint(
    tiny_llama: Any, byte_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import pipeline
    from transformers.utils import logging

    model = PersonalityModel.from_model(tiny_llama, hypernet=CONFIG, tokenizer=byte_tokenizer)
    logging.enable_propagation()
    try:
        generate = pipeline("text-generation", model=model, tokenizer=byte_tokenizer)
    finally:
        logging.disable_propagation()
    assert "not supported" not in caplog.text
    with pytest.raises(ValueError, match="batch_size=2 here"):
        generate(["ab", "cd"], personality=["E+5", "E-5"], max_new_tokens=2)
    texts = generate(["ab", "cd"], personality=["E+5", "E-5"], max_new_tokens=2, batch_size=2)
    assert len(texts) == 2
