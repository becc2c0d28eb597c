"""The questions of an evaluation: never those that something was searched or fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_personalitybench, load_questions
from dpg_fast.util.errors import DPGError


def held_out_questions(traits: Sequence[Trait], count: int, bench: Path | None = None) -> dict[Trait, list[str]]:
    """``count`` questions of each trait: the first of the shipped split "holdout", or PersonalityBench's at even distances.

    Raises:
        ValueError: there are not that many.
    """
    if count < 1:
        raise DPGError(f"an evaluation needs at least one question for each trait, got {count}")
    stored = None if bench is None else load_personalitybench(bench).questions
    result = {}
    for trait in traits:
        found = [q.question for q in load_questions(trait, "holdout")] if stored is None else list(stored[trait])
        if count > len(found):
            raise DPGError(f"there are {len(found)} test questions for {trait.value}; {count} were asked for")
        step = 1 if stored is None else len(found) / count
        result[trait] = [found[int(i * step)] for i in range(count)]
    return result
