"""What trainers ask of a model: recomputed layers, and a backward pass that reaches the hypernetwork or says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dpg_fast.compat.hooks import overrides_hook
from dpg_fast.compat.transformers import enable_checkpointing
from dpg_fast.model.training.untrained import NOTHING, anchored
from dpg_fast.model.wrapped import Wrapped
from dpg_fast.personality.row import Row
from dpg_fast.util.errors import DPGError

__all__ = ["Trainable"]


class Trainable(Wrapped):
    """The part of :class:`PersonalityModel` that trainers use."""

    _checkpointing: dict[str, Any]

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Checkpoint the base model's layers; recomputation in the backward pass sees the same personalities."""
        given = {"gradient_checkpointing_kwargs": gradient_checkpointing_kwargs, **kwargs}
        options = dict(gradient_checkpointing_kwargs or {})
        if options.get("use_reentrant"):
            raise DPGError("re-entrant checkpointing cannot carry a personality; leave use_reentrant out or False")
        options |= {"use_reentrant": False, "context_fn": self._runtime.checkpoint_contexts}
        enable_checkpointing(self.base, options, **kwargs)
        self._runtime.checkpointing = True
        self._checkpointing = given

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """The same under the name that newer trainers call."""
        options = {name: value for name, value in kwargs.items() if value not in (None, False, 1)}
        self.gradient_checkpointing_enable(gradient_checkpointing_kwargs=activation_checkpointing_kwargs, **options)

    @overrides_hook
    def _replicate_for_data_parallel(self) -> Any:
        raise DPGError(
            "nn.DataParallel, which Trainer uses for several GPUs in one process, would run replicas with the changes of "
            "the original; start the script with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU"
        )

    def _finisher(self, items: Sequence[Row | None], given: bool, kwargs: dict[str, Any]) -> Callable[[Any], Any]:
        """A backward pass from a call without any personality is an error unless something else is trained by it."""
        embeds = kwargs.get("inputs_embeds")
        learns = any(item is not None for item in items) or not (self.training and torch.is_grad_enabled())
        if learns or not self._runtime.only_hypernet_trains() or (embeds is not None and embeds.requires_grad):
            return lambda output: output
        if not given and kwargs.get("labels") is not None:
            raise DPGError(NOTHING)
        if given:
            warnings.warn("every row of a batch has personality None: nothing is learnt from it", stacklevel=5)
        assert self.hypernet is not None
        trained = [p for p in self.hypernet.parameters() if p.requires_grad]
        return lambda output: anchored(output, trained, given)
