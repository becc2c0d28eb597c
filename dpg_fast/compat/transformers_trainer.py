"""Names of transformers' Trainer, and what it has to be told about a wrapper that is not a ``PreTrainedModel``.

Trainer saves with ``save_pretrained`` only what is an instance of ``PreTrainedModel`` or ``PeftModel``. Of anything else it
writes the whole state dict, which fails with tied embeddings and which nothing reads back as an adapter. TRL's trainers keep
the columns that they know alone, and their collators too. :func:`serve_trainer` extends three methods of Trainer for models of
one class; for every other model they do what they did. Importing this module does not import transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from dpg_fast.compat.hooks import require

TRAINER_STATE = "trainer_state.json"
"""The last file of a checkpoint that Trainer writes."""

CHECKPOINT = "checkpoint"
"""Checkpoints are directories of this name, a hyphen and a number of steps."""

CLASSES_OF_PIPELINES = "SUPPORTED_PEFT_TASKS"
"""In ``transformers.pipelines.base``: task -> names of classes that a pipeline accepts besides its own."""

_SERVED: list[type] = []


class Savable(Protocol):
    """What :func:`serve_trainer` needs of a class."""

    def save_pretrained(
        self, directory: Any, *, state_dict: Mapping[str, Any] | None = None, is_main_process: bool = True
    ) -> None:
        """Write a directory; ``state_dict`` is the whole model's where it had to be gathered."""

    def load_weights(self, directory: Any) -> None:
        """Read the trained weights of such a directory."""


def serve_trainer(own: type[Savable], columns: Sequence[str]) -> None:
    """Let Trainer and its subclasses save models of a class with their ``save_pretrained``, read them with their
    ``load_weights``, and keep columns of the data for them. Doing so twice changes nothing.

    Args:
        own: the class.
        columns: kept in data sets that have them, and handed to the model whatever the collator does; the first is one value
            for each row.

    Raises:
        RuntimeError: this version of Trainer lacks one of the methods.
    """
    if own in _SERVED:
        return
    from transformers import Trainer

    methods: dict[str, Callable[[type, Callable[..., Any]], Callable[..., Any]]] = {
        "_save": _saving,
        "_load_from_checkpoint": _loading,
        "_load_best_model": _loading_best,
        "_get_dataloader": functools.partial(_keeping, columns),
    }
    changed = {
        name: change(own, require(Trainer, name, f"{own.__name__} is saved and trained through it"))
        for name, change in methods.items()
    }
    for name, method in changed.items():
        setattr(Trainer, name, method)
    _SERVED.append(own)


def _saving(own: type, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _save(self: Any, *args: Any, **kwargs: Any) -> None:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not isinstance(model, own):
            return original(self, *args, **kwargs)
        kept = self.model
        self.model = _stand_in(model)
        try:
            original(self, *args, **kwargs)
        finally:
            self.model = kept

    return _save


def _loading(own: type, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        found = self.accelerator.unwrap_model(self.model if model is None else model, keep_torch_compile=False)
        if not isinstance(found, own):
            return original(self, resume_from_checkpoint, model)
        found.load_weights(resume_from_checkpoint)  # type: ignore[attr-defined]

    return _load_from_checkpoint


def _loading_best(own: type, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def _load_best_model(self: Any) -> None:
        found = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not isinstance(found, own):
            return original(self)
        found.load_weights(self.state.best_model_checkpoint)  # type: ignore[attr-defined]

    return _load_best_model


def _keeping(columns: Sequence[str], own: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _get_dataloader(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        present = [name for name in columns if name in (getattr(dataset, "column_names", None) or ())]
        if not isinstance(model, own) or not present:
            return original(self, dataset, *args, **kwargs)
        self._set_signature_columns_if_needed()
        self._signature_columns += [name for name in present if name not in self._signature_columns]
        kept = self.data_collator
        if present[0] == columns[0]:
            self.data_collator = KeepColumn(kept, columns[0])
        try:
            return original(self, dataset, *args, **kwargs)
        finally:
            self.data_collator = kept

    return _get_dataloader


class KeepColumn:
    """A data collator that adds a column to what another collator makes of the examples, unless that has it already.

    Args:
        collator: examples -> batch with ``input_ids`` [rows, length]. With several rows for each example, as in preference
            training (all chosen ones, then all rejected ones), the values are repeated in that order.
        column: its values go into the batch as a list, or as a tensor where all are lists of numbers.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Any], column: str) -> None:
        self.collator = collator
        self.column = column

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        import torch

        values = [example[self.column] for example in examples]
        batch = self.collator(examples)
        if self.column in batch:
            return batch
        rows = int(batch["input_ids"].shape[0]) if "input_ids" in batch else len(values)
        if rows % len(values):
            raise ValueError(
                f"the collator made {rows} rows of {len(values)} examples, so it cannot be told which {self.column} belongs "
                "to which; use HypernetTrainer (whose pack= keeps them apart), or turn packing and padding-free batches off"
            )
        values = values * (rows // len(values))
        numbers = all(isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) for value in values)
        batch[self.column] = (
            torch.stack([torch.as_tensor(v, dtype=torch.float32) for v in values]) if numbers else values
        )
        return batch


@functools.cache
def _stand_in_class() -> type:
    from transformers import PreTrainedModel

    class StandIn(PreTrainedModel):  # type: ignore[misc]
        """What Trainer recognises as saved by ``save_pretrained``, which is another object's."""

        def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
            self.__dict__["stands_for"].save_pretrained(*args, **kwargs)

    return StandIn


def _stand_in(model: Any) -> Any:
    kind: Any = _stand_in_class()
    made = kind.__new__(kind)  # no weights: Trainer calls save_pretrained() and nothing else
    made.__dict__["stands_for"] = model
    return made


def serve_pipelines(own: type, task: str = "text-generation") -> None:
    """Let pipelines of ``task`` accept a class without the line that says they do not.

    Raises:
        RuntimeError: this version has no such list.
    """
    from transformers.pipelines import base

    accepted = getattr(base, CLASSES_OF_PIPELINES, None)
    if not isinstance(accepted, dict) or task not in accepted:
        raise RuntimeError(f"this version of transformers has no {CLASSES_OF_PIPELINES}[{task!r}]")
    if own.__name__ not in accepted[task]:
        accepted[task].append(own.__name__)
