"""The likelihood judge under six sets of descriptions in other words than those that anything here is made or fitted with.

The shipped judge's statistic is the one that hypernetworks are trained on, under paragraphs by the same hand, so it can reward
their wording. Each set describes the ten poles in another way: concrete behaviour, adjectives, the person's own words, what
friends say, a workday, and both sides of either pole so that neither is the better one. Figures are given as mean and spread
over the sets. They share no three words in a row with the descriptions of the other splits.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import torch

from dpg_fast.judges.likelihood import DescriptionPairs, LikelihoodJudge, Scale, TraitScale
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest

SYSTEM = "You speak as the following person. {description}"
USER = "{question}\n\n(The person who speaks: {description})"
_FILE = "witness_descriptions.json"


@cache
def description_sets() -> dict[str, DescriptionPairs]:
    """Name of a set -> for each trait, its pair (high, low)."""
    text = resources.files("dpg_fast").joinpath("assets", _FILE).read_text(encoding="utf-8")
    return {
        name: {trait: ((poles[str(Pole(trait, True))], poles[str(Pole(trait, False))]),) for trait in Trait}
        for name, poles in json.loads(text).items()
    }


class SetJudge(LikelihoodJudge):
    """`LikelihoodJudge` under one of the sets.

    Its scale has the widths of the shipped one and no centre: it was not fitted, so ranks and differences mean something,
    levels do not.

    Args:
        name: of the set.
        model, tokenizer, autocast: as for `LikelihoodJudge`.

    Raises:
        ValueError: an unknown set.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, *, autocast: torch.dtype | None = None) -> None:
        sets = description_sets()
        if name not in sets:
            raise DPGError(f"unknown description set {name!r}; accepted: {', '.join(sets)}")
        widths = {trait: TraitScale(0.0, shipped.width) for trait, shipped in Scale.fitted().traits.items()}
        scale = Scale(widths, "", SYSTEM, USER)
        super().__init__(model, tokenizer, descriptions=sets[name], scale=scale, autocast=autocast)
        self.name = name

    def describe(self) -> str:
        """What this judge is, with a digest of its texts."""
        texts = digest(
            [self.scale.system_template, self.scale.user_template, *map(list, self.descriptions.values())], 8
        )
        return f'Description set "{self.name}" ({texts}). {super().describe()}'
