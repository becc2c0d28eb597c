"""Read the ``personality=`` of a call: one for all rows, or one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dpg_fast.personality.description import Description
from dpg_fast.personality.scores import Character, Personality
from dpg_fast.util.errors import DPGError

Row: TypeAlias = Personality | Description | Character | None
RowLike: TypeAlias = Row | str | Mapping[str, float] | Tensor | np.ndarray[Any, Any]
PersonalityLike: TypeAlias = RowLike | Sequence[RowLike]


def read_rows(value: PersonalityLike, rows: int) -> list[Row]:
    """One personality for each of ``rows`` rows.

    A single value (a Personality, a string such as ``"E+4 N-2"``, a mapping, a Description, a Character, a tensor or
    NumPy array [5] of scores, None) counts for all rows; a sequence or a tensor [rows, 5] gives one for each.

    Raises:
        ValueError: another number of personalities than rows.
        TypeError: something that is not a personality.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        value = _from_tensor(value)
    if isinstance(value, (list, tuple)):
        if len(value) != rows:
            raise DPGError(
                f"{len(value)} personalities were given for {rows} rows; give one for each row, or a single one for all "
                f"(a pipeline makes batches of batch_size= rows, 1 by default: batch_size={len(value)} here)"
            )
        return [_read(item) for item in value]
    return [_read(value)] * rows


def per_row(value: object) -> bool:
    """Whether a ``personality=`` gives one for each row."""
    return isinstance(value, (list, tuple)) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim == 2)


def _read(item: Any) -> Row:
    if item is None or isinstance(item, (Personality, Description, Character)):
        return item
    if isinstance(item, (str, Mapping)):
        return Personality(item)
    if isinstance(item, (Tensor, np.ndarray)) and item.ndim == 1:
        return _from_tensor(item)  # type: ignore[return-value]
    shape = f" of shape {list(item.shape)}" if isinstance(item, (Tensor, np.ndarray)) else ""
    raise TypeError(
        "personality= takes a Personality, a Description, a Character, a string, a mapping, a tensor of five scores or None, or "
        f"a list of them; got {type(item).__name__}{shape}"
    )


def scores_of(item: object) -> Personality | None:
    """The scores that an item states: a Personality itself, those beside a Description; None of anything else."""
    if isinstance(item, Description):
        return item.personality
    return item if isinstance(item, Personality) else None


def is_profile(item: object) -> bool:
    """Whether a hypernetwork or neurons have to act for an item: a Description, or a Personality with scores."""
    return isinstance(item, Description) or (isinstance(item, Personality) and item.has_scores)


def _from_tensor(scores: Tensor | np.ndarray[Any, Any]) -> Personality | list[Personality]:
    if isinstance(scores, np.ndarray):
        numbers = scores.dtype.kind in "fiu"
    else:
        numbers = scores.dtype != torch.bool and not scores.is_complex()
    if not numbers or scores.ndim not in (1, 2) or scores.shape[-1] != 5:
        raise DPGError(f"scores are a tensor of numbers [5] or [rows, 5], got {scores.dtype} {list(scores.shape)}")
    values = scores.tolist()
    if scores.ndim == 1:
        return Personality.from_scores(values)
    return [Personality.from_scores(row) for row in values]
