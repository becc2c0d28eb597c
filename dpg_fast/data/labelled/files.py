"""A labelled dataset as files: JSON Lines that ``datasets.load_dataset`` reads, a card, pictures, what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from dpg_fast import __version__
from dpg_fast.data.labelled.build import CharacterRecord, Dataset, problems_of
from dpg_fast.data.labelled.prepare import SPLITS, Prepared
from dpg_fast.data.labelled.settings import LabelSettings
from dpg_fast.personality.scores import TRAITS
from dpg_fast.text.records import write_records
from dpg_fast.util.files import write_text
from dpg_fast.util.words import counted

MANIFEST = "manifest.json"
CARD = "README.md"
PICTURES = ("scores.png", "characters.png")


def write_dataset(
    out: Path,
    dataset: Dataset,
    prepared: Prepared,
    settings: LabelSettings,
    judge: str,
    about: Mapping[str, Any],
    cost: Mapping[str, Any] | None = None,
    *,
    plots: bool = True,
) -> dict[str, Any]:
    """Write everything to the folder ``out`` and return the manifest, which is written last.

    Files: ``{split}.jsonl`` (records; none for an empty split), ``characters.jsonl``, ``dropped.jsonl`` with reasons,
    ``problems.jsonl`` (of the scripts), ``README.md`` (the card), pictures, ``manifest.json``.

    Args:
        judge: what it is and how far it can be trusted, in plain words.
        about: judge and generator, JSON-ready.
        cost: what was paid.
        plots: draw the pictures; they need matplotlib.
    """
    for split in SPLITS:
        file = out / f"{split}.jsonl"
        if dataset.records[split]:
            write_records(file, dataset.records[split])
        else:
            file.unlink(missing_ok=True)
    write_records(out / "characters.jsonl", dataset.characters)
    write_records(out / "dropped.jsonl", [*dataset.dropped, *dataset.unjudged])
    problems = problems_of(prepared.scripts)
    write_text(out / "problems.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in problems))
    if plots:
        from dpg_fast.data.labelled.pictures import draw_characters, draw_scores

        draw_scores(dataset, out / PICTURES[0])
        draw_characters(dataset.characters, out / PICTURES[1])
    else:
        for name in PICTURES:
            (out / name).unlink(missing_ok=True)
    manifest = {
        "dpg_fast": __version__,
        **about,
        "settings": asdict(settings),
        "scripts": [
            {
                "name": script.name,
                "format": script.format,
                "scenes": len(script.scenes),
                "speeches": sum(1 for _ in script.speeches()),
                "problems": len(script.problems),
                "merged": script.merged,
                "not_merged": [list(pair) for pair in script.unmerged],
            }
            for script in prepared.scripts
        ],
        "records": {split: len(dataset.records[split]) for split in SPLITS},
        "generated": sum(record.origin is not None and record.origin.generated for record in dataset.records["train"]),
        "characters": dict(Counter(row.split for row in dataset.characters)),
        "dropped": dict(Counter(row.reason for row in dataset.dropped)),
        "imputed": sum(bool(r.origin and r.origin.imputed) for s in SPLITS for r in dataset.records[s]),
        "unjudged": len(dataset.unjudged),
        "cost": dict(cost or {}),
    }
    write_text(out / CARD, _card(dataset, manifest, settings, judge, plots))
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _card(dataset: Dataset, manifest: Mapping[str, Any], settings: LabelSettings, judge: str, plots: bool) -> str:
    splits = [split for split in SPLITS if dataset.records[split]]
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    records = [record for split in splits for record in dataset.records[split]]
    words = sum(len(turn.content.split()) for r in records for turn in r.messages if turn.role == "assistant")
    meaning = {
        "train": "for training",
        "test_scene": "characters of the training split in scenes that it does not hold",
        "test_character": "characters of whom the training split holds nothing",
    }
    rows = "".join(
        f"| {split} | {len(dataset.records[split])} | {len({r.character for r in dataset.records[split]})} | "
        f"{sum(1 for r in dataset.records[split] if r.origin and r.origin.generated)} | {meaning[split]} |\n"
        for split in splits
    )
    mixed = "" if settings.keep_mixed else " No test character speaks in a training conversation."
    label = "its character's centre" if settings.label == "centre" else "the judge's scores of this conversation"
    rounded = ", rounded to whole levels" if settings.integers else ""
    nearest = [row.nearest for row in dataset.characters if row.nearest is not None and row.new]
    new = (
        f" The test characters' centres are {min(nearest):.2f} to {max(nearest):.2f} away from the closest training "
        "character's (Euclidean; each scale runs from -5 to 5)."
        if nearest
        else ""
    )
    if settings.min_distance:
        gone = sum(row.new is False for row in dataset.characters)
        new += (
            f" {settings.min_distance:g} was the least; {counted(gone, 'test character')} who lie nearer were left out."
        )
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest["dropped"].items()) or "nothing"
    pictures = (
        "\n![Distribution of the judge's scores](scores.png)\n\n![Centres and spreads of the characters](characters.png)\n"
        if plots
        else ""
    )
    imputed = (
        f" In {counted(manifest['imputed'], 'conversation')} the judge found no evidence of one to "
        f"{settings.max_missing} traits: "
        "`judge.scores` is null there, the character's centre stands for them, and `origin.imputed` names them."
        if manifest["imputed"]
        else ""
    )
    scripts = ", ".join(
        f"{row['name']} ({row['format']}, {counted(row['speeches'], 'speech', 'speeches')})"
        for row in manifest["scripts"]
    )
    generated = (
        f"\n{manifest['generated']} training conversations are not from the scripts: a model wrote them in a character's manner, "
        f"and the judge put them within {settings.near:g} x the character's own radius of its centre.\n"
        if manifest["generated"]
        else ""
    )
    template = resources.files("dpg_fast").joinpath("assets", "dataset_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        files=files,
        version=__version__,
        scripts=scripts,
        rows=rows,
        count=len(records),
        words=words,
        mixed=mixed,
        new=new,
        generated=generated,
        label=label,
        rounded=rounded,
        traits=", ".join(TRAITS),
        imputed=imputed,
        dropped=dropped,
        judge=judge,
        table=_table(dataset.characters),
        pictures=pictures,
    )


def _table(characters: Sequence[CharacterRecord]) -> str:
    columns = ("character", "script", "split", "segments", "outliers", *"OCEAN", "nearest in training")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in characters:
        if row.centre is None or row.spread is None:
            values = ["", "", "", "", ""]
        else:
            values = [f"{mean:+.1f} ± {spread:.1f}" for mean, spread in zip(row.centre, row.spread, strict=True)]
        closest = "" if row.nearest is None else f"{row.nearest:.2f} ({row.nearest_character})"
        if row.new is False:
            closest = f"{closest} left out".strip()
        name, cast, closest = (text.replace("|", "\\|") for text in (row.character, row.cast, closest))
        cells = [name, cast, row.split, str(sum(row.segments.values())), str(row.outliers), *values, closest]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
