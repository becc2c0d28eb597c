"""Scores of people by one method, as a file: what questionnaires, judges and likelihoods are compared through.

A result file is a JSON object with `schema` 1, `method` (a name) and `respondents`: a list of objects with `label` (unique)
and `scores` (trait -> -5..5; traits may be missing). Further keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import checked, read_json
from dpg_fast.util.results import write_results

SCHEMA = 1
RESULTS = "results.json"


@dataclass(frozen=True)
class ScoreTable:
    """[people, 5] scores in -5..5, nan where a trait was not measured; `content` is the whole file, for reports."""

    method: str
    labels: tuple[str, ...]
    scores: NDArray[np.float64]
    content: Mapping[str, Any] = field(default_factory=dict)


def save_scores(path: Path | str, method: str, labels: Sequence[str], scores: ArrayLike, **more: Any) -> None:
    """Write a result file of [people, 5] scores, atomically; ``more`` goes beside them.

    Raises:
        ValueError: another shape, repeated labels, or scores out of range.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.shape != (len(labels), len(Trait)) or len(set(labels)) != len(labels):
        raise DPGError(f"{len(labels)} different labels need scores [{len(labels)}, 5], not {list(table.shape)}")
    if np.isinf(table).any() or (np.abs(table[np.isfinite(table)]) > MAX_SCORE).any():
        raise DPGError("scores lie in -5..5")
    respondents = [
        {"label": label, "scores": {t.value: row[t.position] for t in Trait if not math.isnan(row[t.position])}}
        for label, row in zip(labels, table.tolist(), strict=True)
    ]
    write_results(path, {"schema": SCHEMA, "method": method, "respondents": respondents} | more)


def load_scores(path: Path | str) -> ScoreTable:
    """Read a result file, or ``results.json`` of a folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of the format.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("method"), str):
        raise DPGError(f'{path}: a result file has "schema": {SCHEMA}, "method" and "respondents"')
    labels, rows = [], []
    for number, entry in enumerate(checked(list[Any], content.get("respondents") or [], f"{path}: respondents"), 1):
        where = f"{path}: respondent {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            raise DPGError(f'{where} needs a "label"')
        if not isinstance(entry.get("scores"), dict):
            raise DPGError(f'{where} needs "scores", an object of traits')
        own = parse_scores(entry["scores"], where)
        labels.append(entry["label"])
        rows.append([own.get(trait, math.nan) for trait in Trait])
    if not labels or len(set(labels)) != len(labels):
        raise DPGError(f"{path}: at least one respondent is needed, each with a label of its own")
    return ScoreTable(content["method"], tuple(labels), np.array(rows), content)


def parse_scores(given: Mapping[str, Any], where: str) -> dict[Trait, float]:
    """Scores of traits by name; those that are None are left out.

    Raises:
        ValueError: an unknown trait or the same one twice, or a score out of range; the message begins with ``where``.
    """
    found: dict[Trait, float] = {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_SCORE:
            raise DPGError(f"{where}: {name} = {value!r} is not a score in -5..5")
        try:
            trait = Trait.parse(name)
        except ValueError as error:
            raise DPGError(f"{where}: {error}") from error
        if trait in found:
            raise DPGError(f"{where}: {trait.value} is scored twice, once as {name}")
        found[trait] = float(value)
    return found


def common_people(tables: Sequence[ScoreTable]) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """The labels that all tables have, in the order of the first, and method -> their scores [people, 5].

    Methods of the same name are numbered.

    Raises:
        ValueError: no label is in all tables.
    """
    labels = [label for label in tables[0].labels if all(label in table.labels for table in tables)]
    if not labels:
        raise DPGError("these results have nobody in common: they are compared by the labels of their respondents")
    names = [table.method for table in tables]
    unique = [name if names.count(name) == 1 else f"{name} {n}" for n, name in enumerate(names, 1)]
    return labels, {
        name: table.scores[[table.labels.index(label) for label in labels]]
        for name, table in zip(unique, tables, strict=True)
    }
