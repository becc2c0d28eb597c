"""Percentiles of IPIP-NEO scores among people, by the package `five-factor-e` (norms of J. A. Johnson)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.published import neo_key
from dpg_fast.util.errors import DPGError

Sex = Literal["M", "F", "N"]


@dataclass(frozen=True)
class Percentiles:
    """Percentiles 1..99 of people of that sex ("N": the mean of both norms) and age: of traits and of (trait, facet).

    five-factor-e takes them from a cubic approximation, cut off at T scores of 32 and 73.
    """

    traits: dict[Trait, float]
    facets: dict[tuple[Trait, str], float]
    sex: Sex
    age: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; facets as "trait/facet"."""
        return {
            "sex": self.sex,
            "age": self.age,
            "traits": {trait.value: value for trait, value in self.traits.items()},
            "facets": {f"{trait.value}/{facet}": value for (trait, facet), value in self.facets.items()},
        }


def percentiles(ratings: Mapping[str, float], *, sex: Sex = "N", age: int = 30) -> Percentiles:
    """Percentiles of a complete IPIP-NEO-120 or -300.

    Args:
        ratings: item number as text -> rating in 1..5 as given (not reversed); expected values are accepted.
        sex, age: whose norms. A model has neither: they say with whom it is compared.

    Raises:
        ImportError: five-factor-e is not installed.
        ValueError: items are missing, or sex, age or a rating is out of range.
    """
    try:
        from ipipneo import IpipNeo
    except ImportError as error:
        raise ImportError("percentiles need the package five-factor-e: pip install five-factor-e") from error
    items = len(ratings)
    if items not in (120, 300) or set(ratings) != {str(number) for number in range(1, items + 1)}:
        raise DPGError(f"norms exist for all 120 or all 300 items of IPIP-NEO, numbered from 1; not for these {items}")
    if sex not in ("M", "F", "N") or not 10 <= age <= 110:
        raise DPGError(f"norms exist for sex M, F or N and age 10 to 110, not {sex!r} and {age}")
    values = []
    for number in range(1, items + 1):
        value = float(ratings[str(number)])
        if not 1 <= value <= 5:
            raise DPGError(f"item {number}: the rating {value:g} is not in 1..5")
        values.append(6 - value if neo_key(number, items)[2] else value)
    scorer = IpipNeo(question=items)
    # compute() takes whole numbers only; these are its last two steps, which take any.
    result = scorer.evaluator(sex=sex, age=age, score=scorer.score(answers=values))
    traits: dict[Trait, float] = {}
    facets: dict[tuple[Trait, str], float] = {}
    for entry in result["person"]["result"]["personalities"]:
        for name, content in entry.items():
            trait = Trait.parse(name)
            traits[trait] = float(content[trait.letter])
            for row in content["traits"]:
                facet = neo_key("NEOAC".index(trait.letter) + 1 + 5 * (row["trait"] - 1), items)[1]
                facets[trait, facet] = next(float(v) for k, v in row.items() if k not in ("trait", "score"))
    return Percentiles({trait: traits[trait] for trait in Trait}, facets, sex, age)
