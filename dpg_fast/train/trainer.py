"""transformers' Trainer for a hypernetwork: a personality for each row, targets at the learnt positions, small checkpoints.

TRL's SFTTrainer was tried and not used: it can train a `PersonalityModel` on one personality for each row, but its packing and
data preparation keep no further columns, so nothing of it would have been left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from dpg_fast.compat.hooks import overrides_hook, set_known
from dpg_fast.hypernet import HyperNetwork
from dpg_fast.model import PersonalityModel
from dpg_fast.model.disk.artifact import HYPERNET
from dpg_fast.personality.scores import Personality
from dpg_fast.train.loss import batch_loss
from dpg_fast.train.rows import Rows, collate
from dpg_fast.util.errors import DPGError

WEIGHTS = HYPERNET


class HypernetTrainer(Trainer):
    """Trains the hypernetwork of a `PersonalityModel`; the base model stays as it is.

    Resuming, logging, schedules, mixed precision, gradient accumulation and checkpointing, several processes and trackers
    are the Trainer's own. Checkpoints are adapters (with float32 masters), without the base model.

    Args:
        model: with a `HyperNetwork`.
        arguments: of the Trainer.
        rows: to learn from.
        pad_token: id that fills short rows.
        evaluation: rows whose loss is reported on the way.
        pack: tokens of a line into which several rows are packed; 0 gives each row a line.
        **options: passed to the Trainer (``callbacks`` ...).

    Raises:
        ValueError: the model has nothing to train.
    """

    def __init__(
        self,
        model: PersonalityModel,
        arguments: TrainingArguments,
        rows: Rows,
        pad_token: int,
        evaluation: Rows | None = None,
        pack: int = 0,
        **options: Any,
    ) -> None:
        if not isinstance(model.hypernet, HyperNetwork):
            raise DPGError("the model has no hypernetwork to train; give from_model() a HypernetConfig")
        # rows are not dictionaries of columns
        set_known(arguments, remove_unused_columns=False, label_names=["positions"])
        super().__init__(
            model=model,
            args=arguments,
            data_collator=lambda found: collate(found, pad_token, pack),
            train_dataset=rows,
            eval_dataset=evaluation,
            **options,
        )
        # the loss is a mean of its own; the Trainer divides by accumulation steps
        set_known(self, model_accepts_loss_kwargs=False)

    @overrides_hook
    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss for each learnt position, in nats."""
        total, count = batch_loss(model, inputs)
        loss = total / count.clamp_min(1)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    @overrides_hook
    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss alone."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def save_adapter(self, directory: Path, notes: str = "") -> None:
        """Write the adapter with its bank in bfloat16 (half the size); from the main process alone.

        Args:
            directory: made if needed.
            notes: Markdown for the card.
        """
        model = self._trained()
        if self.args.should_save:
            model.save_pretrained(directory, notes=notes, bank_dtype=torch.bfloat16)

    def save_lora(self, directory: Path) -> Path:
        """Write the neutral personality's LoRA in PEFT's format, for baselines that have one personality; the directory."""
        model = self._trained()
        if self.args.should_save:
            model.to_peft(Personality(), directory, overwrite=True)
        return directory

    def _trained(self) -> Any:
        """The model, its hypernetwork gathered where several processes hold parts of it."""
        state = self.accelerator.get_state_dict(self.model_wrapped)
        model = self.accelerator.unwrap_model(self.model)
        if self.args.should_save:
            found = {n.removeprefix("hypernet."): t for n, t in state.items() if n.startswith("hypernet.")}
            model.hypernet.load_state_dict(found)
        return model
