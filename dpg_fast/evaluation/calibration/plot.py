"""A picture of a calibration: judged score and fluency against strength, and against the level that is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.calibration.fit import DosePoint, PoleFit, fitted_shifts
from dpg_fast.personality.scores import MAX_SCORE, Pole, Trait
from dpg_fast.reporting.figures import COLOURS, new_figure, save_figure
from dpg_fast.util.errors import DPGError

_ROWS = ("judged score", "perplexity", "judged score", "perplexity")


def draw_calibration(fits: Mapping[Pole, PoleFit], path: Path, title: str = "Calibration") -> None:
    """Draw one column for each trait with both of its poles, as a PNG file.

    Upper two rows: measured judged score (dots, 95% interval of the shift), fitted curve (line) and perplexity against
    strength; the vertical line is the largest strength that is used. Lower two: both against the requested level.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: matplotlib is missing.
    """
    if not fits:
        raise DPGError("there are no fitted poles to draw")
    traits = [trait for trait in Trait if any(pole.trait is trait for pole in fits)]
    columns = len(traits)
    figure, axes = new_figure(1.6 + 2.4 * columns, 9.5, len(_ROWS), columns, sharey="row")
    for column, trait in enumerate(traits):
        panels = [axes[row * columns + column] for row in range(len(_ROWS))]
        for pole in (Pole(trait, True), Pole(trait, False)):
            if pole in fits:
                _draw(panels, pole, fits[pole])
        panels[0].set_title(trait.value, fontsize=9)
        panels[0].legend(fontsize=8, frameon=False)
    for number, axis in enumerate(axes):
        row, column = divmod(number, columns)
        axis.grid(linewidth=0.4, alpha=0.6)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("strength" if row < 2 else "requested level", fontsize=8)
        if column == 0:
            axis.set_ylabel(_ROWS[row], fontsize=9)
        if row in (0, 2):
            axis.set_ylim(-5.3, 5.3)
        if row >= 2:
            axis.set_xlim(-MAX_SCORE - 0.3, MAX_SCORE + 0.3)
            axis.set_xticks([-5, 0, 5])
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _draw(panels: list[Any], pole: Pole, fit: PoleFit) -> None:
    points = [point for point in fit.points if point.answers]
    sign, colour = (1 if pole.high else -1), COLOURS[pole.trait.position]
    style: dict[str, Any] = {"color": colour, "marker": "o" if pole.high else "s", "markersize": 4}
    line: dict[str, Any] = {"color": colour, "linestyle": "-" if pole.high else "--"}
    x, score = [point.strength for point in points], [point.score for point in points]
    ends = [sorted((sign * (p.low - p.shift), sign * (p.high - p.shift))) for p in points]
    errors = np.abs(np.array(ends).T)
    panels[0].errorbar(x, score, errors, linestyle="none", label=str(pole), capsize=2, linewidth=0.8, **style)
    fitted = points[0].score + sign * fitted_shifts([point.shift for point in points])
    panels[0].plot(x, fitted, linewidth=1.2, **line)
    panels[1].plot(x, _perplexities(points), linewidth=1.2, **line, marker=style["marker"], markersize=4)
    for panel in panels[:2]:
        panel.axvline(fit.curve.max_strength, color=colour, linewidth=0.8, alpha=0.7, linestyle=line["linestyle"])
    levels = np.linspace(0, MAX_SCORE, 101)
    strengths = [fit.curve.strength(level) for level in levels.tolist()]
    panels[2].plot(sign * levels, np.interp(strengths, x, fitted), linewidth=1.2, **line)
    panels[2].plot([-5, 5], [-5, 5], color="grey", linewidth=0.6, linestyle=":")
    panels[3].plot(sign * levels, np.interp(strengths, x, _perplexities(points)), linewidth=1.2, **line)


def _perplexities(points: list[DosePoint]) -> list[float]:
    return [point.perplexity if math.isfinite(point.perplexity) else float("nan") for point in points]
