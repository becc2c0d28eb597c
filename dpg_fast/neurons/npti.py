"""Read and write neuron lists in the format in which NPTI published them (RUCAIBox/NPTI, arXiv 2410.12327).

One JSON file for each pole, plain or gzipped, ``<Trait>_dict.json`` for the high pole and ``<Trait>_reversed_dict.json`` for
the low one: ``{"<layer>": [[layer, neuron, diff, prob, p95], ...], ...}``, rows of a layer by descending diff, layers in the
order of their best neuron. All values are float32 written as JSON numbers, so reading and writing them back loses nothing.

Why: docs/decisions.md, "Published lists go by name".
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dpg_fast.neurons.selection import PoleNeurons
from dpg_fast.neurons.statistics import EDGES
from dpg_fast.neurons.table import SteeringTable, check_neurons
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_atomically
from dpg_fast.util.identity import file_digest
from dpg_fast.util.reading import read_json, refusing

#: what the published lists were made on, and its shape
PUBLISHED_BASE = "meta-llama/Meta-Llama-3-8B-Instruct"
PUBLISHED_SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}

_NAME = re.compile(rf"({'|'.join(t.value for t in Trait)})(_reversed)?_dict\.json(\.gz)?", re.IGNORECASE)
_ROW = "[layer, neuron, diff, prob, p95]"
Row = tuple[int, int, float, float, float]


@dataclass(frozen=True)
class FileReport:
    """What one file held and what was done with it.

    Attributes:
        pole: "E+". name: of the file. sha256: of its bytes.
        listed: neurons in the file. kept: of these in the table.
        above_histogram: kept neurons whose p95 lies above 2.99, the last edge of the published code's histogram: the
            published lists were made with a longer one. They are kept as they are.
        largest_p95: of the kept neurons; None without any.
        not_finite: neurons left out because diff, prob or p95 is infinite or NaN (adding that would destroy the output), as
            {"p95 -Infinity": n, ...}.
        rounded: kept neurons with a value that float32 cannot hold and was rounded to one.
        reordered: whether the rows of some layer were not by descending diff and were sorted.
    """

    pole: str
    name: str
    sha256: str
    listed: int
    kept: int
    above_histogram: int
    largest_p95: float | None
    not_finite: dict[str, int]
    rounded: int
    reordered: bool


def import_lists(
    files: Mapping[Pole, Path], num_layers: int, intermediate: int
) -> tuple[SteeringTable, list[FileReport]]:
    """A steering table of published lists, and a report on each file.

    Args:
        files: one for each pole, see :func:`find_files`.
        num_layers: L of the model that the lists were made on.
        intermediate: I, neurons per layer.

    Raises:
        ValueError: a file is not of the format, lists a neuron twice, or one outside of the model.
        OSError: it cannot be read.
    """
    neurons: dict[Pole, PoleNeurons] = {}
    reports = []
    for pole, path in sorted(files.items(), key=lambda item: item[0].index):
        neurons[pole], report = _read(path, pole)
        with refusing(path.name):
            check_neurons(pole, neurons[pole], num_layers, intermediate)
        reports.append(report)
    origin = {"made_by": "import", "format": "npti", "files": [asdict(report) for report in reports]}
    return SteeringTable(neurons, num_layers, intermediate, origin), reports


def find_files(names: Sequence[str]) -> dict[Pole, Path]:
    """The file of each pole.

    Args:
        names: directories of published files, such files, or "E+=FILE" for files of other names.

    Raises:
        ValueError: a name is of no file, or says nothing about the pole, a pole has two files, or none was found.
    """
    found: dict[Pole, Path] = {}

    def add(pole: Pole, path: Path) -> None:
        if pole in found:
            raise DPGError(f"{pole} has two files: {found[pole]} and {path}")
        found[pole] = path

    for name in names:
        path = Path(name)
        if path.is_dir():
            for file in sorted(path.iterdir()):
                pole = pole_of_name(file.name)
                if pole is not None:
                    add(pole, file)
            continue
        prefix, separator, rest = name.partition("=")
        named = None if path.is_file() or not separator else Pole.parse(prefix)
        if named is not None:
            path = Path(rest)
        if not path.is_file():
            raise DPGError(f"{path}: no such file or folder")
        pole = named or pole_of_name(path.name)
        if pole is None:
            raise DPGError(
                f"{path}: which pole is it? Published files are called Extraversion_dict.json or "
                "Extraversion_reversed_dict.json (also .gz); give others as E+=FILE"
            )
        add(pole, path)
    if not found:
        raise DPGError(f"no <Trait>_dict.json or <Trait>_reversed_dict.json in {', '.join(names) or 'nothing'}")
    return found


def pole_of_name(name: str) -> Pole | None:
    """The pole of a published file name, or None for other names."""
    match = _NAME.fullmatch(name)
    return None if match is None else Pole(Trait.parse(match[1]), match[2] is None)


def file_name(pole: Pole) -> str:
    """What NPTI calls the file of ``pole``."""
    return f"{pole.trait.value.capitalize()}{'' if pole.high else '_reversed'}_dict.json"


def to_json(found: PoleNeurons) -> dict[str, list[list[float]]]:
    """The content of a published file: rows of each layer by descending diff, layers in the order of their best neuron."""
    order = found.diff.argsort(descending=True, stable=True)
    columns = (found.layer, found.neuron, found.diff, found.prob, found.p95)
    result: dict[str, list[list[float]]] = {}
    for row in zip(*(column[order].tolist() for column in columns), strict=True):
        result.setdefault(str(row[0]), []).append(list(row))
    return result


def export_lists(table: SteeringTable, directory: Path, *, compress: bool = False) -> list[Path]:
    """Write one published-format file for each pole of ``table``.

    Args:
        table: its base model and strengths have no place in the format and are left out.
        directory: made if needed.
        compress: write ``.json.gz``.

    Returns:
        The files.
    """
    paths = []
    for pole in table.poles:
        content = json.dumps(to_json(table.neurons[pole]), indent=4).encode()
        path = directory / (file_name(pole) + (".gz" if compress else ""))
        data = gzip.compress(content, mtime=0) if compress else content
        write_atomically(path, lambda temporary, data=data: Path(temporary).write_bytes(data))  # type: ignore[misc]
        paths.append(path)
    return paths


def _read(path: Path, pole: Pole) -> tuple[PoleNeurons, FileReport]:
    rows = _rows(path)
    not_finite: dict[str, int] = {}
    kept = []
    for row in rows:
        bad = [
            f"{field} {_literal(x)}"
            for field, x in zip(("diff", "prob", "p95"), row[2:], strict=True)
            if not math.isfinite(x)
        ]
        for what in bad:
            not_finite[what] = not_finite.get(what, 0) + 1
        if not bad:
            kept.append(row)
    by_diff = sorted(kept, key=lambda row: -row[2])  # stable: equal ones stay in the file's order
    values = torch.tensor([row[2:] for row in by_diff], dtype=torch.float64).reshape(-1, 3)
    stored = values.float()
    places = torch.tensor([row[:2] for row in by_diff], dtype=torch.int32).reshape(-1, 2)
    found = PoleNeurons(places[:, 0], places[:, 1], stored[:, 0], stored[:, 1], stored[:, 2])
    layers: dict[int, list[Row]] = {}
    for row in kept:
        layers.setdefault(row[0], []).append(row)
    ordered = [row for part in layers.values() for row in sorted(part, key=lambda r: -r[2])]
    report = FileReport(
        pole=str(pole),
        name=path.name,
        sha256=file_digest(path, 64),
        listed=len(rows),
        kept=len(kept),
        above_histogram=int((found.p95 > EDGES[-1]).sum()),
        largest_p95=float(found.p95.max()) if kept else None,
        not_finite=not_finite,
        rounded=int((stored.double() != values).any(1).sum()),
        reordered=ordered != kept,
    )
    return found, report


def _rows(path: Path) -> list[Row]:
    """All rows of a file, in its order."""
    name = path.name
    content = read_json(path, unpack=True, finite=False)
    if not isinstance(content, dict):
        raise DPGError(f"{name}: expected an object of layers, got {type(content).__name__}")
    rows: list[Row] = []
    seen: set[tuple[int, int]] = set()
    for layer, listed in content.items():
        if not isinstance(listed, list):
            raise DPGError(f"{name}, layer {layer}: expected a list of rows {_ROW}")
        for row in listed:
            rows.append(_row(row, f"{name}, layer {layer}"))
            if str(row[0]) != layer:
                raise DPGError(f"{name}, layer {layer}: a row says layer {row[0]}")
            if (row[0], row[1]) in seen:
                raise DPGError(f"{name}, layer {layer}: neuron {row[1]} is listed twice")
            seen.add((row[0], row[1]))
    return rows


def _row(row: Any, where: str) -> Row:
    good = isinstance(row, list) and len(row) == 5
    good = good and all(type(x) is int and 0 <= x < 2**31 for x in row[:2])
    good = good and all(type(x) is float or (type(x) is int and abs(x) < 2**63) for x in row[2:])
    if not good:
        raise DPGError(f"{where}: {str(row)[:80]} is not {_ROW}")
    layer, neuron, diff, prob, p95 = row
    if (math.isfinite(diff) and abs(diff) > 1) or (math.isfinite(prob) and not 0 <= prob <= 1):
        raise DPGError(f"{where}: diff {diff} or prob {prob} is no (difference of) probabilities")
    return layer, neuron, float(diff), float(prob), float(p95)


def _literal(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
