"""Pictures of reports: profiles, heat maps, dose and response, intervals, turns of a chat. Every function writes one PNG file.

Several systems (models, methods, judges) get one colour each, in the order they are given, in every picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.reporting.figures import new_figure, save_figure
from dpg_fast.util.stats import Interval

#: told apart by colour-blind readers (Okabe and Ito's palette)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#555555")
MARKERS = "os^Dvp*X"
INK, SOFT, LINE = "#1d2733", "#5b6876", "#d8dee6"
_LIMIT = MAX_SCORE + 0.4


@dataclass(frozen=True)
class Profile:
    """One person's panel.

    Attributes:
        title: of the panel.
        scores: system -> five scores in OCEAN order; nan where there is none.
        target: what was asked for, if anything.
    """

    title: str
    scores: Mapping[str, Sequence[float]]
    target: Sequence[float] | None = None


def colour(place: int) -> str:
    """The colour of the system in that place."""
    return COLOURS[place % len(COLOURS)]


def radars(profiles: Sequence[Profile], path: Path) -> None:
    """A radar for each person: -5 in the middle, 5 at the rim, a dotted ring at 0; what was asked for is dashed."""
    # few rows, without leaving many places of the last one empty
    columns = min(len(profiles), min((4, 5, 3), key=lambda c: (-len(profiles) % c > 1, -(-len(profiles) // c))))
    rows = -(-len(profiles) // columns)
    figure, axes = new_figure(
        max(4.2, 2.75 * columns), 3.05 * rows + 0.5, rows, columns, subplot_kw={"projection": "polar"}
    )
    angles = np.linspace(0, 2 * np.pi, 5, endpoint=False)
    around = np.append(angles, angles[0])
    systems = list(dict.fromkeys(name for profile in profiles for name in profile.scores))
    for axis, profile in zip(axes, profiles, strict=False):
        axis.set_theta_offset(np.pi / 2)
        axis.set_theta_direction(-1)
        axis.set_ylim(-MAX_SCORE - 0.8, MAX_SCORE)
        axis.set_xticks(angles, [trait.letter for trait in Trait], fontsize=10, color=INK, weight="bold")
        axis.set_yticks([-5, -2.5, 2.5, 5], [])
        axis.grid(color=LINE, linewidth=0.6)
        axis.spines["polar"].set_color(LINE)
        axis.plot(np.linspace(0, 2 * np.pi, 100), np.zeros(100), color=SOFT, linewidth=0.8, linestyle=":")
        if profile.target is not None:
            wanted = np.append(profile.target, profile.target[0])
            axis.plot(around, wanted, color=INK, linewidth=1.1, linestyle="--", label="asked for")
        for name, scores in profile.scores.items():
            drawn = colour(systems.index(name))
            values = np.append(scores, scores[0])
            axis.plot(around, values, color=drawn, linewidth=1.7, label=name)
            if len(systems) < 4 and np.isfinite(values).all():
                axis.fill(around, values, color=drawn, alpha=0.18 if len(systems) == 1 else 0.1)
        axis.set_title(_short(profile.title, 26), fontsize=10, color=INK, pad=10)
    for axis in axes[len(profiles) :]:
        axis.set_axis_off()
    _legend(figure, axes[: len(profiles)])
    save_figure(figure, path)


def confusion(counts: Mapping[str, Mapping[Trait, ArrayLike]], path: Path) -> None:
    """Asked level (row) against measured level (column), 11 x 11 shares of each row: a row of panels for each system."""
    traits = [trait for trait in Trait if any(trait in tables for tables in counts.values())]
    figure, axes = new_figure(2.45 * len(traits) + 0.9, 2.6 * len(counts) + 0.5, len(counts), len(traits))
    ticks = [0, 5, 10]
    image = None
    for row, (name, tables) in enumerate(counts.items()):
        for column, trait in enumerate(traits):
            axis = axes[row * len(traits) + column]
            _bare(axis)
            if trait not in tables:
                axis.set_axis_off()
                continue
            table = np.asarray(tables[trait], dtype=np.float64)
            share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
            shown = np.where(table.sum(axis=1, keepdims=True) > 0, share, np.nan)
            image = axis.imshow(shown, cmap="Blues", vmin=0, vmax=1, origin="lower")
            axis.plot([-0.5, 10.5], [-0.5, 10.5], color="#D55E00", linewidth=0.8, alpha=0.8)
            axis.set_facecolor("#f1f3f6")
            axis.set_xticks(ticks, ["-5", "0", "+5"], fontsize=8)
            axis.set_yticks(ticks, ["-5", "0", "+5"], fontsize=8)
            if row == 0:
                axis.set_title(trait.value, fontsize=10, color=INK)
            if column == 0 and len(counts) > 1:
                axis.set_ylabel(_short(name, 24), fontsize=9, color=INK)
    figure.supxlabel("measured level", fontsize=9, color=SOFT)
    figure.supylabel("level asked for", fontsize=9, color=SOFT)
    _colour_bar(figure, image, axes, "share of the row", 0.75)
    save_figure(figure, path)


def matrices(
    values: Mapping[str, ArrayLike],
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    limit: float,
    label: str,
    row_label: str = "",
    column_label: str = "",
    form: str = "{:+.1f}",
    strong: Mapping[str, ArrayLike] | None = None,
    shares: bool = False,
) -> None:
    """Heat maps of [rows, columns] with the numbers in the cells, one for each name; `strong` cells are bold.

    Colours reach from -``limit`` to ``limit`` around a white 0; of ``shares``, from 0 to ``limit``.
    """
    across = min(3, len(values))
    down = -(-len(values) // across)
    cell = 0.62 if len(columns) <= 6 else 0.5
    width = max(3.0, cell * len(columns) + 0.14 * max(map(len, rows)) + 0.9)
    figure, axes = new_figure(width * across + 0.9, (cell * 0.82 * len(rows) + 1.1) * down + 0.3, down, across)
    image = None
    for axis, (name, table) in zip(axes, values.items(), strict=False):
        _bare(axis)
        x = np.asarray(table, dtype=np.float64)
        bold = np.zeros(x.shape, dtype=bool) if strong is None else np.asarray(strong[name])
        image = axis.imshow(
            x, cmap="Blues" if shares else "RdBu_r", vmin=0 if shares else -limit, vmax=limit, aspect="auto"
        )
        axis.set_facecolor("#f1f3f6")
        for i, j in np.ndindex(x.shape):
            text = form.format(x[i, j]) if np.isfinite(x[i, j]) else "-"
            dark = np.isfinite(x[i, j]) and abs(x[i, j]) > 0.6 * limit
            weight = "bold" if bold[i, j] else "normal"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, weight=weight, color="white" if dark else INK)
        axis.set_xticks(range(len(columns)), columns, fontsize=8.5)
        axis.set_yticks(range(len(rows)), rows, fontsize=8.5)
        axis.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
        axis.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=1.2)
        axis.tick_params(which="both", length=0)
        if len(values) > 1 or name:
            axis.set_title(_short(name, 34), fontsize=10, color=INK)
    for axis in axes[len(values) :]:
        axis.set_axis_off()
    if row_label:
        figure.supylabel(row_label, fontsize=9, color=SOFT)
    if column_label:
        figure.supxlabel(column_label, fontsize=9, color=SOFT)
    _colour_bar(figure, image, axes, label, 0.85)
    save_figure(figure, path)


def dose_response(points: Mapping[str, Mapping[Trait, tuple[ArrayLike, ArrayLike]]], path: Path) -> None:
    """Measured against asked-for scores: a panel for each trait, dots for people, a line through the mean of each level.

    Args:
        points: system -> trait -> (asked for [n], measured [n]).
        path: of the picture.
    """
    traits = [trait for trait in Trait if any(trait in own for own in points.values())]
    figure, axes = new_figure(2.45 * len(traits) + 0.6, 3.1, 1, len(traits), sharey=True)
    for axis, trait in zip(axes, traits, strict=True):
        axis.plot([-5, 5], [-5, 5], color=SOFT, linewidth=0.9, linestyle=":")
        axis.axhline(0, color=LINE, linewidth=0.8)
        for place, (name, own) in enumerate(points.items()):
            if trait not in own:
                continue
            x, y = (np.asarray(side, dtype=np.float64) for side in own[trait])
            kept = np.isfinite(x) & np.isfinite(y)
            x, y = x[kept], y[kept]
            levels = np.unique(x)
            means = [float(y[x == level].mean()) for level in levels]
            axis.scatter(x, y, s=12, color=colour(place), alpha=0.3, linewidths=0)
            marker = MARKERS[place % len(MARKERS)]
            axis.plot(levels, means, color=colour(place), marker=marker, markersize=3.5, linewidth=1.4, label=name)
        axis.set_title(trait.value, fontsize=10, color=INK)
        axis.set_xlim(-_LIMIT, _LIMIT)
        axis.set_ylim(-_LIMIT, _LIMIT)
        axis.set_xticks([-5, 0, 5])
        axis.set_yticks([-5, 0, 5])
        _plain(axis)
    axes[0].set_ylabel("measured", fontsize=9, color=SOFT)
    figure.supxlabel("asked for", fontsize=9, color=SOFT)
    if len(points) > 1:
        _legend(figure, axes)
    save_figure(figure, path)


def lines(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]],
    x: ArrayLike,
    path: Path,
    *,
    label: str,
    asked: Mapping[str, ArrayLike] | None = None,
    columns: int = 3,
) -> None:
    """Means of judged scores with their intervals as bands: a panel for each key, a colour for each system in it.

    Args:
        panels: title -> system -> (means, low, high), each [n].
        x: [n].
        path: of the picture.
        label: of the axis.
        asked: title -> what was asked for [n], dotted.
        columns: panels side by side.
    """
    systems = list(dict.fromkeys(name for own in panels.values() for name in own))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(3.4 * columns + 0.6, 2.9 * rows + 0.5, rows, columns, sharey=True)
    at = np.asarray(x, dtype=np.float64)
    for axis, (title, own) in zip(axes, panels.items(), strict=False):
        axis.axhline(0, color=LINE, linewidth=0.8)
        if asked is not None:
            axis.plot(at, np.asarray(asked[title]), color=SOFT, linewidth=0.9, linestyle=":", label="asked for")
        for name, (means, low, high) in own.items():
            place = systems.index(name)
            axis.fill_between(at, np.asarray(low), np.asarray(high), color=colour(place), alpha=0.15, linewidth=0)
            marker = MARKERS[place % len(MARKERS)]
            axis.plot(at, means, color=colour(place), marker=marker, markersize=3.5, linewidth=1.4, label=name)
        axis.set_title(_short(title, 44), fontsize=9, color=INK)
        axis.set_ylim(-_LIMIT, _LIMIT)
        axis.set_yticks([-5, 0, 5])
        _plain(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel(label, fontsize=9, color=SOFT)
    axes[0].set_ylabel("mean judged score", fontsize=9, color=SOFT)
    _legend(figure, axes[: len(panels)])
    save_figure(figure, path)


def intervals(
    rows: Sequence[tuple[str, Mapping[str, Interval | Mapping[str, float | None]]]],
    path: Path,
    *,
    label: str,
    marks: Sequence[tuple[float, str]] = (),
    limits: tuple[float, float] = (-1.0, 1.0),
) -> None:
    """Estimates with their intervals, one line a row and a colour for each kind of estimate.

    Args:
        rows: (name, kind -> estimate with low and high).
        path: of the picture.
        label: of the axis.
        marks: dotted lines with their meaning.
        limits: ends of the axis; an estimate below the lower one is drawn at the edge with an arrow.
    """
    kinds = list(dict.fromkeys(kind for _, found in rows for kind in found))
    step = 0.8 / max(1, len(kinds))
    floor, margin = limits[0], 0.015 * (limits[1] - limits[0])
    figure, (axis,) = new_figure(7.6, max(1.9, (0.16 + 0.19 * len(kinds)) * len(rows) + 1.0))
    for y, (_, found) in enumerate(rows):
        if y % 2:
            axis.axhspan(y - 0.5, y + 0.5, color="#f4f6f9", zorder=0)
        for kind, value in found.items():
            estimate, low, high = _bounds(value)
            place = kinds.index(kind)
            at = y + (place - (len(kinds) - 1) / 2) * step
            if not math.isfinite(estimate):
                continue
            if math.isfinite(low) and math.isfinite(high):
                ends = [max(low, floor), max(high, floor)]
                axis.plot(ends, [at, at], color=colour(place), linewidth=2.2, alpha=0.45, solid_capstyle="round")
            marker = MARKERS[place % len(MARKERS)] if estimate >= floor else "<"
            drawn = max(estimate, floor)
            axis.plot(drawn, at, marker=marker, color=colour(place), markersize=5.5, linestyle="", label=kind)
    for mark, meaning in marks:
        axis.axvline(mark, color=SOFT, linewidth=0.9, linestyle=":")
        axis.text(mark, -0.62, meaning, fontsize=7.5, color=SOFT, ha="center", va="bottom")
    axis.set_yticks(range(len(rows)), [_short(name, 40) for name, _ in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.set_xlim(limits[0] - margin, limits[1] + margin)
    axis.set_xlabel(label, fontsize=9, color=SOFT)
    _plain(axis)
    axis.tick_params(axis="y", length=0)
    _legend(figure, [axis])
    save_figure(figure, path)


def _bounds(value: Interval | Mapping[str, float | None]) -> list[float]:
    found = vars(value) if isinstance(value, Interval) else value
    return [math.nan if (v := found[part]) is None else float(v) for part in ("estimate", "low", "high")]


def shares(groups: Mapping[str, Mapping[str, float]], path: Path, *, expected: float | None = None) -> None:
    """Bars of shares, a panel for each group; the dotted line is what chance would give."""
    figure, axes = new_figure(3.7 * len(groups), 2.5, 1, len(groups), sharey=True)
    for axis, (title, values) in zip(axes, groups.items(), strict=True):
        axis.bar(range(len(values)), list(values.values()), color=COLOURS[0], width=0.66)
        axis.set_xticks(range(len(values)), list(values), fontsize=9)
        if expected is not None:
            axis.axhline(expected, color=COLOURS[1], linewidth=1.1, linestyle=":")
        axis.set_title(title, fontsize=10, color=INK)
        _plain(axis)
    axes[0].set_ylabel("mean probability", fontsize=9, color=SOFT)
    save_figure(figure, path)


def turns(
    scores: Mapping[str, NDArray[np.float64]],
    path: Path,
    targets: Sequence[Sequence[float]] | None = None,
    people: Sequence[str] = (),
) -> None:
    """Scores over the turns of a chat: a panel for each judged trait, thin lines for people, a thick one for their mean.

    Args:
        scores: system -> [people, turns, 5] in -5..5, nan where nothing was judged.
        path: of the picture.
        targets: [people][5] asked for (nan: nothing), drawn as dashes at the right edge; with one system only.
        people: their names, for the legend of one system; at most eight are named.
    """
    traits = [t for t in Trait if any(np.isfinite(x[:, :, t.position]).any() for x in scores.values())]
    figure, axes = new_figure(max(5.6, 2.5 * len(traits) + 0.6), 3.3, 1, len(traits), sharey=True)
    for axis, trait in zip(axes, traits, strict=True):
        axis.axhline(0, color=LINE, linewidth=0.8)
        for place, (name, table) in enumerate(scores.items()):
            own = table[:, :, trait.position]
            number = np.arange(1, own.shape[1] + 1)
            for person, row in enumerate(own):
                shade = colour(place if len(scores) > 1 else person)
                named = people[person] if len(scores) == 1 and person < len(people) <= 8 else "_"
                axis.plot(number, row, label=named, color=shade, linewidth=0.9, alpha=0.25 if len(scores) > 1 else 0.75)
                if targets is not None and len(scores) == 1 and math.isfinite(targets[person][trait.position]):
                    end = number[-1]
                    wanted = targets[person][trait.position]
                    axis.plot([end + 0.3, end + 1.1], [wanted] * 2, color=shade, linewidth=1.8, linestyle="-")
            if len(scores) > 1 or len(own) > 1:
                seen = np.isfinite(own)
                mean = np.where(seen.any(0), np.nansum(own, axis=0) / np.maximum(seen.sum(0), 1), np.nan)
                shade = colour(place) if len(scores) > 1 else INK
                axis.plot(number, mean, color=shade, linewidth=2.2, label=name if len(scores) > 1 else "mean")
        axis.set_title(trait.value, fontsize=10, color=INK)
        axis.set_xlabel("turn of the chat", fontsize=9, color=SOFT)
        axis.set_ylim(-_LIMIT, _LIMIT)
        axis.set_yticks([-5, 0, 5])
        _plain(axis)
    axes[0].set_ylabel("judged score", fontsize=9, color=SOFT)
    _legend(figure, axes)
    save_figure(figure, path)


def _colour_bar(figure: Any, image: Any, axes: Sequence[Any], label: str, shrink: float) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=shrink, pad=0.015)
    bar.set_label(label, fontsize=8, color=SOFT)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0)


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(_short(name, 40), handle)
    if len(found) > 1:
        columns = max(1, min(len(found), int(110 / (max(map(len, found)) + 8))))
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False
        )


def _plain(axis: Any) -> None:
    axis.grid(color=LINE, linewidth=0.5)
    axis.set_axisbelow(True)
    _bare(axis)


def _bare(axis: Any) -> None:
    for side in axis.spines.values():
        side.set_visible(False)
    axis.tick_params(labelsize=8.5, colors=SOFT, length=0)


def _short(text: str, most: int) -> str:
    """One line without mathematics: matplotlib reads what stands between dollar signs."""
    line = " ".join(text.replace("$", "\\$").split())
    return line if len(line) <= most else line[: most - 1] + "…"
