"""`Character`: which stored adapter, or blend of stored adapters, a row of a batch speaks with.

As text a character is "@marit_oss", at a stage "@marit_oss/late", a blend "@0.7*marit_oss+0.3*anselm_voss". Names with
other signs than letters, digits, "_", "." and "-" are written as JSON strings: @"Marit Oss"/late.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn, overload

from dpg_fast.util.errors import DPGError

__all__ = ["Character", "check_stage", "finite_number", "mix_characters", "read_character", "write_character"]

_NAME = r'"(?:[^"\\]|\\.)*"|[^\W\d][\w.-]*'
_TERM = re.compile(rf"(?:(?P<weight>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\*)?(?P<name>{_NAME})")
_STAGE = re.compile(rf"/(?P<name>{_NAME})")


def finite_number(value: object, what: str) -> float:
    """`value` as a finite float; -0.0 becomes 0.0. `what` names it in errors."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, not {type(value).__name__} ({value!r})")
    number = float(value)
    if not math.isfinite(number):
        raise DPGError(f"{what} must be finite, not {number}")
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
                raise DPGError("the name of a character is empty; use None for the base model")
            number = finite_number(weight, f"weight of {name!r}")
            if number != 0.0:
                weights.append((name, number))
        if not weights:
            raise DPGError("a Character needs a name with a weight other than 0; the base model is None")
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

    def to_json_value(self) -> str | dict[str, float]:
        """The name, or name -> weight: what `Character` reads back."""
        if len(self._weights) == 1 and self._weights[0][1] == 1.0:
            return self._weights[0][0]
        return dict(self._weights)


def check_stage(character: Character | None, stage: object) -> str | None:
    """`stage` if it may stand beside `character`.

    Raises:
        TypeError: not a string.
        ValueError: an empty one, no character, or a blend of several: each has stages of its own.
    """
    if stage is None:
        return None
    if not isinstance(stage, str):
        raise TypeError(f"stage is the name of a stage, not {type(stage).__name__} ({stage!r})")
    if not stage.strip():
        raise DPGError("the name of the stage is empty; leave it out for none")
    if character is None:
        raise DPGError(f"stage={stage!r} needs a character: a stage is one of a character's life")
    if len(character.names) != 1:
        raise DPGError(f"stage={stage!r} belongs to one character; {character} blends {len(character.names)}")
    return stage


def mix_characters(parts: Iterable[tuple[float, Character | None]], count: int = 1) -> Character | None:
    """sum of factor * character / count, weights added name by name; None is nothing, and so is a sum without weights."""
    total: dict[str, float] = {}
    for factor, character in parts:
        for name, weight in character.weights if character is not None else ():
            total[name] = total.get(name, 0.0) + factor * weight
    return Character({name: weight / count for name, weight in total.items()}) if any(total.values()) else None


def write_character(character: Character, stage: str | None) -> str:
    """The text of a character and its stage, "@marit_oss/late"."""
    terms = [_quoted(name) if weight == 1.0 else f"{weight!r}*{_quoted(name)}" for name, weight in character.weights]
    return f"@{'+'.join(terms)}" + (f"/{_quoted(stage)}" if stage is not None else "")


def read_character(text: str) -> tuple[Character, str | None, str]:
    """Character, stage and the rest of a text that begins with "@".

    Raises:
        ValueError: unreadable, or a name given twice.
    """
    weights: dict[str, float] = {}
    position = 1
    while True:
        term = _TERM.match(text, position)
        if term is None:
            raise DPGError(
                f"cannot read {text[position:]!r} in {text!r}; write a character as @name, @name/stage or @0.7*one+0.3*other"
            )
        name = _unquoted(term["name"])
        if name in weights:
            raise DPGError(f"{name!r} is given twice in {text!r}")
        weights[name] = float(term["weight"] or 1.0)
        position = term.end()
        if text[position : position + 1] != "+":
            break
        position += 1
    stage = _STAGE.match(text, position)
    rest = text[stage.end() if stage else position :]
    if rest and not rest[0].isspace():
        raise DPGError(f"cannot read {rest!r} in {text!r}; after a character comes a space, then traits")
    return Character(weights), _unquoted(stage["name"]) if stage else None, rest


def _quoted(name: str) -> str:
    return name if re.fullmatch(_NAME, name) and not name.startswith('"') else json.dumps(name, ensure_ascii=False)


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text, strict=False))
    except ValueError as error:
        raise DPGError(f"cannot read the name {text}: {error}") from None
