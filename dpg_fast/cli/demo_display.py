"""What ``dpg-fast demo`` shows: answers with their scores, speed, and a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dpg_fast.judges.likelihood import Judgement
from dpg_fast.model.speed import StepTiming
from dpg_fast.personality.row import RowItem
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.util.files import write_atomically

_DARK = 3.0  # scores beyond it are written in white


@dataclass(frozen=True)
class DemoRow:
    """One row of a batch: the way it got its personality, its label, the personality, what it said, and the judge's view."""

    way: str
    label: str
    personality: RowItem
    answer: str
    judgement: Judgement


def answers_table(people: Sequence[DemoRow], title: str) -> Table:
    """Who said what, and how each answer scores on the five traits."""
    table = Table(title=title, show_lines=True)
    table.add_column("personality", no_wrap=True)
    table.add_column("answer", ratio=1)
    for trait in Trait:
        table.add_column(trait.letter, justify="right", no_wrap=True)
    for person in people:
        scores = person.judgement.scores
        table.add_row(
            person.label, person.answer or "(nothing)", *(f"{scores[t]:+.1f}" if t in scores else "-" for t in Trait)
        )
    return table


def speed_table(timings: Mapping[str, StepTiming], rows: int = 8) -> Table:
    """Tokens per second and time relative to the bare model."""
    table = Table(title=f"Decode, {rows} rows, float32, {torch.get_num_threads()} threads, timed alternately")
    table.add_column("model")
    for column in ("tokens/s", "time / bare"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        table.add_row(name, f"{rows / timing.seconds:.0f}", f"{timing.ratio:.2f}")
    return table


def plot(people: Sequence[DemoRow], question: str, output: Path) -> None:
    """Maps of judged scores, people by traits, one for each way side by side; a frame marks what was asked for.

    Args:
        people: the base (no personality) first; the people of each way in the same order.
        question: over the picture.
        output: PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    ways = list(dict.fromkeys(person.way for person in people))
    bare = [person for person in people if person.personality is None][:1]
    groups = {way: bare + [p for p in people if p.way == way and p.personality is not None] for way in ways}
    labels = [person.label for person in groups[ways[0]]]
    size = (1.6 + (5.2 if len(ways) == 1 else 3.6 * len(ways)), 1.6 + 0.5 * len(labels))
    figure, axes = plt.subplots(1, len(ways), figsize=size, layout="constrained", squeeze=False, sharey=True)
    image: Any = None
    for axis, (way, rows) in zip(axes[0], groups.items(), strict=True):
        scores = [[p.judgement.scores.get(t, float("nan")) for t in Trait] for p in rows]
        image = axis.imshow(scores, cmap="RdBu_r", vmin=-5, vmax=5, aspect="auto")
        for y, person in enumerate(rows):
            for x, trait in enumerate(Trait):
                own = person.personality
                asked = own.scores[trait.position] if isinstance(own, Personality) else 0
                text = f"{scores[y][x]:+.1f}" + (f"\n(asked {asked:+g})" if asked else "")
                colour = "white" if abs(scores[y][x]) > _DARK else "black"
                axis.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour)
                if asked:
                    axis.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, linewidth=1.6))
        axis.set_xticks(range(len(Trait)), [t.value if len(ways) == 1 else t.letter for t in Trait])
        axis.set_yticks(range(len(labels)), labels)
        axis.tick_params(length=0)
        axis.set_title(way if way != "both" else "neurons + hypernetwork", fontsize=10)
    figure.suptitle("\n".join(textwrap.wrap(question, 110, max_lines=3, placeholder=" ...")), fontsize=9)
    figure.colorbar(image, ax=axes, label="judged score (weak judge)", shrink=0.9)
    write_atomically(output, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
    plt.close(figure)
