"""Pictures of a labelled dataset. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.data.labelled.build import CharacterRecord, Dataset, Judged
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting.figures import COLOURS, new_figure, save_figure

_MOST = 40  # characters in one picture


def draw_scores(dataset: Dataset, path: Path) -> None:
    """How the judge's scores are distributed over the eleven levels, a panel for each trait.

    The upper row holds everybody, the lower one the training character with most segments and, dashed, its centre (as DPG's
    figure A1 shows one character). Scripts are bars, generated dialogue is a line; both as judged, before anything is dropped.
    """
    rows = [row for row in dataset.characters if row.centre is not None and row.split == "train"]
    most = max(rows, key=lambda row: sum(row.segments.values()), default=None)
    figure, axes = new_figure(11, 2.4 if most is None else 4.4, 1 if most is None else 2, len(Trait), sharey="row")
    for axis, trait, colour in zip(axes, Trait, COLOURS, strict=False):
        _draw_levels(axis, dataset.judged, trait, colour)
        axis.set_title(trait.value, fontsize=9)
    axes[0].set_ylabel("share of all", fontsize=9)
    if most is not None and most.centre is not None:
        own = [row for row in dataset.judged if row.character == (most.cast, most.character)]
        lower = axes[len(Trait) :]
        for axis, trait, colour in zip(lower, Trait, COLOURS, strict=True):
            _draw_levels(axis, own, trait, colour)
            axis.axvline(most.centre[trait.position], color="black", linestyle="--", linewidth=1)
        lower[0].set_ylabel(f"share of {most.character}'s", fontsize=9)
    for axis in axes[-len(Trait) :]:
        axis.set_xlabel("judged score", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def _draw_levels(axis: Any, rows: Sequence[Judged], trait: Trait, colour: str) -> None:
    edges = np.arange(-5.5, 6.0, 1.0)  # a bar for each of the eleven levels
    for generated in (False, True):
        found = [row.scores[trait.position] for row in rows if row.generated == generated]
        values = [value for value in found if value is not None]
        if not values:
            continue
        share = np.histogram(values, edges)[0] / len(values)
        if generated:
            axis.step(edges[:-1] + 0.5, share, where="mid", color="black", label=f"generated ({len(values)})")
        else:
            axis.bar(edges[:-1] + 0.5, share, width=0.9, color=colour, alpha=0.7, label=f"scripts ({len(values)})")
    axis.tick_params(labelsize=8)


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
