"""How a personality is written: traits with scores as text, names of presets, mappings, and the schema for pydantic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from dpg_fast.personality.blend import finite_number, read_character
from dpg_fast.personality.traits import ACCEPTED, MAX_SCORE, MIN_SCORE, MINUS_SIGNS, TRAIT_OF_NAME, TRAITS, Trait
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

CLIPPED = "; Personality.clipped(scores) moves each score into range"
_EMPTY = 'empty personality string; use None for the base model, or "neutral" for all five scores 0'
# No exponents: in "O3C-1E0A5N-5" the E is extraversion.
_TERM = re.compile(r"([^\W\d_]+)\s*[=:]?\s*([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)")
_SEPARATOR = re.compile(r"\s*[,;]?\s*")

PRESET_SCORES: dict[str, tuple[int, int, int, int, int]] = {
    # O, C, E, A, N; the values are this project's own, not from a publication
    "neutral": (0, 0, 0, 0, 0),
    "leader": (2, 4, 4, 1, -3),
    "recluse": (1, 0, -5, -2, 1),
    "anxious": (0, 1, -2, 1, 5),
    "free-spirit": (5, -3, 2, 1, -2),
    "caretaker": (1, 3, 1, 5, -1),
    "villain": (1, 3, 2, -5, -2),
    "scholar": (4, 4, -3, 0, -1),
    "rebel": (3, -4, 2, -3, 1),
    "optimist": (2, 1, 3, 3, -4),
    "perfectionist": (-1, 5, -1, -1, 3),
}


def checked(scores: Sequence[object], hint: str = "") -> tuple[float, ...]:
    """Five scores as floats in [-5, 5], with `hint` at the end of an error.

    Raises:
        TypeError: not a number. ValueError: out of range, NaN or infinite.
    """
    found = []
    for trait, value in zip(Trait, scores, strict=True):
        number = finite_number(value, trait.value)
        if not MIN_SCORE <= number <= MAX_SCORE:
            raise DPGError(f"{trait.value} = {number:g} is out of range; scores lie in -5..5{hint}")
        found.append(number)
    return tuple(found)


def five(values: Iterable[object], what: str) -> list[object]:
    """Five values, which are not checked; `what` asks for them, in errors."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{what} takes five numbers, not a string")
    found = list(values)
    if len(found) != len(TRAITS):
        raise DPGError(f"{what} takes five numbers (order O, C, E, A, N), not {len(found)}")
    return found


def read_traits(items: Iterable[tuple[Any, Any]], start: Sequence[object] = (0.0,) * 5) -> list[object]:
    """`start` with the values of the named traits in their places.

    Raises:
        ValueError: an unknown trait, or one given twice.
    """
    scores = list(start)
    seen: set[Trait] = set()
    for name, value in items:
        trait = Trait.parse(name)
        if trait in seen:
            raise DPGError(f"{trait.value} is given twice")
        seen.add(trait)
        scores[trait.position] = value
    return scores


def read_text(text: str) -> dict[str, Any]:
    """Scores, character, stage and whether scores were stated, of a text in any form that `Personality.parse` takes."""
    if not isinstance(text, str):
        raise TypeError(f"Personality.parse takes a string, not {type(text).__name__}")
    if text.lstrip().startswith("@"):
        character, stage, rest = read_character(text.strip())
        scores = _read_scores(rest) if rest else [0.0] * len(TRAITS)
        return {"scores": scores, "character": character, "stage": stage, "scored": bool(rest)}
    return {"scores": _read_scores(text)}


def _read_scores(text: str) -> Sequence[object]:
    body = text.translate(MINUS_SIGNS).strip()
    if not body:
        raise DPGError(_EMPTY)
    preset = PRESET_SCORES.get(body.lower())
    if preset is not None:
        return preset
    items: list[tuple[str, float]] = []
    position = 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            _unreadable(text, body[position:])
        name, sign, digits = term.groups()
        items.append((name, float(sign + digits)))
        position = term.end()
        if position < len(body):
            separator = _SEPARATOR.match(body, position)
            position = separator.end() if separator else position
    return read_traits(items)


def _unreadable(text: str, rest: str) -> NoReturn:
    word = re.match(r"[^\W\d_]+", rest)
    if word and word.group().lower() in TRAIT_OF_NAME:
        raise DPGError(f'{text!r}: no score after {word.group()!r}; write a number, like "E+4"')
    raise DPGError(
        f'cannot read {rest!r} in personality {text!r}; write traits with scores, like "E+4 N-2", '
        f"or one of: {', '.join(PRESET_SCORES)}. Traits: {ACCEPTED}; a character is @name or @name/stage, before the traits"
    )


def decimal(number: float) -> str:
    """The shortest decimal that reads back as the same float, without an exponent."""
    text = format(Decimal(repr(number)), "f")
    return text[:-2] if text.endswith(".0") else text


def pydantic_schema(validate: Callable[[object], Any], serialise: Callable[..., Any]) -> CoreSchema:
    """The schema of a personality in pydantic v2: a string, an object or five numbers in, an object out."""
    from pydantic_core import core_schema

    number = core_schema.float_schema(ge=MIN_SCORE, le=MAX_SCORE)
    name = core_schema.str_schema(min_length=1)
    blend = core_schema.dict_schema(name, core_schema.float_schema())  # a character's name -> weight
    record = core_schema.dict_schema(name, core_schema.union_schema([number, name, blend]))
    vector = core_schema.list_schema(number, min_length=len(TRAITS), max_length=len(TRAITS))
    return core_schema.no_info_plain_validator_function(
        validate,
        json_schema_input_schema=core_schema.union_schema([name, record, vector]),
        serialization=core_schema.plain_serializer_function_ser_schema(
            serialise, return_schema=record, when_used="json"
        ),
    )
