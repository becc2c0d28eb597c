"""Figures over judgements of answers against references: accuracy by system and kind, rankings by aspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dpg_fast.judges.reference.prompts import ASPECTS
from dpg_fast.judges.validation.metrics import accuracy, rank_systems
from dpg_fast.util.results import write_results
from dpg_fast.util.store import read_rows


def accuracy_figures(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """ "items" (kind -> how many) and "accuracy" (system -> `metrics.Accuracy` as JSON; systems without a rating are missing).

    Args:
        rows: with "kind" and "ratings" (system -> "rating").
    """
    found: dict[str, list[tuple[str, float]]] = {}
    kinds: dict[str, int] = {}
    for row in rows:
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + 1
        for system, given in row["ratings"].items():
            found.setdefault(system, []).append((row["kind"], given["rating"]))
    return {"items": kinds, "accuracy": {system: asdict(accuracy(pairs)) for system, pairs in sorted(found.items())}}


def ranking_figures(rows: Iterable[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """ "ranking": aspect -> `metrics.Ranking` as JSON over the items that have one; aspects without any are missing.

    Args:
        rows: with "rankings" (aspect -> system -> "rank").
        resamples: bootstrap draws of the intervals.
        seed: of the bootstrap.
    """
    given = [row["rankings"] for row in rows]
    found = {}
    for aspect in ASPECTS:
        ranks = [{system: place["rank"] for system, place in r[aspect].items()} for r in given if aspect in r]
        if ranks:
            figures = rank_systems(ranks, resamples=resamples, seed=seed)
            found[aspect] = {
                "items": figures.questions,
                "mean_rank": {name: asdict(interval) for name, interval in figures.mean_rank.items()},
                "first": figures.first,
                "wins": [{"better": a, "worse": b, "share": share} for (a, b), share in figures.wins.items()],
            }
    return {"ranking": found}


def write_figures(protocol: Any, judgements: Path) -> tuple[Table, Path]:
    """What ``protocol.summarise`` makes of a file of judgements, as a table and as ``NAME.figures.json`` beside it."""
    rows = sorted(read_rows(judgements), key=lambda row: int(row["record"]))
    figures: dict[str, Any] = protocol.summarise(rows)
    path = judgements.with_name(f"{judgements.stem}.figures.json")
    write_results(path, {"protocol": protocol.name, "judged": len(rows)} | figures)
    return figures_table(figures), path


def figures_table(figures: Mapping[str, Any]) -> Table:
    """The figures, a row for each system."""
    table = Table(title="Answers against references")
    if "accuracy" in figures:
        kinds = [aspect for aspect in ASPECTS if figures["items"].get(aspect)]
        table.caption = "0-5; items: " + ", ".join(f"{n} {kind}" for kind, n in sorted(figures["items"].items()))
        for column in ("system", *kinds, "all", "share"):
            table.add_column(column, justify="left" if column == "system" else "right")
        for system, row in figures["accuracy"].items():
            means = [f"{row['by_kind'][kind]:.2f}" if kind in row["by_kind"] else "" for kind in kinds]
            table.add_row(escape(system), *means, f"{row['weighted']:.2f}", f"{row['share']:.0%}")
        return table
    table.caption = "mean rank, 1 is best, with 95% interval; first: share of items in which no other is better"
    for column in ("in", "system", "items", "mean rank", "first"):
        table.add_column(column, justify="left" if column in ("in", "system") else "right")
    for aspect, found in figures["ranking"].items():
        for system, rank in sorted(found["mean_rank"].items(), key=lambda entry: float(entry[1]["estimate"])):
            interval = escape(f"{rank['estimate']:.2f} [{rank['low']:.2f}, {rank['high']:.2f}]")
            table.add_row(aspect, escape(system), str(found["items"]), interval, f"{found['first'][system]:.0%}")
    return table
