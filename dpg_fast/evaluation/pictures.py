"""The picture of an evaluation: judged score and fluency against the requested level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.figures import MethodFigures
from dpg_fast.reporting.figures import new_figure, save_figure

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
