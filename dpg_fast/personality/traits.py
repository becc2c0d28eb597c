"""The Big Five traits and their poles. Everything in this package keeps the OCEAN order.

Import these names from `dpg_fast.personality.scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dpg_fast.util.errors import DPGError

MIN_SCORE = -5.0
MAX_SCORE = 5.0

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
ACCEPTED = "O, C, E, A, N (openness, conscientiousness, extraversion, agreeableness, neuroticism)"
MINUS_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-"})


class Trait(StrEnum):
    """One of the Big Five traits. The value is the lower-case English name."""

    OPENNESS = "openness"
    CONSCIENTIOUSNESS = "conscientiousness"
    EXTRAVERSION = "extraversion"
    AGREEABLENESS = "agreeableness"
    NEUROTICISM = "neuroticism"

    @property
    def letter(self) -> str:
        """One of the letters O, C, E, A, N."""
        return self.value[0].upper()

    @property
    def position(self) -> int:
        """Position in OCEAN order, 0 to 4."""
        return TRAITS.index(self.value)

    @classmethod
    def parse(cls, text: str) -> Trait:
        """The trait named by its letter or its name, in any case.

        Raises:
            TypeError: `text` is not a string.
            ValueError: no trait has that letter or name.
        """
        if not isinstance(text, str):
            raise TypeError(f"a trait is a name or letter, not {type(text).__name__}; accepted: {ACCEPTED}")
        found = TRAIT_OF_NAME.get(text.strip().lower())
        if found is None:
            raise DPGError(f"unknown trait {str(text)!r}; accepted: {ACCEPTED}")
        return found


TRAIT_OF_NAME: dict[str, Trait] = {t.value: t for t in Trait} | {t.letter.lower(): t for t in Trait}


@dataclass(frozen=True)
class Pole:
    """One end of a trait. `str` gives "E+" or "E-"."""

    trait: Trait
    high: bool

    def __str__(self) -> str:
        return f"{self.trait.letter}{'+' if self.high else '-'}"

    @property
    def opposite(self) -> Pole:
        """The other end of the same trait."""
        return Pole(self.trait, not self.high)

    @property
    def index(self) -> int:
        """Position in `POLES`, 0 to 9: 2 * trait, plus 1 for the low pole."""
        return 2 * self.trait.position + (0 if self.high else 1)

    @classmethod
    def parse(cls, text: str) -> Pole:
        """The pole written as a trait letter or name and a sign: "E+", "neuroticism-".

        Raises:
            ValueError: anything else.
        """
        stripped = text.translate(MINUS_SIGNS).strip()
        if not stripped or stripped[-1] not in "+-":
            raise DPGError(f'a pole is a trait and a sign, like "E+" or "neuroticism-", not {text!r}')
        return cls(Trait.parse(stripped[:-1]), stripped[-1] == "+")


POLES: tuple[Pole, ...] = tuple(Pole(trait, high) for trait in Trait for high in (True, False))


def parse_traits(letters: str | Sequence[str]) -> list[Trait]:
    """Traits of their letters, each once, in OCEAN order.

    Raises:
        ValueError: another letter, or none.
    """
    wanted = {Trait.parse(letter) for letter in letters}
    if not wanted:
        raise DPGError("name some of the traits O, C, E, A, N")
    return [trait for trait in Trait if trait in wanted]
