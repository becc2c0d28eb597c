"""From the level a caller asks for (-5..5) to the strength with which a pole's neurons are steered."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeGuard

from annotated_types import Len
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality, Pole
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import checked, read_json, refusing

SCHEMA = "dpg_fast.calibration/1"
LINEAR, MONOTONE = "linear", "monotone"
ALLOWED_RATIO = 2.5  # of perplexities, where a fit does not say what it allowed
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
        return _between(self.knots, level)

    @property
    def measured(self) -> list[tuple[float, float]]:
        """(strength, logarithm of the answers' perplexity) of the points that the curve was fitted to, from strength 0 on; empty
        where the file has none."""
        points = self.fitted.get("points")
        found = [
            (point["strength"], math.log(point["perplexity"]))
            for point in (points if isinstance(points, list) else ())
            if isinstance(point, Mapping) and _finite(point.get("strength"), 0) and _finite(point.get("perplexity"), 1)
        ]
        found.sort()
        return found if len(found) > 1 and found[0][0] == 0 else []

    @property
    def allowed_ratio(self) -> float:
        """Perplexity of answers over the bare model's, up to which the fit used strengths."""
        guard = self.fitted.get("guard")
        ratio = guard.get("perplexity_ratio") if isinstance(guard, Mapping) else None
        return float(ratio) if _finite(ratio, 1) else ALLOWED_RATIO


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

    def perplexity_ratio(self, personality: Personality) -> float | None:
        """By how much a personality's neurons are expected to multiply the perplexity of answers: the product of what was
        measured for its poles one at a time; None where one of them has no figures."""
        total = 0.0
        for pole, level in zip(POLES, personality.pole_scores, strict=True):
            if not level:
                continue
            points = self.curves[pole].measured if pole in self.curves else []
            if not points:
                return None
            total += _between(points, self.strength(pole, level)) - points[0][1]
        return math.exp(total)

    @property
    def allowed_ratio(self) -> float:
        """The smallest of the curves' ``allowed_ratio``."""
        return min([curve.allowed_ratio for curve in self.curves.values()], default=ALLOWED_RATIO)

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


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """On straight lines between (x, y) points in ascending order, whose last y holds beyond them."""
    right = min(bisect_left(points, x, key=lambda point: point[0]), len(points) - 1)
    (x1, y1), (x0, y0) = points[right], points[max(right - 1, 0)]
    return y1 if right == 0 or x >= x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _finite(value: object, least: float) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < math.inf


Number = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Curve(TypedDict):
    knots: list[Annotated[list[Number], Len(2, 2)]]
    fitted: NotRequired[dict[str, Any]]


@with_config(ConfigDict(strict=True, extra="allow"))
class _Stored(TypedDict):
    strength_at_5: dict[str, Number]
    curves: NotRequired[dict[str, _Curve]]
