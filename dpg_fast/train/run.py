"""A whole training run: lessons, rows, trainer, adapter. It may be killed at any time and started again."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from dpg_fast.compat.transformers import with_checkpointing_names
from dpg_fast.hypernet import HypernetConfig, HyperNetwork, TextEncoder
from dpg_fast.model import PersonalityModel
from dpg_fast.model.cost import hypernet_cost, time_to_generate
from dpg_fast.text.personas import score_text
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.train.attention import grouped
from dpg_fast.train.lessons import load_lessons, make_lessons
from dpg_fast.train.resume import claim, last_whole_checkpoint
from dpg_fast.train.rows import Rows, Source, taught_sources, text_sources
from dpg_fast.train.settings import DataSettings, TrainSettings
from dpg_fast.train.trainer import HypernetTrainer
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import Count


def run_training(settings: TrainSettings, progress: Count | None = None) -> Path:
    """Make missing lessons, train, and write the adapter (or the baseline's LoRA); its directory.

    Args:
        settings: of the run. Checkpoints in ``settings.output`` are continued from if they are of the same run.
        progress: of the lessons; the trainer shows its own.

    Raises:
        ValueError: settings that the trainer does not accept, data that cannot be learnt from, or an output that holds
            checkpoints of another run.
        OSError: a file of records cannot be read.
    """
    arguments = trainer_arguments(settings)
    for file in settings.data.records:  # before anything is loaded or made
        if all(record.personality is None for record in read_records(file, DialogueRecord)):
            raise DPGError(f"no record of {file} has a personality")
    base, tokenizer = load_base(settings.model, getattr(torch, settings.dtype))
    checkpoint = last_whole_checkpoint(settings.output)  # before any process can write the next one
    with arguments.main_process_first(desc="lessons"):
        claim(settings, base)
        sources = load_sources(settings, base, tokenizer, progress)
    torch.manual_seed(arguments.seed)
    model = PersonalityModel.from_model(base, hypernet=_network(settings), tokenizer=tokenizer)
    if settings.plain_lora:
        assert isinstance(model.hypernet, HyperNetwork)
        model.hypernet.trunk.requires_grad_(False)  # its one code stays the constant 1
    rows = Rows(sources, settings.data.visits, arguments.seed)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with grouped(base) if settings.grouped_attention else nullcontext():
        if arguments.process_index == 0:
            print(model.describe(), flush=True)
            _tell_cost(model)
        trainer = HypernetTrainer(model, arguments, rows, pad, pack=settings.data.pack)
        trainer.train(resume_from_checkpoint=checkpoint)
    if settings.plain_lora:
        return trainer.save_lora(settings.output / "lora")
    directory = settings.output / "adapter"
    trainer.save_adapter(directory)
    return directory


def _tell_cost(model: PersonalityModel) -> None:
    """Print what the hypernetwork costs; its text encoder is fitted on the way."""
    assert isinstance(model.hypernet, HyperNetwork)
    begin = time.perf_counter()
    if isinstance(model.hypernet.encoder, TextEncoder) and not model.hypernet.encoder.fitted:
        model.hypernet.encoder.fit()
        print(f"text encoder fitted in {time.perf_counter() - begin:.0f} s", flush=True)
    milliseconds = 1000 * time_to_generate(model)
    print(f"{hypernet_cost(model.hypernet)}; {milliseconds:.1f} ms measured until one is ready", flush=True)


def _network(settings: TrainSettings) -> HypernetConfig:
    if not settings.plain_lora:
        return settings.hypernet
    return dataclasses.replace(settings.hypernet, codes=1, depth=0, encoder="scores", head="bank")


def trainer_arguments(settings: TrainSettings) -> TrainingArguments:
    """The Trainer's arguments: its own defaults, but one epoch (visits count instead), no tracker unless named.

    Raises:
        ValueError: a field that it does not have or accept.
    """
    trainer = with_checkpointing_names(TrainingArguments, settings.trainer)
    chosen = {"num_train_epochs": 1, "report_to": "none", "save_total_limit": 2, **trainer}
    try:
        return TrainingArguments(output_dir=str(settings.output), **chosen)
    except TypeError as error:
        raise DPGError(f"trainer: {error}") from None


def load_sources(settings: TrainSettings, base: Any, tokenizer: Any, progress: Count | None = None) -> list[Source]:
    """What ``settings.data`` names; lessons that are not there yet are made."""
    data: DataSettings = settings.data
    spoken: list[Source] = []
    for file in data.records:
        records = read_records(file, DialogueRecord)
        spoken += text_sources(records, tokenizer, data.max_length, system=settings.teaching.system)
    sources: list[Source] = []
    if data.lessons is not None:
        files = make_lessons(base, tokenizer, data.lessons, settings.teaching, progress)
        persona = score_text if settings.plain_lora else None
        lessons = load_lessons(files)
        sources += taught_sources(lessons, tokenizer, strength=data.strength, redraw=data.redraw, persona=persona)
    return sources + spoken
