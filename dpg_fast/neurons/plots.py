"""Pictures of personality neurons. matplotlib is imported when one is drawn; every function writes one PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpg_fast.neurons.summary import jaccard, overlap_counts
from dpg_fast.neurons.table import SteeringTable
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.reporting.figures import COLOURS, new_figure, save_figure
from dpg_fast.util.errors import DPGError


@dataclass(frozen=True)
class DoseCurve:
    """Measured effect of steering to one pole at several strengths.

    Args:
        strengths: n, ascending.
        effect: n measured values, for example mean judged scores.
        low, high: n ends of an interval around each, or None.
        fluency: n values of a second measure, drawn below; or None.
    """

    strengths: Sequence[float]
    effect: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    fluency: Sequence[float] | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("strengths", "effect", "low", "high", "fluency")}
        lengths = {name: len(values) for name, values in given.items() if values is not None}
        if len(set(lengths.values())) != 1 or not lengths["strengths"]:
            raise DPGError(f"a dose curve's values have one length, got {lengths}")
        if (self.low is None) != (self.high is None):
            raise DPGError("an interval has two ends: give low and high, or neither")


def draw_all(table: SteeringTable, directory: Path, name: str = "") -> list[Path]:
    """Draw every picture of a steering table into ``directory``; the files.

    Raises:
        ImportError: matplotlib is missing.
    """
    title = f" of {name}" if name else ""
    paths = [directory / f"{part}.png" for part in ("neurons_per_layer", "neuron_values", "neuron_overlap")]
    neurons_per_layer(table, paths[0], f"Personality neurons per layer{title}")
    value_distributions(table, paths[1], f"Values of the personality neurons{title}")
    overlap_map(table, paths[2], f"Shared personality neurons{title}")
    return paths


def neurons_per_layer(table: SteeringTable, path: Path, title: str = "Personality neurons per layer") -> None:
    """How many neurons each pole has in each layer: one panel a trait, the high pole upwards, the low one downwards."""
    traits = _traits(table)
    counts = table.counts_per_layer()
    most = max((int(count.max()) for count in counts.values()), default=1) or 1
    figure, axes = new_figure(9, 1.1 + 1.25 * len(traits), rows=len(traits), sharex=True, sharey=True)
    layers = range(table.num_layers)
    for axis, trait in zip(axes, traits, strict=True):
        for high in (True, False):
            count = counts.get(Pole(trait, high), torch.zeros(table.num_layers, dtype=torch.int64))
            values = (count if high else -count).tolist()
            axis.bar(layers, values, color=COLOURS[trait.position], alpha=1.0 if high else 0.5, width=0.85)
            where, vertical = (0.96, "top") if high else (0.04, "bottom")
            label = f"{Pole(trait, high)}  {int(count.sum()):,}"
            axis.text(0.008, where, label, transform=axis.transAxes, ha="left", va=vertical, fontsize=9, weight="bold")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_ylim(-1.12 * most, 1.12 * most)
        axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("decoder layer")
    axes[-1].set_xlim(-0.7, table.num_layers - 0.3)
    figure.supylabel("neurons", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def value_distributions(table: SteeringTable, path: Path, title: str = "Values of the personality neurons") -> None:
    """For every pole the distribution of diff, p95 and of what is added at strength 1: box from 25% to 75%, whiskers from 1%
    to 99%, the ends as dots."""
    poles = table.poles
    panels = (
        ("difference in firing probability", lambda found: found.diff),
        ("p95 of the activation", lambda found: found.p95),
        ("added at strength 1", lambda found: found.addition),
    )
    figure, axes = new_figure(10, 1.4 + 0.32 * len(poles), columns=len(panels), sharey=True)
    for axis, (label, values) in zip(axes, panels, strict=True):
        smallest = 0.0
        for y, pole in enumerate(poles):
            at = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0], dtype=torch.float64)
            least, one, quarter, middle, three, most, largest = torch.quantile(
                values(table.neurons[pole]).double(), at
            ).tolist()
            smallest = min(smallest, least)
            colour, alpha = COLOURS[pole.trait.position], 1.0 if pole.high else 0.5
            axis.plot([one, most], [y, y], color=colour, linewidth=1.2, alpha=alpha)
            axis.barh(y, three - quarter, left=quarter, height=0.6, color=colour, alpha=alpha)
            axis.plot([middle, middle], [y - 0.3, y + 0.3], color="black", linewidth=1.2)
            axis.plot([least, largest], [y, y], ".", color=colour, markersize=4, alpha=alpha)
        axis.set_xlabel(label, fontsize=9)
        axis.set_xlim(left=min(0.0, smallest) - 0.02 * axis.get_xlim()[1])
        axis.grid(axis="x", linewidth=0.4, alpha=0.6)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(poles)), [str(pole) for pole in poles])
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}\nbox 25-75%, line the median, whiskers 1-99%, dots the extremes", fontsize=10)
    save_figure(figure, path)


def overlap_map(table: SteeringTable, path: Path, title: str = "Shared personality neurons") -> None:
    """A map of the Jaccard index between any two poles, the number of shared neurons written below it."""
    poles = table.poles
    index = [pole.index for pole in poles]
    counts = overlap_counts(table.neurons, table.num_layers, table.intermediate)[index][:, index]
    shares = jaccard(counts)
    off = shares.clone()
    off.fill_diagonal_(float("nan"))
    apart = off[~off.isnan()]
    highest = max(float(apart.max()) if apart.numel() else 0.0, 0.05)
    figure, axes = new_figure(max(5.0, 2.4 + 0.62 * len(poles)), 1.6 + 0.55 * len(poles))
    axis = axes[0]
    image = axis.imshow(off.numpy(), cmap="Blues", vmin=0, vmax=highest)
    for y in range(len(poles)):
        for x in range(len(poles)):
            text = f"{int(counts[y, x]):,}" if x == y else f"{float(shares[y, x]):.2f}\n{int(counts[y, x]):,}"
            dark = x != y and float(shares[y, x]) > 0.6 * highest
            weight = "bold" if x == y else "normal"
            axis.text(
                x, y, text, ha="center", va="center", fontsize=7, weight=weight, color="white" if dark else "black"
            )
    axis.set_xticks(range(len(poles)), [str(pole) for pole in poles])
    axis.set_yticks(range(len(poles)), [str(pole) for pole in poles])
    axis.set_title(f"{title}\nintersection / union, and neurons shared; diagonal: the pole's own", fontsize=9)
    figure.colorbar(image, label="intersection / union", shrink=0.8)
    save_figure(figure, path)


def dose_response(
    curves: Mapping[Pole, DoseCurve],
    path: Path,
    *,
    effect: str = "judged score",
    fluency: str = "log-likelihood per token",
    title: str = "Dose and response",
) -> None:
    """Effect against steering strength, one panel a trait with both of its poles; below it fluency where it was measured.

    Args:
        curves: of some or all poles.
        path: PNG file.
        effect, fluency: labels of the two measures.
        title: of the picture.

    Raises:
        ValueError: there are no curves.
    """
    if not curves:
        raise DPGError("there are no dose curves to draw")
    traits = [trait for trait in Trait if any(pole.trait is trait for pole in curves)]
    fluent = any(curve.fluency is not None for curve in curves.values())
    rows = 2 if fluent else 1
    width, height = 1.4 + 2.3 * len(traits), 3.2 + (1.6 if fluent else 0)
    figure, axes = new_figure(width, height, rows, len(traits), sharex="col", sharey="row")
    for column, trait in enumerate(traits):
        upper = axes[column]
        for pole in (Pole(trait, True), Pole(trait, False)):
            if pole not in curves:
                continue
            curve = curves[pole]
            style: dict[str, Any] = {
                "color": COLOURS[trait.position],
                "marker": "o" if pole.high else "s",
                "markersize": 4,
            }
            style |= {"linestyle": "-" if pole.high else "--", "label": str(pole)}
            upper.plot(curve.strengths, curve.effect, **style)
            if curve.low is not None:
                upper.fill_between(
                    curve.strengths, curve.low, curve.high, color=style["color"], alpha=0.18, linewidth=0
                )
            if curve.fluency is not None:
                axes[len(traits) + column].plot(curve.strengths, curve.fluency, **style)
        upper.set_title(trait.value, fontsize=9)
        upper.legend(fontsize=8, frameon=False)
    for number, axis in enumerate(axes):
        axis.grid(linewidth=0.4, alpha=0.6)
        axis.tick_params(labelsize=8)
        if number % len(traits) == 0:
            axis.set_ylabel(effect if number == 0 else fluency, fontsize=9)
        if number >= len(axes) - len(traits):
            axis.set_xlabel("strength", fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _traits(table: SteeringTable) -> list[Trait]:
    found = [trait for trait in Trait if any(pole.trait is trait for pole in table.poles)]
    if not found:
        raise DPGError("the steering table has no neurons to draw")
    return found
