"""The second step: automatic DPO with TRL's ``DPOTrainer``, the character as it was after the first step being the reference.

Why: docs/decisions.md, "Personified tuning on TRL".
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from dpg_fast.compat.hooks import overrides_hook
from dpg_fast.compat.peft import DEFAULT_ADAPTER, adapters
from dpg_fast.compat.trl import REFERENCE_ADAPTER
from dpg_fast.personified.train.conversations import row_of, spoken
from dpg_fast.personified.train.preferences import load_pairs, margins, score_pairs, trl_rows, words_of
from dpg_fast.personified.train.runs import claim, curve, token_leak
from dpg_fast.personified.train.settings import DpoSettings, trainer_arguments
from dpg_fast.personified.train.tuned import check_tuned, is_adapter, load_tuned, read_training, save_tuned
from dpg_fast.train.attention import grouped
from dpg_fast.train.resume import last_whole_checkpoint
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import load_base


def reference_rows(model: Any) -> int:
    """Make the reference adapter a true copy of the one that is trained; how many parameters were not.

    TRL adds the adapter "ref" and copies what has ".default." inside its name (trl 1.16). The trained rows of stage tokens are
    called "...trainable_tokens_delta.default", so the reference would keep untrained ones: the rewards would not be 0 at the
    start, and the stages would mean nothing to it. Call it before the first step.

    Raises:
        ValueError: there is no reference adapter, so TRL would take the bare base model for it.
    """
    if REFERENCE_ADAPTER not in (adapters(model) or ()):
        raise DPGError("the trainer made no reference adapter; the bare base model would be the reference")
    parameters = dict(model.named_parameters())
    changed = 0
    for name, parameter in parameters.items():
        parts = name.split(".")
        if DEFAULT_ADAPTER not in parts:
            continue
        copied = parameters[".".join(REFERENCE_ADAPTER if part == DEFAULT_ADAPTER else part for part in parts)]
        if not torch.equal(copied, parameter):
            copied.data.copy_(parameter.data)
            changed += 1
        copied.requires_grad_(False)
    return changed


def dpo_trainer(model: Any, reference: Any, arguments: Any, tokenizer: Any, train: Any, held: Any) -> Any:
    """TRL's trainer with the reference done right.

    Args:
        model: a PEFT model whose adapter "default" is the start, or a whole model.
        reference: None for a PEFT model, whose frozen adapter copy serves; a frozen copy of a whole model.
        arguments: ``DPOConfig``.
        tokenizer: with the stage tokens.
        train, held: datasets in TRL's conversational form; ``held`` may be None.
    """
    from trl import DPOTrainer

    class Trainer(DPOTrainer):
        @overrides_hook
        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:  # also runs inside __init__, when precomputing
            if reference is None and self.state.global_step == 0:
                reference_rows(self.accelerator.unwrap_model(self.model))
            return super().compute_ref_log_probs(model, inputs)

    trainer = Trainer(
        model=model,
        ref_model=reference,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=held,
    )
    if reference is None:
        reference_rows(trainer.model)
    return trainer


def run_dpo(settings: DpoSettings) -> Path:
    """Tune a character on its pairs; the directory of the adapter, or of the model.

    PersLLM (arXiv 2407.12393) publishes where the rejected sides come from, but no trainer, beta, rate or number of pairs: those
    are ours, and are kept in ``training.json``.

    Raises:
        FileNotFoundError, ValueError: settings or data that cannot be used, before any model is loaded where possible.
    """
    from datasets import Dataset
    from trl import DPOConfig

    card, tokenizer = check_tuned(settings.sft)
    before = read_training(settings.sft)
    analysis = bool(before.get("analysis", False))
    pairs = load_pairs(settings.pairs, card.character, list(card.stages.values()))
    train, held = trl_rows(pairs.train, analysis), trl_rows(pairs.held, analysis)
    given = {"max_length": settings.pairs.max_length, "seed": 0, "learning_rate": 5e-5}
    arguments = trainer_arguments(DPOConfig, settings.output, settings.dtype, settings.trainer, **given)
    settings.output.mkdir(parents=True, exist_ok=True)
    with arguments.main_process_first(desc="settings"):
        told = claim(settings.output, settings)

    adapter = is_adapter(settings.sft)
    reference = None
    if adapter:
        base, _ = load_base(settings.model, getattr(torch, settings.dtype))
        model, tokenizer, card = load_tuned(settings.sft, base, trainable=True)
    else:
        model, tokenizer, card = load_tuned(settings.sft, dtype=torch.float32)
        reference = copy.deepcopy(model).requires_grad_(False)
    judged = pairs.held or pairs.train
    with grouped(base) if adapter else nullcontext():
        start = score_pairs(model, tokenizer, judged, analysis)
        trainer = dpo_trainer(
            model,
            reference,
            arguments,
            tokenizer,
            Dataset.from_list(train),
            Dataset.from_list(held) if held else None,
        )
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(settings.output))
        trained = trainer.accelerator.unwrap_model(trainer.model)
        end = score_pairs(trained, tokenizer, judged, analysis)
        rows = [
            row_of(tokenizer, [*r["prompt"], *spoken(p.chosen, analysis)], None)
            for r, p in zip(held or train, judged, strict=True)
        ]
        leak = token_leak(trained, rows, sorted(card.tokens.values()))
    lengths = words_of([*pairs.train, *pairs.held], analysis)
    training = {
        "method": "dpo",
        "character": before.get("character", card.character),
        "analysis": analysis,
        "settings": told,
        "beta": arguments.beta,
        "loss_type": arguments.loss_type,
        "pairs": pairs.statistics(),
        "words_as_trained": lengths.model_dump() if lengths else None,
        "rewards": {"on": "held out" if pairs.held else "train"} | margins(end, start, arguments.beta),
        "stage_tokens_said": leak,
        "curve": curve(trainer),
        "sft": {key: before.get(key) for key in ("settings", "records", "evaluation")},
    }
    directory = settings.output / ("adapter" if adapter else "model")
    if arguments.should_save:
        save_tuned(directory, trained, tokenizer, card, training)
    trainer.accelerator.wait_for_everyone()
    return directory
