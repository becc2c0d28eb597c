"""Pictures of a labelled dataset. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...neurons.plots import COLOURS, new_figure, save_figure
from ...personality import Trait
from .build import CharacterRecord, Dataset

_MOST = 40  # characters in one picture


def draw_scores(dataset: Dataset, path: Path) -> None:
    """How the judge's scores are distributed, a panel for each trait: scripts as bars, generated dialogue as a line."""
    figure, axes = new_figure(11, 2.6, 1, len(Trait), sharey=True)
    edges = np.arange(-5.5, 6.0, 1.0)  # a bar for each of the eleven levels
    for axis, trait, colour in zip(axes, Trait, COLOURS, strict=True):
        for kind, style in (("script", "bar"), ("generated", "line")):
            values = [row[trait.position] for row in dataset.all_scores.get(kind, [])]
            if not values:
                continue
            share = np.histogram(values, edges)[0] / len(values)
            if style == "bar":
                axis.bar(edges[:-1] + 0.5, share, width=0.9, color=colour, alpha=0.7, label=f"scripts ({len(values)})")
            else:
                axis.step(edges[:-1] + 0.5, share, where="mid", color="black", label=f"generated ({len(values)})")
        axis.set_title(trait.value, fontsize=9)
        axis.set_xlabel("judged score", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("share", fontsize=9)
    save_figure(figure, path)


def draw_characters(characters: Sequence[CharacterRecord], path: Path) -> None:
    """Each character's centre and spread, a panel for each trait; the ones with most segments if there are many."""
    shown = [row for row in characters if row.centre is not None]
    shown = sorted(shown, key=lambda row: (-sum(row.segments.values()), row.character))[:_MOST]
    figure, axes = new_figure(11, 1.2 + 0.24 * max(1, len(shown)), 1, len(Trait), sharey=True)
    places = np.arange(len(shown))[::-1]
    for axis, trait, colour in zip(axes, Trait, COLOURS, strict=True):
        for place, row in zip(places, shown, strict=True):
            assert row.centre is not None and row.spread is not None
            held_out = row.split != "train"
            mean, spread = row.centre[trait.position], row.spread[trait.position]
            axis.errorbar(
                mean,
                place,
                xerr=spread,
                fmt="D" if held_out else "o",
                color="black" if held_out else colour,
                markersize=3.5,
            )
        axis.axvline(0, color="grey", linewidth=0.5)
        axis.set_xlim(-5.3, 5.3)
        axis.set_title(trait.value, fontsize=9)
        axis.set_xlabel("centre ± spread", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(places)
    axes[0].set_yticklabels([row.character + (" (test)" if row.split != "train" else "") for row in shown], fontsize=7)
    save_figure(figure, path)
