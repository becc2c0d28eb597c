"""``dpg-fast assess pairs`` and ``score-pairs``: a sheet of blind pairs for people, and its score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.options import OptionalOutFile, OutFolder, Seed, folder, option, words


def pairs(
    results: Annotated[Path, typer.Argument(help="Results of evaluate traits, or the folder with its results.json.")],
    out: OutFolder,
    methods: Annotated[
        str | None,
        option("Methods whose answers are taken, with commas between them; by default all but the bare model."),
    ] = None,
    limit: Annotated[int | None, option("Most pairs of each method and trait; all by default.", min=1)] = None,
    seed: Seed = 0,
) -> None:
    """Write a sheet of answers from the two ends of each trait, side by side and unmarked, for people to read blind.

    The column "higher" of sheet.csv takes A, B, or ? for each pair; key.json says which is which and is not for the reader.
    """
    from dpg_fast.evaluation.witnesses.pairs import write_pairs

    folder(out)
    sheet, count, alike = write_pairs(
        results, out, methods=None if methods is None else words(methods), limit=limit, seed=seed
    )
    typer.echo(f"{count} pairs written to {sheet}; {alike} more are alike word for word and count as open")


def score_pairs(
    sheet: Annotated[Path, typer.Argument(help="A filled sheet, or the folder with sheet.csv and key.json.")],
    key: Annotated[Path | None, option("Key of the sheet; by default key.json beside it.")] = None,
    out: OptionalOutFile = None,
) -> None:
    """Score a filled sheet of blind pairs: right, wrong and open for each method and trait, with intervals."""
    from rich.console import Console

    from dpg_fast.evaluation.witnesses.pairs import KEY, SHEET
    from dpg_fast.evaluation.witnesses.pairs import score_pairs as score
    from dpg_fast.reporting.render import on_terminal
    from dpg_fast.util.results import json_ready, write_results

    place = sheet / SHEET if sheet.is_dir() else sheet
    found = score(place, key or place.parent / KEY)
    Console().print(on_terminal(found.table()))
    if out is not None:
        write_results(out, json_ready(found.to_dict()))
        typer.echo(f"Written to {out}")
