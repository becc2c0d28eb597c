"""The report of a long chat: whether a personality holds from the first turn to the last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.judges.sections import software, system_names
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import (
    Block,
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    bounds,
    charts,
    number,
)
from dpg_fast.reporting.page import MISSING
from dpg_fast.reporting.render import write_report
from dpg_fast.util.errors import DPGError
from dpg_fast.util.stats import mean_of
from dpg_fast.util.words import counted

_PEOPLE = 6  # whose first and last answers are shown


def write_drift_report(runs: Sequence[Mapping[str, Any]], directory: Path) -> Path:
    """Write the report of one chat, or of several systems' chats beside each other.

    Args:
        runs: contents of ``drift.json`` files: `Drift.to_dict()` with `method`, `settings` and what else there is.
        directory: for ``report.html``, ``report.json`` and the picture.

    Returns:
        The page's path.

    Raises:
        ValueError: no run.
        ImportError: matplotlib or jinja2 is missing.
    """
    if not runs:
        raise DPGError("a report needs at least one chat")
    named = dict(zip(system_names(runs), runs, strict=True))
    scores = {name: np.array(run["scores"], dtype=np.float64) for name, run in named.items()}  # None becomes nan
    first = runs[0]
    targets = [[math.nan if v is None else v for v in row] for row in first["targets"]]
    charts.turns(scores, directory / "turns.png", targets if len(named) == 1 else None, first["labels"])
    caption = (
        "Judged score at every turn. Thin lines: people; dark line: their mean; dashes at the right: what was asked for."
        if len(named) == 1
        else "Judged score at every turn. Thin lines: people; thick lines: mean of each system."
    )
    sections = [
        Section("Overview", [_cards(named)]),
        Section("Turn by turn", [Picture("turns.png", "Judged scores over the turns", caption), _slopes(named)]),
        Section("Distance to what was asked for", [_distances(named)]),
        Section("First and last answers", _quotes(named)),
        Section("Settings and cost", [*(Settings(_about(run)) for run in runs), Settings({"software": software()})]),
    ]
    page = Page(
        title="Drift over a long chat",
        subtitle="; ".join(
            f"{n}: {counted(len(r['labels']), 'person', 'people')}, {counted(len(r['turns']), 'turn')}"
            for n, r in named.items()
        ),
        lead=" ".join(_lead(run, name if len(named) > 1 else "") for name, run in named.items()),
        sections=sections,
        data={"systems": {name: dict(run) for name, run in named.items()}},
    )
    return write_report(page, directory)


def _lead(run: Mapping[str, Any], name: str) -> str:
    moving = [
        f"{trait} ({s['per_turn']:+.2f} a turn)"
        for trait, s in run["slopes"].items()
        if s["low"] is not None and (s["low"] > 0 or s["high"] < 0)
    ]
    who = f"{name}: " if name else ""
    if moving:
        return f"{who}Mean scores move over the chat on {', '.join(moving)}."
    return f"{who}No trait's mean score is shown to move over the chat: every slope's interval includes 0."


def _cards(named: Mapping[str, Mapping[str, Any]]) -> Cards:
    cards = []
    for name, run in named.items():
        distances = [math.nan if value is None else value for value in run["distances"]]
        third = max(1, len(distances) // 3)
        first, last = mean_of(distances[:third]), mean_of(distances[-third:])
        lead = f"{name}: " if len(named) > 1 else ""
        cards.append((f"{lead}distance, first third", number(first), "levels from what was asked for"))
        cards.append((f"{lead}distance, last third", number(last), "larger means that it was lost"))
    return Cards(cards)


def _slopes(named: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [[name, trait, slope_text(s)] for name, run in named.items() for trait, s in run["slopes"].items()]
    caption = "Change of the mean score per turn, with 95% bootstrap interval over people (over turns with one person)"
    return Table(["system", "trait", "per turn"], rows, caption, left=2)


def slope_text(slope: Mapping[str, float | None]) -> str:
    """A slope of a ``drift.json`` with its interval."""
    return bounds({**slope, "estimate": slope["per_turn"]}, "{:+.3f}")


def _distances(named: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    longest = max(len(run["turns"]) for run in named.values())
    for n in range(longest):
        turn = next(run["turns"][n] for run in named.values() if n < len(run["turns"]))
        cells = [number(run["distances"][n]) if n < len(run["turns"]) else MISSING for run in named.values()]
        rows.append([str(n + 1), turn, *cells])
    caption = "Mean absolute distance between judged and asked-for scores, on traits that were asked for"
    return Table(["turn", "what the user says", *named], rows, caption, left=2)


def _quotes(named: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    quotes = []
    for name, run in named.items():
        for place, label in list(enumerate(run["labels"]))[:_PEOPLE]:
            for turn in (0, len(run["turns"]) - 1):
                judged = zip(Trait, run["scores"][place][turn], strict=True)
                note = ", ".join(f"{trait.letter} {value:+.1f}" for trait, value in judged if value is not None)
                who = f"{label}, turn {turn + 1}" + (f" · {name}" if len(named) > 1 else "")
                quotes.append(Quote(who, run["answers"][place][turn] or "(nothing)", run["turns"][turn], note))
    return [Quotes(quotes)]


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"schema", "labels", "turns", "answers", "scores", "slopes", "distances", "targets", "respondents"}
    return {name: value for name, value in run.items() if name not in shown}
