"""``dpg-fast neurons info``, ``import`` and ``export``: adapters and published lists, without running a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from dpg_fast.cli.neurons.find import equal_or_ten
from dpg_fast.cli.neurons.report import description, import_line, print_table
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.model import Calibration
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.fingerprint import mismatch, unsampled
from dpg_fast.neurons import SteeringTable, npti
from dpg_fast.neurons.summary import summarise
from dpg_fast.util.errors import DPGError


def read_adapter(adapter: str) -> tuple[dict[str, Any], SteeringTable, Calibration | None]:
    """Configuration, steering table and calibration of an adapter, without its base model.

    Raises:
        ValueError: it is no adapter, or has no neurons.
    """
    directory = artifact.locate(adapter)
    neurons, stored = artifact.part_file(directory, "neurons"), artifact.part_file(directory, "calibration")
    if neurons is None or stored is None:
        raise DPGError(f"{adapter} has no personality neurons")
    calibration = Calibration.load(stored) if stored.is_file() else None
    return artifact.read_config(directory), SteeringTable.load(neurons), calibration


def show_adapter(adapter: str, plots: Path | None, as_json: bool, console: Console | None = None) -> None:
    """Print what an adapter's neurons are, and draw them into ``plots``.

    Raises:
        ValueError: as :func:`read_adapter`.
        ImportError: pictures are wanted and matplotlib is missing.
    """
    console = console or Console()
    config, table, calibration = read_adapter(adapter)
    if as_json:
        print(json.dumps({"base_model": config["base_model"]["name"], **summarise(table)}))
    else:
        console.print(description(config, table, calibration))
        print_table(table, console)
    if plots is not None:
        from dpg_fast.neurons.plots import draw_all

        for path in draw_all(table, plots, config["base_model"]["name"]):
            if not as_json:
                console.print(f"Drawn in {path}")


def import_adapter(
    output: Path,
    files: Sequence[str],
    base_model: str | None,
    shape: tuple[int, int],
    fingerprint_from: str | None,
    strengths: Sequence[float],
    console: Console | None = None,
) -> None:
    """Write an adapter of published lists and print what was found in them.

    Args:
        output: adapter directory.
        files: as :func:`dpg_fast.neurons.npti.find_files` takes them.
        base_model: id of the model they belong to; None for that of the published lists.
        shape: its layers and neurons per layer.
        fingerprint_from: where it can be loaded from; None leaves the weights unknown, and the base is then recognised by its
            id and sizes.
        strengths: at level 5, one or ten.

    Raises:
        ValueError: a file is not of the format, or does not fit the shape, or the loaded model does not.
    """
    console = console or Console()
    if output.exists() and not output.is_dir():
        raise DPGError(f"{output} is a file; name a directory to write the adapter to")
    calibration = Calibration(equal_or_ten(strengths))
    name = base_model or npti.PUBLISHED_BASE
    sizes = {"num_hidden_layers": shape[0], "intermediate_size": shape[1]}
    if name == npti.PUBLISHED_BASE:
        wrong = {key: value for key, value in sizes.items() if npti.PUBLISHED_SHAPE[key] != value}
        if wrong:
            raise DPGError(f"{name} does not have {wrong}; name the lists' own model with --base-model")
        sizes = npti.PUBLISHED_SHAPE
    table, reports = npti.import_lists(npti.find_files(files), *shape)
    base: dict[str, Any] = {"name": name, "fingerprint": unsampled(sizes)}
    if fingerprint_from is not None:
        from dpg_fast.util.models import load_base

        loaded, _ = load_base(fingerprint_from)
        reason = mismatch(base["fingerprint"], loaded, model_name(loaded))
        if reason is not None:
            raise DPGError(f"{fingerprint_from} is not {name}: {reason}")
        base["fingerprint"] = artifact.describe_base(loaded)["fingerprint"]
    for report in reports:
        console.print(f"{report.pole} {report.name}: {import_line(asdict(report))}", highlight=False)
    shared = _both_poles(table)
    if shared:
        console.print(f"Listed for both poles of one trait, so capped and added to at once: {shared}")
    artifact.write(output, base, None, table, calibration, "")
    print_table(table, console)
    if fingerprint_from is None:
        console.print(
            f"The lists belong to {name}. Its weights were not at hand, so loading goes by that id and the sizes; other "
            "models are refused unless allow_mismatch=True"
        )
    console.print(f"Saved to {output}")


def export_adapter(adapter: str, output: Path, *, compress: bool, console: Console | None = None) -> None:
    """Write an adapter's lists in NPTI's format and name the files.

    Raises:
        ValueError: as :func:`read_adapter`.
    """
    console = console or Console()
    _, table, _ = read_adapter(adapter)
    for path in npti.export_lists(table, output, compress=compress):
        console.print(f"Wrote {path}")


def _both_poles(table: SteeringTable) -> str:
    from dpg_fast.neurons.summary import overlap_counts

    counts = overlap_counts(table.neurons, table.num_layers, table.intermediate)
    pairs = [pole for pole in table.poles if pole.high and int(counts[pole.index, pole.opposite.index])]
    return ", ".join(f"{pole.trait} {int(counts[pole.index, pole.opposite.index])}" for pole in pairs)
