"""What ours override, set and read in trainers is there; a release that renames it stops the start, not the effect."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import transformers.trainer
from datasets import Dataset
from transformers import AutoConfig, Trainer, TrainingArguments

import dpg_fast.train.trainer
from dpg_fast import PersonalityModel
from dpg_fast.compat import peft, trl
from dpg_fast.compat import transformers_models as models
from dpg_fast.compat import transformers_trainer as compat
from dpg_fast.compat.hooks import overrides_hook, require, set_known
from dpg_fast.hypernet import HypernetConfig
from dpg_fast.train import HypernetTrainer
from dpg_fast.train.resume import FREE
from tests.model.tiny import tiny_model

OURS = ("compute_loss", "prediction_step")
EXTENDED = ("_save", "_load_from_checkpoint", "_load_best_model", "_get_dataloader")


class Parent:
    def hook(self) -> int:
        return 1


def test_an_override_of_what_no_parent_has_is_an_error() -> None:
    class Child(Parent):
        @overrides_hook
        def hook(self) -> int:
            return super().hook() + 1

    assert Child().hook() == 2
    with pytest.raises(RuntimeError) as error:

        class Late(Parent):
            @overrides_hook
            def renamed(self) -> int:
                return 2

    assert "has no renamed, and Late overrides it" in f"{error.value} {error.value.__cause__}"


def test_an_attribute_that_nobody_reads_is_not_set() -> None:
    thing = Parent()
    with pytest.raises(RuntimeError, match="Parent of tests has no attribute colour"):
        set_known(thing, colour=1)
    set_known(thing, hook=3)
    assert thing.hook == 3  # type: ignore[comparison-overlap]


def fresh(module: ModuleType) -> None:
    """Run a module's source once more, beside the one in use."""
    spec = importlib.util.spec_from_file_location("again", str(module.__file__))
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def renamed(kind: type, name: str) -> type:
    """A test double of a trainer in which a method has another name."""
    members = {key: value for one in reversed(kind.__mro__[:-1]) for key, value in vars(one).items()}
    members[f"{name}_of_the_next_release"] = members.pop(name)
    members.pop("__dict__", None)
    members.pop("__weakref__", None)
    return type(kind.__name__, (), members)


@pytest.mark.parametrize("name", OURS)
def test_a_renamed_method_of_trainer_stops_the_import(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name in vars(HypernetTrainer)
    fresh(dpg_fast.train.trainer)
    monkeypatch.setattr(transformers, "Trainer", renamed(Trainer, name))
    with pytest.raises(RuntimeError) as error:
        fresh(dpg_fast.train.trainer)
    assert f"has no {name}" in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize("name", EXTENDED)
def test_a_renamed_method_that_saves_or_keeps_columns_stops_the_trainer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own:
        pass

    monkeypatch.setattr(transformers, "Trainer", renamed(Trainer, name))
    with pytest.raises(RuntimeError, match=f"Trainer of transformers .* has no {name}"):
        compat.serve_trainer(Own, ("personality",))  # type: ignore[arg-type]


def test_trainer_asks_what_tells_it_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(PersonalityModel, "accepts_loss_kwargs", property(lambda self: asked.append(self) or True))
    model = PersonalityModel.from_model(tiny_model("llama"), hypernet=HypernetConfig(rank=2, codes=2))
    Trainer(model=model, args=TrainingArguments(str(tmp_path), use_cpu=True))
    assert asked


@pytest.mark.parametrize("name", OURS)
def test_trainer_calls_what_ours_overrides(name: str, tmp_path: Path) -> None:
    called = []

    def method(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return getattr(Trainer, name)(self, model, inputs, *args, **kwargs)

    kind = type("Counting", (Trainer,), {name: method})
    ids = [[1, 2, 3]] * 2
    data = Dataset.from_dict({"input_ids": ids, "labels": ids})
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, report_to="none", save_strategy="no")
    trainer = kind(model=tiny_model("llama"), args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    trainer.evaluate()
    assert called


def test_files_of_checkpoints_and_fields_of_arguments() -> None:
    assert compat.TRAINER_STATE == transformers.trainer.TRAINER_STATE_NAME
    assert compat.CHECKPOINT == transformers.trainer.PREFIX_CHECKPOINT_DIR
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {*FREE, "remove_unused_columns", "label_names"} <= fields


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("final_logit_softcapping", "gemma2"),
        ("logit_scale", "cohere"),
        ("logits_scaling", "granite"),
        ("lm_head_multiplier", "falcon_h1"),
        ("logits_soft_cap", "recurrent_gemma"),
    ],
)
def test_settings_that_change_logits_have_these_names(name: str, family: str) -> None:
    assert name in LOGIT_SETTINGS
    assert hasattr(AutoConfig.for_model(family), name)
    logits = torch.tensor([-2.0, 0.7])
    changed = models.finish_logits(SimpleNamespace(**{name: 0.5}), logits)
    assert not torch.allclose(changed, logits)
    assert torch.equal(models.finish_logits(SimpleNamespace(**{"logits_scaling": 1.0, name: None}), logits), logits)


LOGIT_SETTINGS = (*models.LOGIT_FACTORS, *models.LOGIT_DIVISORS, *models.LOGIT_CAPS)
#: of attention, routers, gates and images
ELSEWHERE = re.compile(r"attn|router|gate|mlp|init_value|max_logit_scale")


def test_no_configuration_has_a_setting_of_logits_that_is_unknown_here() -> None:
    found = set()
    for file in Path(transformers.__file__).parent.glob("models/*/configuration_*.py"):
        found |= set(
            re.findall(r"^    (\w*(?:soft_?cap|logits?_scal|lm_head_mul|output_mul)\w*)\s*:", file.read_text(), re.M)
        )
    assert found >= {"final_logit_softcapping", "logits_scaling"}
    assert {name for name in found if not ELSEWHERE.search(name)} <= set(LOGIT_SETTINGS)


def test_logits_that_are_changed_in_an_unknown_way_are_learnt_as_they_are() -> None:
    from dpg_fast.train.loss import batch_loss

    base = tiny_model("llama")
    forward = type(base).forward

    class Scaled(type(base)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = forward(self, *args, **kwargs)
            output.logits = output.logits * 1.5
            return output

    batch = {
        "input_ids": torch.tensor([[3, 4, 5]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.int64),
        "personality": torch.tensor([[1.0, 0, 0, 0, 0]]),
        "positions": torch.tensor([[1]]),
        "candidates": torch.tensor([[[5]]]),
        "log_target": torch.zeros(1, 1, 1),
    }
    scaled = tiny_model("llama")
    scaled.__class__ = Scaled
    for model in (base, scaled):
        wrapped = PersonalityModel.from_model(model, hypernet=HypernetConfig(rank=2, codes=2))
        for _ in range(2):  # the first batch finds out how, the second knows
            loss, count = batch_loss(wrapped, batch)
            wanted = wrapped(batch["input_ids"], personality=batch["personality"]).logits[0, 1].log_softmax(-1)[5]
            assert count == 1
            torch.testing.assert_close(loss, -wanted)
        wrapped.unload()


def test_names_of_peft(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors import safe_open

    base = tiny_model("llama", tie_word_embeddings=True)
    model: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 5]))
    assert list(peft.adapters(model) or ()) == [peft.DEFAULT_ADAPTER] and peft.adapters(tiny_model("llama")) is None
    assert peft.underlying(model) is base and peft.underlying(base) is base
    assert hasattr(model.get_output_embeddings(), peft.WRAPPED_MODULE)
    model.save_pretrained(tmp_path)
    assert peft.TRAINED_TOKEN_IDS in (tmp_path / peft.ADAPTER_CONFIG).read_text()
    with safe_open(tmp_path / peft.ADAPTER_WEIGHTS, "pt") as file:
        assert any(peft.TRAINED_TOKENS in key for key in file.keys())  # noqa: SIM118


def test_names_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    import trl as library

    from dpg_fast.personified.train.dpo import dpo_trainer

    require(library.DPOTrainer, trl.REFERENCE_LOSS, "DPO overrides it")
    monkeypatch.setattr(library, "DPOTrainer", renamed(library.DPOTrainer, trl.REFERENCE_LOSS))
    with pytest.raises(RuntimeError) as error:
        dpo_trainer(None, None, None, None, None, None)
    assert f"has no {trl.REFERENCE_LOSS}" in f"{error.value} {error.value.__cause__}"


@pytest.mark.slow
def test_the_reference_adapter_of_trl_has_this_name(byte_tokenizer: Any, tiny_llama: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    rows = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = DPOTrainer(
        model=get_peft_model(tiny_llama, LoraConfig(target_modules=["q_proj"])),
        args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
        processing_class=byte_tokenizer,
        train_dataset=rows,
    )
    assert trl.REFERENCE_ADAPTER in trainer.model.peft_config
    assert peft.DEFAULT_ADAPTER in trainer.model.peft_config


def test_a_pipeline_without_a_list_of_classes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.pipelines import base

    monkeypatch.delattr(base, compat.CLASSES_OF_PIPELINES)
    with pytest.raises(RuntimeError, match=compat.CLASSES_OF_PIPELINES):
        compat.serve_pipelines(PersonalityModel)
