"""From the level a caller asks for (-5..5) to the strength with which a pole's neurons are steered."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Len
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality, Pole
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json, refusing

SCHEMA = "dpg_fast.calibration/1"
LINEAR, MONOTONE = "linear", "monotone"
MAX_STRENGTH = 1e4  # of a file: beyond it activations are no longer finite numbers


@dataclass(frozen=True)
class PoleCurve:
    """Level -> strength of one pole: straight lines between knots.

    Args:
        knots: (level, strength) pairs, both never falling; the first level is 0 with strength 0, the last is 5. Where a level
            is repeated the strength jumps: the level itself has the first of its strengths.
        fitted: how the curve was fitted and what it reaches, JSON-ready; kept in the file.

    Raises:
        ValueError: knots that do not form such a curve.
    """

    knots: tuple[tuple[float, float], ...]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        knots = tuple((float(level), float(strength)) for level, strength in self.knots)
        object.__setattr__(self, "knots", knots)
        if len(knots) < 2 or knots[0] != (0.0, 0.0) or knots[-1][0] != MAX_SCORE:
            raise DPGError(f"a curve goes from level 0 with strength 0 to level {MAX_SCORE:g}, got {list(knots)}")
        for column in zip(*knots, strict=True):
            if not all(math.isfinite(value) for value in column) or list(column) != sorted(column):
                raise DPGError(f"levels and strengths of a curve are finite and never fall, got {list(knots)}")

    @property
    def max_strength(self) -> float:
        """Strength at level 5: the largest that is used."""
        return self.knots[-1][1]

    def strength(self, level: float) -> float:
        """The strength of a level in 0..5."""
        levels = [knot[0] for knot in self.knots]
        right = bisect_left(levels, level)
        if right == 0 or levels[right] == level:
            return self.knots[right][1]
        (level0, strength0), (level1, strength1) = self.knots[right - 1], self.knots[right]
        return strength0 + (strength1 - strength0) * (level - level0) / (level1 - level0)


@dataclass(frozen=True)
class Calibration:
    """For each pole a fitted curve, or else a straight line from level 0 with strength 0 to level 5 (or -5).

    Strength is NPTI's gamma (arXiv 2410.12327), there 0.6 to 1.5 with a random 90% mask that is not used here.

    Args:
        strength_at_5: end of the straight line of each pole; poles not named have 1.0.
        curves: fitted curves; their poles do not use ``strength_at_5``.

    Raises:
        ValueError: a strength is negative or not finite.
    """

    strength_at_5: Mapping[Pole, float] = field(default_factory=dict)
    curves: Mapping[Pole, PoleCurve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pole, strength in self.strength_at_5.items():
            if not (math.isfinite(strength) and strength >= 0):
                raise DPGError(f"strength of {pole} must be finite and not negative, got {strength}")

    @property
    def kind(self) -> str:
        """``"monotone"`` with fitted curves, else ``"linear"``."""
        return MONOTONE if self.curves else LINEAR

    def strength(self, pole: Pole, level: float) -> float:
        """The strength of ``pole`` at a level in 0..5."""
        curve = self.curves.get(pole)
        return level / MAX_SCORE * self.strength_at_5.get(pole, 1.0) if curve is None else curve.strength(level)

    def strengths(self, personality: Personality) -> list[float]:
        """Ten strengths in the order of ``POLES``; at most one pole of each trait is above zero."""
        return [self.strength(pole, level) for pole, level in zip(POLES, personality.pole_scores, strict=True)]

    def save(self, path: Path) -> None:
        """Write ``calibration.json`` atomically."""
        poles = {str(pole): self.strength_at_5.get(pole, 1.0) for pole in POLES if pole not in self.curves}
        stored: dict[str, Any] = {"schema": SCHEMA, "kind": self.kind, "strength_at_5": poles}
        if self.curves:
            stored["curves"] = {
                str(pole): {
                    "max_strength": self.curves[pole].max_strength,
                    "knots": [list(knot) for knot in self.curves[pole].knots],
                    "fitted": dict(self.curves[pole].fitted),
                }
                for pole in POLES
                if pole in self.curves
            }
        write_text(path, json.dumps(stored, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what :meth:`save` wrote, of either kind.

        Raises:
            ValueError: another schema or kind, or a curve that is none.
        """
        content = read_json(path)
        stored = content if isinstance(content, dict) else {}
        if stored.get("schema") != SCHEMA or stored.get("kind") not in (LINEAR, MONOTONE):
            raise DPGError(
                f"{path}: expected a {LINEAR} or {MONOTONE} calibration of schema {SCHEMA!r}, got "
                f"{stored.get('kind')!r} of {stored.get('schema')!r}"
            )
        checked(_Stored, stored, path)
        with refusing(path):
            strengths = {Pole.parse(name): float(value) for name, value in stored["strength_at_5"].items()}
            curves = {
                Pole.parse(name): PoleCurve(
                    tuple((level, strength) for level, strength in row["knots"]), row.get("fitted", {})
                )
                for name, row in stored.get("curves", {}).items()
            }
            return cls(strengths, curves)


Number = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Curve(TypedDict):
    knots: list[Annotated[list[Number], Len(2, 2)]]
    fitted: NotRequired[dict[str, Any]]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Stored(TypedDict):
    strength_at_5: dict[str, Number]
    curves: NotRequired[dict[str, _Curve]]
