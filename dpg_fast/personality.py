"""Big Five personalities: traits, poles and the `Personality` value.

A personality is five numbers in [-5, 5], one for each of openness, conscientiousness, extraversion,
agreeableness and neuroticism, always in that (OCEAN) order. The scale is that of DPG (arXiv 2404.07084).
This module imports neither torch nor pydantic.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from dpg_fast.character import Character, finite_number
from dpg_fast.traits import ACCEPTED, MINUS_SIGNS, POLES, TRAIT_OF_NAME, TRAITS, Pole, Trait

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

__all__ = [
    "MAX_SCORE",
    "MIN_SCORE",
    "POLES",
    "PRESETS",
    "TRAITS",
    "Character",
    "Personality",
    "Pole",
    "Trait",
    "parse_personality",
]

MIN_SCORE = -5.0
MAX_SCORE = 5.0

_EMPTY = 'empty personality string; use None for the base model, or "neutral" for all five scores 0'
# No exponents: in "O3C-1E0A5N-5" the E is extraversion.
_TERM = re.compile(r"([^\W\d_]+)\s*[=:]?\s*([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)")
_SEPARATOR = re.compile(r"\s*[,;]?\s*")


def _score(trait: Trait, value: object, hint: str = "") -> float:
    number = finite_number(value, trait.value)
    if not MIN_SCORE <= number <= MAX_SCORE:
        raise ValueError(f"{trait.value} = {number:g} is out of range; scores lie in -5..5{hint}")
    return number


def _five(values: Iterable[object], what: str) -> list[object]:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{what} takes five numbers, not a string")
    found = list(values)
    if len(found) != len(TRAITS):
        raise ValueError(f"{what} takes five numbers (order O, C, E, A, N), not {len(found)}")
    return found


def _decimal(number: float) -> str:
    """The shortest decimal that reads back as the same float, without an exponent."""
    text = format(Decimal(repr(number)), "f")
    return text[:-2] if text.endswith(".0") else text


_UNSET: Any = object()


class Personality:
    """Five Big Five scores in [-5, 5], OCEAN order. Immutable and hashable; traits not named are 0.

    Accepted forms::

        Personality(extraversion=4, N=-2)          names or letters, any case
        Personality("E+4 N-2")                     also "E+4,N-2", "O3C-1E0A5N-5", "extraversion +4", "E=2.5"
        Personality("leader")                      a preset; "neutral" is all zero
        Personality({"extraversion": 4})           a mapping
        Personality([0, 0, 4, 0, -2])              five numbers
        Personality(other)                         another Personality

    Raises:
        ValueError: a score out of range, NaN or infinite; an unknown or repeated trait; an unreadable string.
        TypeError: anything else than the forms above.
    """

    __slots__ = ("_scores",)

    _scores: tuple[float, float, float, float, float]
    NEUTRAL: ClassVar[Personality]

    def __new__(cls, value: Any = _UNSET, /, **traits: float) -> Personality:
        if value is _UNSET:
            return cls._build(cls._from_items(traits.items()))
        if traits:
            raise TypeError("give one value or keywords, not both; to change traits use replace(E=3)")
        if isinstance(value, Personality):
            return cls._build(value._scores)
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        if isinstance(value, Iterable):
            return cls.from_scores(value)
        hint = "; the base model is None itself, not Personality(None)" if value is None else ""
        raise TypeError(
            f"cannot make a Personality from {type(value).__name__}; accepted: a string, a mapping, "
            f"five numbers, a Personality, or keywords{hint}"
        )

    @classmethod
    def _build(cls, scores: Sequence[object], hint: str = "") -> Personality:
        self = object.__new__(cls)
        checked = tuple(_score(trait, value, hint) for trait, value in zip(Trait, scores, strict=True))
        object.__setattr__(self, "_scores", checked)
        return self

    @staticmethod
    def _from_items(items: Iterable[tuple[Any, Any]], start: Sequence[object] = (0.0,) * 5) -> list[object]:
        scores = list(start)
        seen: set[Trait] = set()
        for name, value in items:
            trait = Trait.parse(name)
            if trait in seen:
                raise ValueError(f"{trait.value} is given twice")
            seen.add(trait)
            scores[trait.position] = value
        return scores

    # --- other ways in ---

    @classmethod
    def parse(cls, text: str) -> Personality:
        """Read trait terms ("E+4 N-2", "O3C-1E0A5N-5", "extraversion=2.5"), "neutral", or a preset's name.

        Letters read in any case and numbers have no exponent, so "o1e5" is openness 1, extraversion 5.

        Raises:
            ValueError: empty, unreadable, an unknown or repeated trait, or a score out of range.
        """
        if not isinstance(text, str):
            raise TypeError(f"Personality.parse takes a string, not {type(text).__name__}")
        body = text.translate(MINUS_SIGNS).strip()
        if not body:
            raise ValueError(_EMPTY)
        preset = PRESETS.get(body.lower())
        if preset is not None:
            return cls._build(preset._scores)
        items: list[tuple[str, float]] = []
        position = 0
        while position < len(body):
            term = _TERM.match(body, position)
            if term is None:
                cls._unreadable(text, body[position:])
            name, sign, digits = term.groups()
            items.append((name, float(sign + digits)))
            position = term.end()
            if position < len(body):
                separator = _SEPARATOR.match(body, position)
                position = separator.end() if separator else position
        return cls._build(cls._from_items(items))

    @staticmethod
    def _unreadable(text: str, rest: str) -> NoReturn:
        word = re.match(r"[^\W\d_]+", rest)
        if word and word.group().lower() in TRAIT_OF_NAME:
            raise ValueError(f'{text!r}: no score after {word.group()!r}; write a number, like "E+4"')
        raise ValueError(
            f'cannot read {rest!r} in personality {text!r}; write traits with scores, like "E+4 N-2", '
            f"or one of: {', '.join(PRESETS)}. Traits: {ACCEPTED}"
        )

    @classmethod
    def from_scores(cls, scores: Iterable[float]) -> Personality:
        """From five numbers in OCEAN order (any iterable of real numbers)."""
        return cls._build(_five(scores, "Personality.from_scores"))

    @classmethod
    def clipped(cls, scores: Iterable[float]) -> Personality:
        """From five finite numbers in OCEAN order, each moved into [-5, 5] first."""
        values = _five(scores, "Personality.clipped")
        numbers = [finite_number(v, t.value) for t, v in zip(Trait, values, strict=True)]
        return cls._build([min(MAX_SCORE, max(MIN_SCORE, number)) for number in numbers])

    @classmethod
    def from_dict(cls, scores: Mapping[str, float]) -> Personality:
        """From a mapping of trait names or letters to scores; traits left out are 0."""
        return cls._build(cls._from_items(scores.items()))

    @classmethod
    def from_json(cls, text: str | bytes) -> Personality:
        """From JSON: an object of traits, an array of five numbers, or a string in any form `parse` reads."""
        value = json.loads(text)
        if not isinstance(value, (str, dict, list)):
            raise ValueError(f"a personality in JSON is an object, five numbers or a string, not {text!r}")
        return cls(value)

    @classmethod
    def preset(cls, name: str) -> Personality:
        """The preset of that name, in any case (see `PRESETS`).

        Raises:
            ValueError: no such preset.
        """
        found = PRESETS.get(name.strip().lower())
        if found is None:
            raise ValueError(f"unknown preset {name!r}; available: {', '.join(PRESETS)}")
        return found

    # --- reading ---

    @property
    def scores(self) -> tuple[float, float, float, float, float]:
        """The five scores in OCEAN order."""
        return self._scores

    @property
    def openness(self) -> float:
        return self._scores[0]

    @property
    def conscientiousness(self) -> float:
        return self._scores[1]

    @property
    def extraversion(self) -> float:
        return self._scores[2]

    @property
    def agreeableness(self) -> float:
        return self._scores[3]

    @property
    def neuroticism(self) -> float:
        return self._scores[4]

    @property
    def pole_scores(self) -> tuple[float, ...]:
        """Ten numbers in 0..5, in the order of `POLES`: how far the personality lies towards each pole."""
        return tuple(max(0.0, s if high else -s) + 0.0 for s in self._scores for high in (True, False))

    @property
    def is_neutral(self) -> bool:
        """Whether all five scores are 0. (A neutral personality is not the base model, which is None.)"""
        return not any(self._scores)

    def __getitem__(self, key: str | int) -> float:
        if isinstance(key, str):
            return self._scores[Trait.parse(key).position]
        return self._scores[key]

    def __iter__(self) -> Iterator[float]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_dict(self) -> dict[str, float]:
        """Trait name -> score, all five, OCEAN order."""
        return dict(zip(TRAITS, self._scores, strict=True))

    def to_json(self) -> str:
        """A JSON object of all five traits; `from_json` gives back an equal value."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        terms = [
            f"{trait.letter}{'+' if score > 0 else ''}{_decimal(score)}"
            for trait, score in zip(Trait, self._scores, strict=True)
            if score != 0
        ]
        return " ".join(terms) or "neutral"

    def __repr__(self) -> str:
        return f'Personality("{self}")'

    def __eq__(self, other: object) -> bool:
        return self._scores == other._scores if isinstance(other, Personality) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._scores)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Personality cannot be changed; use replace(E=3) to get a changed copy")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Personality cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._scores,)

    # --- arithmetic ---

    def _computed(self, scores: Sequence[float]) -> Personality:
        return self._build(scores, "; Personality.clipped(scores) moves each score into range")

    def __add__(self, other: object) -> Personality:
        if not isinstance(other, Personality):
            return NotImplemented
        return self._computed([a + b for a, b in zip(self._scores, other._scores, strict=True)])

    def __sub__(self, other: object) -> Personality:
        if not isinstance(other, Personality):
            return NotImplemented
        return self._computed([a - b for a, b in zip(self._scores, other._scores, strict=True)])

    def __mul__(self, factor: object) -> Personality:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        number = finite_number(factor, "factor")
        return self._computed([a * number for a in self._scores])

    __rmul__ = __mul__

    def __neg__(self) -> Personality:
        return self._build([-a for a in self._scores])

    def replace(self, **traits: float) -> Personality:
        """A copy with the named traits (names or letters) set: `p.replace(E=3)`."""
        return self._build(self._from_items(traits.items(), self._scores))

    def blend(self, other: Personality, t: float) -> Personality:
        """The point at fraction `t` in [0, 1] of the way from this personality (0) to `other` (1)."""
        fraction = finite_number(t, "t")
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"t = {fraction:g} is out of range; a blend takes t in 0..1")
        pairs = zip(self._scores, other._scores, strict=True)
        # Rounding may leave the interval between the two ends by one unit in the last place.
        return self._build([min(max((1.0 - fraction) * a + fraction * b, min(a, b)), max(a, b)) for a, b in pairs])

    @classmethod
    def mean(cls, personalities: Iterable[Personality]) -> Personality:
        """The mean of each trait over one or more personalities (the "personality center" of DPG).

        Raises:
            ValueError: no personality given.
        """
        rows = [p._scores for p in personalities]
        if not rows:
            raise ValueError("the mean of no personalities is undefined")
        return cls._build([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])

    def distance(self, other: Personality) -> float:
        """Euclidean distance between the two score vectors, 0 to 10 * sqrt(5)."""
        return math.dist(self._scores, other._scores)

    # --- pydantic ---

    @classmethod
    def _validate(cls, value: object) -> Personality:
        try:
            return cls(value)
        except TypeError as error:
            raise ValueError(str(error)) from error  # pydantic reports ValueError, and lets TypeError through

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As a field of a pydantic v2 model: reads a string, an object or five numbers; dumps an object."""
        from pydantic_core import core_schema

        number = core_schema.float_schema(ge=MIN_SCORE, le=MAX_SCORE)
        record = core_schema.dict_schema(core_schema.str_schema(), number)
        accepted = core_schema.union_schema(
            [
                core_schema.str_schema(min_length=1),
                record,
                core_schema.list_schema(number, min_length=len(TRAITS), max_length=len(TRAITS)),
            ]
        )
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            json_schema_input_schema=accepted,
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls.to_dict, return_schema=record, when_used="json"
            ),
        )


Personality.NEUTRAL = Personality()


def _make_presets() -> Mapping[str, Personality]:
    def of(*scores: float) -> Personality:
        return Personality.from_scores(scores)

    return MappingProxyType(
        {  # O, C, E, A, N; the values are this project's own, not from a publication
            "neutral": Personality.NEUTRAL,
            "leader": of(2, 4, 4, 1, -3),
            "recluse": of(1, 0, -5, -2, 1),
            "anxious": of(0, 1, -2, 1, 5),
            "free-spirit": of(5, -3, 2, 1, -2),
            "caretaker": of(1, 3, 1, 5, -1),
            "villain": of(1, 3, 2, -5, -2),
            "scholar": of(4, 4, -3, 0, -1),
            "rebel": of(3, -4, 2, -3, 1),
            "optimist": of(2, 1, 3, 3, -4),
            "perfectionist": of(-1, 5, -1, -1, 3),
        }
    )


PRESETS: Mapping[str, Personality] = _make_presets()
"""Named personalities, lower-case names in a fixed order."""


def parse_personality(
    value: str | Personality | Mapping[str, float] | Sequence[float] | None,
) -> Personality | None:
    """A personality as the command line gives it: "none" or "base" (any case), or None, is the base model.

    Raises:
        ValueError, TypeError: as `Personality(value)`.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in ("none", "base")):
        return None
    return Personality(value)
