"""Settings of the two steps of personified tuning: conversations, then preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.compat.transformers import with_checkpointing_names
from dpg_fast.train.settings import DTYPES
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED

PAIR_KINDS = ("personality", "stage")


@dataclass(frozen=True)
class ConversationSettings:
    """What is learnt from in the first step.

    Args:
        records: folders that ``dpg-fast data personified build`` wrote, or JSON Lines files of such records.
        character: whose records are used; may be left out where all are of one character.
        repeat: how often each record comes up in an epoch (PersLLM: 5).
        general: JSON Lines of general conversations (``messages``), mixed in without a stage token; where there is no such file,
            the base model's own answers to the instructions of `dpg_fast.personified.data.general` are written there.
            None: nothing is mixed in.
        general_share: share of an epoch's rows that are general (ours; PersLLM's is not published).
        analysis: learn the "[Analysis]" before the "[Response]" as well (PersLLM's chain of thought); else the responses alone.
        max_length: tokens of a conversation; what is longer is cut.
    """

    records: tuple[Path, ...]
    character: str = ""
    repeat: int = 5
    general: Path | None = None
    general_share: float = 0.2
    analysis: bool = False
    max_length: int = 1024

    def __post_init__(self) -> None:
        if not self.records:
            raise DPGError("data.records: name at least one folder or file")
        if self.repeat < 1 or not 0 <= self.general_share < 1 or self.max_length < 2:
            raise DPGError("data: repeat is at least 1, general_share lies in 0..1 without 1, max_length is at least 2")


@dataclass(frozen=True)
class LoraSettings:
    """Sizes of the LoRA adapter; ``targets`` are names of linear layers, or "all-linear"."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise DPGError("lora: rank is at least 1, alpha above 0, dropout in 0..1 without 1, targets not empty")


@dataclass(frozen=True)
class SftSettings:
    """Everything that a run of the first step depends on.

    Args:
        output: directory of checkpoints and, at the end, of ``adapter`` (``model`` with full parameters).
        data: what is learnt from.
        model: Hub id or directory; "smollm2" is the bundled one.
        dtype: of the base model and the products; what is trained is float32, but for full parameters.
        name: by which the character is asked for when it is served; made from the character's own name if empty.
        lora: sizes.
        full: train all parameters, as PersLLM did, instead of a LoRA adapter.
        trainer: fields of TRL's ``SFTConfig``, checked by it.
    """

    output: Path
    data: ConversationSettings
    model: str = BUNDLED
    dtype: str = "bfloat16"
    name: str = ""
    lora: LoraSettings = field(default_factory=LoraSettings)
    full: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_run(self.dtype, self.trainer)


@dataclass(frozen=True)
class PairDataSettings:
    """What is learnt from in the second step.

    Args:
        files: folders that ``dpg-fast data personified pairs`` wrote, or JSON Lines files of pairs.
        kinds: "personality" (somebody else's answer is rejected), "stage" (that of another time), or both.
        held_out: share of the questions whose pairs are kept for the evaluation (by a hash of the question's id).
        max_length: tokens of a conversation; what is longer is cut.
    """

    files: tuple[Path, ...]
    kinds: tuple[str, ...] = PAIR_KINDS
    held_out: float = 0.1
    max_length: int = 1024

    def __post_init__(self) -> None:
        if not self.files:
            raise DPGError("pairs.files: name at least one folder or file")
        if not self.kinds or set(self.kinds) - set(PAIR_KINDS):
            raise DPGError(f"pairs.kinds are some of {', '.join(PAIR_KINDS)}, not {', '.join(self.kinds) or 'none'}")
        if not 0 <= self.held_out < 1 or self.max_length < 2:
            raise DPGError("pairs: held_out lies in 0..1 without 1, max_length is at least 2")


@dataclass(frozen=True)
class DpoSettings:
    """Everything that a run of the second step depends on.

    Args:
        output: as in the first step.
        sft: what the first step wrote, ``.../adapter`` or ``.../model``; start and reference of this one.
        pairs: what is learnt from.
        model: the base model of an adapter.
        dtype: as in the first step.
        trainer: fields of TRL's ``DPOConfig``, checked by it (beta, loss_type ...).
    """

    output: Path
    sft: Path
    pairs: PairDataSettings
    model: str = BUNDLED
    dtype: str = "bfloat16"
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_run(self.dtype, self.trainer)


def check_run(dtype: str, trainer: Mapping[str, Any]) -> None:
    """Refuse an unknown dtype and fields of the trainer that have another name here."""
    if dtype not in DTYPES:
        raise DPGError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    for theirs, ours in (("output_dir", "output"), ("max_length", "max_length (of the data)"), ("bf16", "dtype")):
        if theirs in trainer:
            raise DPGError(f"trainer.{theirs} is called {ours} here")


def trainer_arguments(kind: type, output: Path, dtype: str, trainer: Mapping[str, Any], **given: Any) -> Any:
    """A trainer's arguments: TRL's defaults, but no gradient checkpointing, one epoch, and no tracker unless named.

    Raises:
        ValueError: a field that it does not have or accept.
    """
    import torch

    chosen = {
        "num_train_epochs": 1,
        "report_to": "none",
        "save_total_limit": 2,
        **with_checkpointing_names(kind, {"gradient_checkpointing": False}),
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        **given,
        **with_checkpointing_names(kind, trainer),
    }
    try:
        return kind(output_dir=str(output), **chosen)
    except TypeError as error:
        raise DPGError(f"trainer: {error}") from None
