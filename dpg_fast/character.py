"""`Character`: which stored adapter, or blend of stored adapters, a row of a batch speaks with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn, overload

__all__ = ["Character", "finite_number"]


def finite_number(value: object, what: str) -> float:
    """`value` as a finite float; -0.0 becomes 0.0. `what` names it in errors."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, not {type(value).__name__} ({value!r})")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, not {number}")
    return number + 0.0


class Character:
    """Selects stored adapters of a bank by name: one of them, or a weighted blend. Immutable and hashable.

    `Character("hermione")` is one stored adapter, whole. `Character({"hermione": 0.7, "ron": 0.3})` blends:
    weights are any finite numbers, kept as given (they need not sum to 1); entries of weight 0 are left out.

    Raises:
        ValueError: an empty name, no name, a weight NaN or infinite, or every weight 0 (use None then).
        TypeError: a name that is not a string, or a weight that is not a number.
    """

    __slots__ = ("_weights",)

    _weights: tuple[tuple[str, float], ...]

    @overload
    def __new__(cls, name: str | Character, /) -> Character: ...
    @overload
    def __new__(cls, name: Mapping[str, float], /) -> Character: ...
    def __new__(cls, name: Any, /) -> Character:
        if isinstance(name, Character):
            return cls._build(name._weights)
        if isinstance(name, str):
            return cls._build([(name, 1.0)])
        if isinstance(name, Mapping):
            return cls._build(name.items())
        raise TypeError(f"a Character takes a name or a mapping of name to weight, not {type(name).__name__}")

    @classmethod
    def _build(cls, items: Iterable[tuple[Any, Any]]) -> Character:
        weights: list[tuple[str, float]] = []
        for name, weight in items:
            if not isinstance(name, str):
                raise TypeError(f"the name of a character is a string, not {type(name).__name__} ({name!r})")
            if not name.strip():
                raise ValueError("the name of a character is empty; use None for the base model")
            number = finite_number(weight, f"weight of {name!r}")
            if number != 0.0:
                weights.append((name, number))
        if not weights:
            raise ValueError("a Character needs a name with a weight other than 0; the base model is None")
        self = object.__new__(cls)
        object.__setattr__(self, "_weights", tuple(sorted(weights)))
        return self

    @property
    def weights(self) -> tuple[tuple[str, float], ...]:
        """(name, weight) pairs, sorted by name; no weight is 0."""
        return self._weights

    @property
    def names(self) -> tuple[str, ...]:
        """The names selected, sorted."""
        return tuple(name for name, _ in self._weights)

    def __str__(self) -> str:
        if len(self._weights) == 1 and self._weights[0][1] == 1.0:
            return self._weights[0][0]
        return " + ".join(f"{weight:g}*{name}" for name, weight in self._weights)

    def __repr__(self) -> str:
        if len(self._weights) == 1 and self._weights[0][1] == 1.0:
            return f"Character({self._weights[0][0]!r})"
        return f"Character({dict(self._weights)!r})"

    def __eq__(self, other: object) -> bool:
        return self._weights == other._weights if isinstance(other, Character) else NotImplemented

    def __hash__(self) -> int:
        return hash(("Character", self._weights))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Character cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Character cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self._weights),)
