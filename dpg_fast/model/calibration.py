"""From the level a caller asks for (-5..5) to the strength with which a pole's neurons are steered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.files import write_text
from dpg_fast.personality import MAX_SCORE, POLES, Personality, Pole

SCHEMA = "dpg_fast.calibration/1"


@dataclass(frozen=True)
class Calibration:
    """A straight line for each pole: level 0 gives strength 0, level 5 (or -5) gives ``strength_at_5``.

    Strength is NPTI's gamma (arXiv 2410.12327), there 0.6 to 1.5 with a random 90% mask that is not used here.

    Args:
        strength_at_5: strength of each pole at the end of the scale; poles not named have 1.0.

    Raises:
        ValueError: a strength is negative or not finite.
    """

    strength_at_5: Mapping[Pole, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pole, strength in self.strength_at_5.items():
            if not (math.isfinite(strength) and strength >= 0):
                raise ValueError(f"strength of {pole} must be finite and not negative, got {strength}")

    def strengths(self, personality: Personality) -> list[float]:
        """Ten strengths in the order of ``POLES``; at most one pole of each trait is above zero."""
        result = []
        for pole in POLES:
            level = personality.scores[pole.trait.position] * (1 if pole.high else -1)
            result.append(max(level, 0.0) / MAX_SCORE * self.strength_at_5.get(pole, 1.0))
        return result

    def save(self, path: Path) -> None:
        """Write ``calibration.json`` atomically."""
        poles = {str(pole): self.strength_at_5.get(pole, 1.0) for pole in POLES}
        write_text(path, json.dumps({"schema": SCHEMA, "kind": "linear", "strength_at_5": poles}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: another schema or kind.
        """
        stored: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if stored.get("schema") != SCHEMA or stored.get("kind") != "linear":
            raise ValueError(
                f"{path}: expected a linear calibration of schema {SCHEMA!r}, got {stored.get('schema')!r}"
            )
        return cls({Pole.parse(name): float(value) for name, value in stored["strength_at_5"].items()})
