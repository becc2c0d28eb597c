"""Ratings in, trait scores out, and what the ratings say about how they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpg_fast.personality.scores import MAX_SCORE, Personality, Trait
from dpg_fast.questionnaire.inventory import Inventory, Item
from dpg_fast.util.errors import DPGError


@dataclass(frozen=True)
class TraitScores:
    """What one set of ratings says.

    Attributes:
        means: trait -> mean rating in the direction of the trait, 1..levels.
        sums: trait -> raw score: the sum; only of traits all of whose items were rated.
        facet_means, facet_sums: the same of (trait, facet).
        acquiescence: mean rating over positively and negatively keyed items, weighted alike in each trait, less the midpoint:
            what is left when content cancels out. None if no trait has items of both keys.
        extreme: share of ratings within half a step of either end.
        answered: how many items have a rating.
    """

    means: dict[Trait, float]
    sums: dict[Trait, float]
    facet_means: dict[tuple[Trait, str], float]
    facet_sums: dict[tuple[Trait, str], float]
    acquiescence: float | None
    extreme: float
    answered: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; facets as "trait/facet"."""
        return {
            "means": {trait.value: value for trait, value in self.means.items()},
            "sums": {trait.value: value for trait, value in self.sums.items()},
            "facet_means": {f"{trait.value}/{facet}": value for (trait, facet), value in self.facet_means.items()},
            "facet_sums": {f"{trait.value}/{facet}": value for (trait, facet), value in self.facet_sums.items()},
            "acquiescence": self.acquiescence,
            "extreme": self.extreme,
            "answered": self.answered,
        }


def keyed(item: Item, rating: float, levels: int) -> float:
    """The rating in the direction of the item's trait: levels + 1 - rating where the item is reversed."""
    return levels + 1 - rating if item.reverse else rating


def score_answers(inventory: Inventory, ratings: Mapping[str, float]) -> TraitScores:
    """Score ratings (item id -> 1..levels, whole numbers or expected values); items may be missing.

    Raises:
        ValueError: an unknown item, a rating out of range, or no ratings at all.
    """
    known = {item.id: item for item in inventory.items}
    for name, value in ratings.items():
        if name not in known:
            raise DPGError(f"inventory {inventory.name} has no item {name!r}")
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not number or not 1 <= value <= inventory.levels:
            raise DPGError(f"item {name!r}: the rating {value!r} is not a number in 1..{inventory.levels}")
    if not ratings:
        raise DPGError("there are no ratings to score")
    by_trait: dict[Trait, dict[Item, float]] = {}
    by_facet: dict[tuple[Trait, str], dict[Item, float]] = {}
    for item in inventory.items:
        if item.id in ratings:
            value = keyed(item, ratings[item.id], inventory.levels)
            by_trait.setdefault(item.trait, {})[item] = value
            if item.facet is not None:
                by_facet.setdefault((item.trait, item.facet), {})[item] = value
    values = np.array([ratings[name] for name in ratings], dtype=np.float64)
    ends = (values <= 1.5) | (values >= inventory.levels - 0.5)
    order = [trait for trait in Trait if trait in by_trait]
    whole_facets = {place: _facet_size(inventory, *place) for place in by_facet}
    return TraitScores(
        means={trait: float(np.mean(list(by_trait[trait].values()))) for trait in order},
        sums={
            trait: float(sum(by_trait[trait].values()))
            for trait in order
            if len(by_trait[trait]) == len(inventory.of_trait(trait))
        },
        facet_means={place: float(np.mean(list(found.values()))) for place, found in by_facet.items()},
        facet_sums={
            place: float(sum(found.values())) for place, found in by_facet.items() if len(found) == whole_facets[place]
        },
        acquiescence=_acquiescence(inventory, ratings),
        extreme=float(ends.mean()),
        answered=len(ratings),
    )


def to_level(mean: float, levels: int) -> float:
    """A mean rating on the scale of `Personality`: 1 is -5, the midpoint 0, the highest rating 5."""
    middle = (levels + 1) / 2
    return MAX_SCORE * (mean - middle) / (levels - middle)


def to_personality(scores: TraitScores, levels: int) -> Personality:
    """The measured personality.

    Raises:
        ValueError: a trait was not measured.
    """
    missing = [trait.value for trait in Trait if trait not in scores.means]
    if missing:
        raise DPGError(f"not measured: {', '.join(missing)}")
    return Personality.clipped([to_level(scores.means[trait], levels) for trait in Trait])


def _acquiescence(inventory: Inventory, ratings: Mapping[str, float]) -> float | None:
    balanced = []
    for trait in inventory.traits:
        sides = [
            [ratings[item.id] for item in inventory.of_trait(trait) if item.reverse is side and item.id in ratings]
            for side in (False, True)
        ]
        if all(sides):
            balanced.append((float(np.mean(sides[0])) + float(np.mean(sides[1]))) / 2)
    return float(np.mean(balanced)) - inventory.midpoint if balanced else None


def _facet_size(inventory: Inventory, trait: Trait, facet: str) -> int:
    return sum(item.trait == trait and item.facet == facet for item in inventory.items)
