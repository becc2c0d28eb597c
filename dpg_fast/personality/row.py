"""`Row`: what one row of a batch asks for, read once from whatever a call was given as ``personality=``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from dpg_fast.personality.description import Description
from dpg_fast.personality.scores import Character, Personality
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["PersonalityLike", "Row", "RowItem", "RowLike", "per_row", "read_item", "read_row", "read_rows"]

RowItem: TypeAlias = Personality | Description | Character | None
RowLike: TypeAlias = Union[RowItem, "Row", str, Mapping[str, float], "Tensor", "np.ndarray[Any, Any]"]
PersonalityLike: TypeAlias = RowLike | Sequence[RowLike]


#: immutable values, which are parsed once and remembered
_READ_ONCE = (str, Personality, Description, Character)


@dataclass(frozen=True, slots=True)
class Row:
    """What one row asks for; None in its place is the base model. Immutable, its hash is computed once.

    Attributes:
        scores: five trait scores (a Personality without a character), or None where none are stated.
        blend: the stored adapters that are added, or None.
        stage: (character, stage of its life), or None.
        text: a description, or None.
    """

    scores: Personality | None = None
    blend: Character | None = None
    stage: tuple[str, str] | None = None
    text: str | None = None
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.scores, self.blend, self.stage, self.text)))

    @property
    def generated(self) -> bool:
        """Whether a hypernetwork or neurons have to act: there are scores or a text."""
        return self.scores is not None or self.text is not None

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # hashes of strings are another process's own
        return Row, (self.scores, self.blend, self.stage, self.text)

    def __str__(self) -> str:
        if self.text is not None:
            return repr(Description(self.text, self.scores))
        if self.blend is None:
            return str(self.scores)
        stage = None if self.stage is None else self.stage[1]
        named = Personality(character=self.blend, stage=stage)
        return str(named if self.scores is None else self.scores.replace(character=self.blend, stage=stage))


def read_rows(value: PersonalityLike, rows: int) -> list[Row | None]:
    """What each of ``rows`` rows asks for; None is the base model.

    A single value (a Personality, a string such as ``"E+4 N-2"``, a mapping, a Description, a Character, a tensor or
    NumPy array [5] of scores, None) counts for all rows; a sequence or a tensor [rows, 5] gives one for each.

    Raises:
        ValueError: another number of personalities than rows.
        TypeError: something that is not a personality.
    """
    if getattr(value, "ndim", None) == 2:
        value = _from_tensor(value)
    if not isinstance(value, (list, tuple)):
        return [_row_of(value) if isinstance(value, _READ_ONCE) else read_row(value)] * rows  # type: ignore[arg-type]
    if len(value) != rows:
        raise DPGError(
            f"{len(value)} personalities were given for {rows} rows; give one for each row, or a single one for all "
            f"(a pipeline makes batches of batch_size= rows, 1 by default: batch_size={len(value)} here)"
        )
    return [_row_of(i) if isinstance(i, _READ_ONCE) else None if i is None else read_row(i) for i in value]


def per_row(value: object) -> bool:
    """Whether a ``personality=`` gives one for each row."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", None) == 2


def read_row(item: RowLike) -> Row | None:
    """What one value asks for. Strings and immutable values are read once and remembered.

    Raises:
        ValueError, TypeError: as in :func:`read_rows`.
    """
    if item is None or isinstance(item, Row):
        return item
    return _row_of(item if isinstance(item, _READ_ONCE) else read_item(item))  # type: ignore[arg-type]


def read_item(item: RowLike) -> RowItem:
    """One value as a Personality, Description or Character; None is the base model.

    Raises:
        ValueError, TypeError: as in :func:`read_rows`.
    """
    if item is None or isinstance(item, (Personality, Description, Character)):
        return item
    if isinstance(item, (str, Mapping)):
        return Personality(item)
    if getattr(item, "ndim", None) == 1:
        return _from_tensor(item)[0]
    shape = f" of shape {list(item.shape)}" if hasattr(item, "shape") else ""
    raise TypeError(
        "personality= takes a Personality, a Description, a Character, a string, a mapping, a tensor of five scores or None, "
        f"or a list of them; got {type(item).__name__}{shape}"
    )


def _from_tensor(scores: Any) -> list[Personality]:
    """The personalities in a tensor or array [5] or [rows, 5], copied from its device once."""
    dtype = str(scores.dtype)
    if scores.shape[-1] != 5 or "bool" in dtype or not ("float" in dtype or "int" in dtype):
        raise DPGError(f"scores are a tensor of numbers [5] or [rows, 5], got {dtype} {list(scores.shape)}")
    values = scores.tolist()
    return [Personality.from_scores(row) for row in (values if scores.ndim == 2 else [values])]


@functools.lru_cache(maxsize=4096)
def _row_of(item: str | Personality | Description | Character) -> Row:
    if isinstance(item, Character):
        return Row(blend=item)
    text = item.text if isinstance(item, Description) else None
    scores = item.personality if isinstance(item, Description) else Personality(item)
    if scores is None or scores.character is None:
        return Row(scores, text=text)
    blend = scores.character
    stage = None if scores.stage is None else (blend.names[0], scores.stage)
    return Row(scores.replace(character=None) if scores.has_scores else None, blend, stage, text)
