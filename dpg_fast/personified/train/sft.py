"""The first step: conversational tuning with TRL's ``SFTTrainer``. It may be killed at any time and started again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from dpg_fast.model.disk.artifact import describe_base
from dpg_fast.personality.stages import CharacterCard
from dpg_fast.personified.train.conversations import (
    general_rows,
    load_conversations,
    make_general,
    mixed,
    personified_rows,
    short_name,
)
from dpg_fast.personified.train.runs import claim, curve, token_leak
from dpg_fast.personified.train.settings import SftSettings, trainer_arguments
from dpg_fast.personified.train.tuned import add_lora, add_stages, save_tuned
from dpg_fast.train.attention import grouped
from dpg_fast.train.resume import last_whole_checkpoint
from dpg_fast.util.models import load_base


def run_sft(settings: SftSettings) -> Path:
    """Tune a character on its conversations; the directory of the adapter, or of the model.

    Input, stage tokens and loss follow PersLLM (arXiv 2407.12393): a stage's token before the user's text, loss on the
    assistant's tokens and its end of turn, personified data repeated and mixed with general data. LoRA, the chat template, the
    share of general data and all of the trainer's settings are ours.

    Raises:
        FileNotFoundError, ValueError: settings or data that cannot be used, before any model is loaded where possible.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = settings.data
    found = load_conversations(data)
    given = {"max_length": data.max_length, "seed": 0}
    arguments = trainer_arguments(SFTConfig, settings.output, settings.dtype, settings.trainer, **given)
    settings.output.mkdir(parents=True, exist_ok=True)
    with arguments.main_process_first(desc="settings"):
        told = claim(settings.output, settings)
    base, tokenizer = load_base(settings.model, torch.float32 if settings.full else getattr(torch, settings.dtype))
    if data.general is not None and not data.general.is_file():
        with arguments.main_process_first(desc="general conversations"):
            if not data.general.is_file():
                make_general(base, tokenizer, data.general)
    name = settings.name or short_name(found.character)
    told_base = describe_base(base)  # before it is enlarged
    tokens = add_stages(base, tokenizer, found.stages.values())
    card = CharacterCard(name, found.stages, tokens, told_base["name"], told_base["fingerprint"])

    own = personified_rows(tokenizer, found.train, data.analysis)
    held = personified_rows(tokenizer, found.test, data.analysis)
    general = general_rows(tokenizer, data.general) if data.general is not None and data.general_share else []
    rows = mixed(own, general, data.repeat, data.general_share)
    torch.manual_seed(arguments.seed)
    model = base.requires_grad_(True) if settings.full else add_lora(base, settings.lora, tokens)
    with nullcontext() if settings.full else grouped(base):
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held) if held else None,
        )
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(settings.output))
        figures: dict[str, Any] = trainer.evaluate() if held else {}
        trained = trainer.accelerator.unwrap_model(trainer.model)
        leak = token_leak(trained, held or own, sorted(tokens.values()))
    training = {
        "method": "sft",
        "character": found.character,
        "analysis": data.analysis,
        "settings": told,
        "records": {"train": len(own), "test": len(held), "general": len(general), "rows_of_an_epoch": len(rows)},
        "evaluation": {key: value for key, value in figures.items() if key.startswith("eval_")},
        "stage_tokens_said": leak,
        "curve": curve(trainer),
    }
    directory = settings.output / ("model" if settings.full else "adapter")
    if arguments.should_save:
        save_tuned(directory, trained, tokenizer, card, training)
    trainer.accelerator.wait_for_everyone()
    return directory
