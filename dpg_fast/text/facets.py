"""What situational questions are made from: the facets of the Big Five, and everyday topics (``assets/facets.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from dpg_fast.personality.scores import Trait

_DATA: dict[str, Any] = tomllib.loads(
    resources.files("dpg_fast").joinpath("assets", "facets.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Facet:
    """One of a trait's six facets.

    Attributes:
        name: as IPIP-NEO has it.
        high, low: how it shows at either end.
        stems: beginnings of words that name it.
        shown: id of the question of split "search" that shows it, and what that question is about.
    """

    name: str
    high: str
    low: str
    stems: tuple[str, ...]
    shown: tuple[str, str]


FACETS: dict[Trait, tuple[Facet, ...]] = {
    trait: tuple(
        Facet(row["name"], row["high"], row["low"], tuple(row["stems"]), (row["shown"][0], row["shown"][1]))
        for row in _DATA[trait.value]["facets"]
    )
    for trait in Trait
}
TRAIT_STEMS: dict[Trait, tuple[str, ...]] = {trait: tuple(_DATA[trait.value]["stems"]) for trait in Trait}
"""Beginnings of words that name a trait."""
TEST_STEMS: tuple[str, ...] = tuple(_DATA["test_stems"])
"""Beginnings of words that betray a personality test."""
TOPICS: tuple[str, ...] = tuple(_DATA["topics"])
