"""Big Five personalities: traits, poles and the `Personality` value.

A personality is five numbers in [-5, 5], one for each of openness, conscientiousness, extraversion,
agreeableness and neuroticism, always in that (OCEAN) order. The scale is that of DPG (arXiv 2404.07084).
This module imports neither torch nor pydantic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from dpg_fast.personality import parsing
from dpg_fast.personality.blend import Character, check_stage, finite_number, mix_characters, write_character
from dpg_fast.personality.traits import MAX_SCORE, MIN_SCORE, POLES, TRAITS, Pole, Trait
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

# fmt: off
__all__ = [
    "MAX_SCORE", "MIN_SCORE", "POLES", "PRESETS", "TRAITS", "Character", "Personality", "Pole", "Trait", "parse_personality",
]
# fmt: on

_UNSET: Any = object()


class Personality:
    """Five Big Five scores in [-5, 5], OCEAN order. Immutable and hashable; traits not named are 0.

    It may name a character (a stored adapter, or a blend) and a stage of that character's life besides. A character without any
    score is that character alone; with scores, 0 included, the changes of both are added.

    Accepted forms::

        Personality(extraversion=4, N=-2)          names or letters, any case
        Personality("E+4 N-2")                     also "E+4,N-2", "O3C-1E0A5N-5", "extraversion +4", "E=2.5"
        Personality("leader")                      a preset; "neutral" is all zero
        Personality({"extraversion": 4})           a mapping
        Personality([0, 0, 4, 0, -2])              five numbers
        Personality(other)                         another Personality
        Personality(character="marit_oss", stage="late", E=3)
        Personality("@marit_oss/late E+3")         the same as text; "@0.7*one+0.3*other" blends (no stage then)

    Arithmetic is that of vectors, a character's weight being one more number for each name: sums add weights, blends of two
    personalities blend their characters. A stage is kept; two different ones cannot be mixed.

    Raises:
        ValueError: a score out of range, NaN or infinite; an unknown or repeated trait; an unreadable string; a stage
            without exactly one character.
        TypeError: anything else than the forms above.
    """

    __slots__ = ("_character", "_hash", "_scored", "_scores", "_stage")

    _scores: tuple[float, float, float, float, float]
    _character: Character | None
    _stage: str | None
    _scored: bool
    _hash: int
    NEUTRAL: ClassVar[Personality]

    def __new__(
        cls,
        value: Any = _UNSET,
        /,
        *,
        character: str | Character | Mapping[str, float] | None = None,
        stage: str | None = None,
        **traits: float,
    ) -> Personality:
        if value is _UNSET:
            return cls._build(
                parsing.read_traits(traits.items()), character=character, stage=stage, scored=bool(traits)
            )
        if traits:
            raise TypeError("give one value or keywords, not both; to change traits use replace(E=3)")
        found = cls._read(value)
        if character is None and stage is None:
            return found
        for name, given, own in (("character", character, found._character), ("stage", stage, found._stage)):
            if given is not None and own is not None:
                raise DPGError(f"the {name} is given twice: {own} and {given}")
        return cls._build(
            found._scores, character=character or found._character, stage=stage or found._stage, scored=found._scored
        )

    @classmethod
    def _read(cls, value: Any) -> Personality:
        if isinstance(value, Personality):
            return cls._build(value._scores, character=value._character, stage=value._stage, scored=value._scored)
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
    def _build(
        cls,
        scores: Sequence[object],
        hint: str = "",
        *,
        character: Any = None,
        stage: object = None,
        scored: bool = True,
    ) -> Personality:
        self = object.__new__(cls)
        checked = parsing.checked(scores, hint)
        found = None if character is None else Character(character)
        object.__setattr__(self, "_scores", checked)
        object.__setattr__(self, "_character", found)
        object.__setattr__(self, "_stage", check_stage(found, stage))
        object.__setattr__(self, "_scored", scored or found is None)
        object.__setattr__(self, "_hash", hash(checked if found is None else self._key()))
        return self

    @classmethod
    def parse(cls, text: str) -> Personality:
        """Read trait terms ("E+4 N-2", "O3C-1E0A5N-5", "extraversion=2.5"), "neutral", or a preset's name; before them, or
        alone, a character ("@marit_oss/late").

        Letters read in any case and numbers have no exponent, so "o1e5" is openness 1, extraversion 5.

        Raises:
            ValueError: empty, unreadable, an unknown or repeated trait, or a score out of range.
        """
        return cls._build(**parsing.read_text(text))

    @classmethod
    def from_scores(cls, scores: Iterable[float]) -> Personality:
        """From five numbers in OCEAN order (any iterable of real numbers)."""
        return cls._build(parsing.five(scores, "Personality.from_scores"))

    @classmethod
    def clipped(cls, scores: Iterable[float]) -> Personality:
        """From five finite numbers in OCEAN order, each moved into [-5, 5] first."""
        values = parsing.five(scores, "Personality.clipped")
        numbers = [finite_number(v, t.value) for t, v in zip(Trait, values, strict=True)]
        return cls._build([min(MAX_SCORE, max(MIN_SCORE, number)) for number in numbers])

    @classmethod
    def from_dict(cls, scores: Mapping[str, Any]) -> Personality:
        """From a mapping of trait names or letters to scores, traits left out are 0; it may have "character" and "stage"."""
        traits = {name: value for name, value in scores.items() if name not in ("character", "stage")}
        character, stage = scores.get("character"), scores.get("stage")
        return cls._build(parsing.read_traits(traits.items()), character=character, stage=stage, scored=bool(traits))

    @classmethod
    def from_json(cls, text: str | bytes) -> Personality:
        """From JSON: an object of traits, an array of five numbers, or a string in any form `parse` reads."""
        value = json.loads(text)
        if not isinstance(value, (str, dict, list)):
            raise DPGError(f"a personality in JSON is an object, five numbers or a string, not {text!r}")
        return cls(value)

    @classmethod
    def preset(cls, name: str) -> Personality:
        """The preset of that name, in any case (see `PRESETS`).

        Raises:
            ValueError: no such preset.
        """
        found = PRESETS.get(name.strip().lower())
        if found is None:
            raise DPGError(f"unknown preset {name!r}; available: {', '.join(PRESETS)}")
        return found

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

    @property
    def character(self) -> Character | None:
        """The stored adapter, or blend of them, that is added; None without one."""
        return self._character

    @property
    def stage(self) -> str | None:
        """The stage of the character's life, or None."""
        return self._stage

    @property
    def has_scores(self) -> bool:
        """Whether scores take part; False only for a character that was named without any."""
        return self._scored

    def __getitem__(self, key: str | int) -> float:
        if isinstance(key, str):
            return self._scores[Trait.parse(key).position]
        return self._scores[key]

    def __iter__(self) -> Iterator[float]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_dict(self) -> dict[str, Any]:
        """Trait name -> score, all five, OCEAN order. Before them "character" and "stage", if there are; a character without
        scores has no traits here."""
        values: dict[str, Any] = {} if self._character is None else {"character": self._character.to_json_value()}
        if self._stage is not None:
            values["stage"] = self._stage
        return values | dict(zip(TRAITS, self._scores, strict=True)) if self._scored else values

    def to_json(self) -> str:
        """A JSON object as `to_dict` gives it; `from_json` gives back an equal value."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        terms = [
            f"{trait.letter}{'+' if score > 0 else ''}{parsing.decimal(score)}"
            for trait, score in zip(Trait, self._scores, strict=True)
            if score != 0
        ]
        if self._character is None:
            return " ".join(terms) or "neutral"
        who = write_character(self._character, self._stage)
        return " ".join([who, *(terms or ["neutral"])]) if self._scored else who

    def __repr__(self) -> str:
        text = str(self)
        return f"Personality({text!r})" if '"' in text or "\\" in text else f'Personality("{text}")'

    def _key(self) -> tuple[Any, ...]:
        return self._scores, self._scored, self._character, self._stage

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Personality):
            return NotImplemented
        mine = (self._scores, self._scored, self._character, self._stage)
        return mine == (other._scores, other._scored, other._character, other._stage)

    def __hash__(self) -> int:
        return self._hash

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Personality cannot be changed; use replace(E=3) to get a changed copy")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Personality cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._scores if self._character is None else self.to_dict(),)

    # --- arithmetic ---

    @classmethod
    def _computed(
        cls, scores: Sequence[float], parts: Sequence[tuple[float, Personality]], count: int = 1
    ) -> Personality:
        """`scores`, with the sum of factor * character / count of the parts."""
        taking = [part for factor, part in parts if factor != 0.0]
        character = mix_characters(((factor, part._character) for factor, part in parts), count)
        stages = {part._stage for part in taking if part._character is not None} if character is not None else {None}
        if len(stages) > 1:
            raise DPGError(
                f"stages cannot be mixed: {', '.join(sorted(map(str, stages)))}; replace(stage=...) sets one"
            )
        scored = any(part._scored for part in taking)
        return cls._build(scores, parsing.CLIPPED, character=character, stage=stages.pop(), scored=scored)

    def __add__(self, other: object) -> Personality:
        if not isinstance(other, Personality):
            return NotImplemented
        scores = [a + b for a, b in zip(self._scores, other._scores, strict=True)]
        return self._computed(scores, [(1.0, self), (1.0, other)])

    def __sub__(self, other: object) -> Personality:
        if not isinstance(other, Personality):
            return NotImplemented
        scores = [a - b for a, b in zip(self._scores, other._scores, strict=True)]
        return self._computed(scores, [(1.0, self), (-1.0, other)])

    def __mul__(self, factor: object) -> Personality:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        number = finite_number(factor, "factor")
        return self._computed([a * number for a in self._scores], [(number, self)])

    __rmul__ = __mul__

    def __neg__(self) -> Personality:
        return self._computed([-a for a in self._scores], [(-1.0, self)])

    def replace(self, *, character: Any = _UNSET, stage: Any = _UNSET, **traits: float) -> Personality:
        """A copy with the named traits (names or letters), character or stage set: `p.replace(E=3)`.

        Another character comes without the old one's stage; None takes a character or a stage away.
        """
        scores = parsing.read_traits(traits.items(), self._scores)
        if stage is _UNSET:
            stage = self._stage if character is _UNSET else None
        kept = self._character if character is _UNSET else character
        return self._build(scores, character=kept, stage=stage, scored=self._scored or bool(traits))

    def blend(self, other: Personality, t: float) -> Personality:
        """The point at fraction `t` in [0, 1] of the way from this personality (0) to `other` (1)."""
        fraction = finite_number(t, "t")
        if not 0.0 <= fraction <= 1.0:
            raise DPGError(f"t = {fraction:g} is out of range; a blend takes t in 0..1")
        pairs = zip(self._scores, other._scores, strict=True)
        # Rounding may leave the interval between the two ends by one unit in the last place.
        scores = [min(max((1.0 - fraction) * a + fraction * b, min(a, b)), max(a, b)) for a, b in pairs]
        return self._computed(scores, [(1.0 - fraction, self), (fraction, other)])

    @classmethod
    def mean(cls, personalities: Iterable[Personality]) -> Personality:
        """The mean of each trait over one or more personalities (the "personality center" of DPG).

        Raises:
            ValueError: no personality given.
        """
        parts = list(personalities)
        if not parts:
            raise DPGError("the mean of no personalities is undefined")
        scores = [math.fsum(column) / len(parts) for column in zip(*(p._scores for p in parts), strict=True)]
        return cls._computed(scores, [(1.0, part) for part in parts], len(parts))

    def distance(self, other: Personality) -> float:
        """Euclidean distance between the two score vectors, 0 to 10 * sqrt(5); characters do not count."""
        return math.dist(self._scores, other._scores)

    @classmethod
    def _validate(cls, value: object) -> Personality:
        try:
            return cls(value)
        except TypeError as error:
            raise DPGError(str(error)) from error  # pydantic reports ValueError, and lets TypeError through

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As a field of a pydantic v2 model: reads a string, an object or five numbers; dumps an object."""
        return parsing.pydantic_schema(cls._validate, cls.to_dict)


Personality.NEUTRAL = Personality()

PRESETS: Mapping[str, Personality] = MappingProxyType(
    {name: Personality.from_scores(scores) for name, scores in parsing.PRESET_SCORES.items()}
)
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
