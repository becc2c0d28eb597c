"""Pictures of an evaluation: judged against requested level, fluency against level, responses across traits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.figures import MethodFigures
from dpg_fast.personality.scores import MAX_SCORE
from dpg_fast.reporting.figures import new_figure, save_figure
from dpg_fast.util.errors import DPGError

#: one colour for each method, told apart by colour-blind readers; the bare model is grey
_COLOURS = ("#777777", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = "ovs^Dp*"


def draw_sweep(methods: Sequence[MethodFigures], path: Path) -> None:
    """Judged score and perplexity against the requested level: a column for each trait, a line for each method."""
    traits = list(methods[0].traits)
    figure, axes = new_figure(1.8 + 2.5 * len(traits), 6.2, 2, len(traits), sharex=True, sharey="row")
    for column, trait in enumerate(traits):
        upper, lower = axes[column], axes[len(traits) + column]
        upper.plot([-5, 5], [-5, 5], color="black", linewidth=0.5, linestyle=":")
        for number, method in enumerate(methods):
            levels = method.traits[trait].levels
            style: dict[str, Any] = {
                "color": _COLOURS[number % len(_COLOURS)],
                "marker": _MARKERS[number % len(_MARKERS)],
                "markersize": 3.5,
                "linewidth": 1.1,
            }
            x = [level.level for level in levels]
            upper.plot(x, [level.score for level in levels], label=method.name, **style)
            lower.plot(x, [level.perplexity for level in levels], **style)
        upper.set_title(trait.value, fontsize=9)
        upper.set_ylim(-5.3, 5.3)
        lower.set_xlabel("requested level", fontsize=8)
        for axis in (upper, lower):
            axis.grid(linewidth=0.4, alpha=0.6)
            axis.tick_params(labelsize=8)
    axes[0].set_ylabel("mean judged score", fontsize=9)
    axes[len(traits)].set_ylabel("perplexity under the bare model", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(methods), fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_cross(methods: Sequence[MethodFigures], path: Path) -> None:
    """For each method a map: change of judged trait (column) when a trait (row) goes from the lowest to the highest level."""
    shown = [method for method in methods if method.cross is not None]
    if not shown:
        raise DPGError("no responses across traits were judged")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(1.2 + 3.1 * columns, 0.8 + 3.0 * rows, rows, columns)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    image = None
    for axis, method in zip(axes, shown, strict=False):
        assert method.cross is not None
        traits = list(method.cross)
        values = np.array([[method.cross[i][j].estimate for j in traits] for i in traits])
        image = axis.imshow(values, cmap="RdBu_r", vmin=-2 * MAX_SCORE, vmax=2 * MAX_SCORE)
        for y, x in np.ndindex(values.shape):
            found = method.cross[traits[y]][traits[x]]
            sure = found.low > 0 or found.high < 0
            axis.text(
                x,
                y,
                f"{values[y, x]:+.1f}" if np.isfinite(values[y, x]) else "-",
                ha="center",
                va="center",
                fontsize=8,
                weight="bold" if sure else "normal",
                color="white" if abs(values[y, x]) > 6 else "black",
            )
        axis.set_xticks(range(len(traits)), [trait.letter for trait in traits])
        axis.set_yticks(range(len(traits)), [trait.letter for trait in traits])
        axis.set_title(method.name, fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel("judged trait", fontsize=9)
    figure.supylabel("steered trait", fontsize=9)
    figure.colorbar(image, ax=axes, label="change of judged score", shrink=0.8)
    save_figure(figure, path)
