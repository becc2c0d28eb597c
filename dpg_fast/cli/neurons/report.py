"""Tables about personality neurons for the terminal: ``dpg-fast neurons find``, ``import`` and ``info`` print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dpg_fast.model.calibration import Calibration
from dpg_fast.neurons import SteeringTable
from dpg_fast.neurons.summary import QUANTILES, jaccard, overlap_counts, value_quantiles
from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, POLES, Personality


def print_table(table: SteeringTable, console: Console) -> None:
    """Print counts, values, counts per layer and overlap of a steering table."""
    for part in (neuron_counts(table), layer_counts(table), overlap(table)):
        console.print(part)


def neuron_counts(table: SteeringTable) -> Table:
    """How many neurons each pole has, and the 5%, 50% and 95% quantiles of their values."""
    result = Table(
        title=f"Personality neurons of {table.num_layers} layers x {table.intermediate} neurons",
        caption="Values: 5%, median, 95%. layer: the median. add: what steering at strength 1 adds to the activation",
    )
    for column in ("pole", "neurons", "layer", "diff", "p95", "add"):
        result.add_column(column, justify="right")
    everywhere = table.num_layers * table.intermediate
    for pole in table.poles:
        found = table.neurons[pole]
        middle = int(found.layer.sort().values[len(found) // 2])
        values = value_quantiles(found)
        spread = (_spread(values[name]) for name in ("diff", "p95", "add"))
        result.add_row(str(pole), f"{len(found)} ({len(found) / everywhere:.1%})", str(middle), *spread)
    return result


def layer_counts(table: SteeringTable) -> Table:
    """Neurons of each pole in each layer."""
    result = Table(title="Neurons per layer")
    result.add_column("layer", justify="right")
    counts = table.counts_per_layer()
    for pole in table.poles:
        result.add_column(str(pole), justify="right")
    for layer in range(table.num_layers):
        result.add_row(str(layer), *(str(int(counts[pole][layer])) for pole in table.poles))
    result.add_section()
    result.add_row("all", *(str(len(table.neurons[pole])) for pole in table.poles))
    return result


def overlap(table: SteeringTable) -> Table:
    """Neurons that poles share: counts below the diagonal, Jaccard indices above it, each pole's own number on it."""
    result = Table(title="Shared neurons: counts below the diagonal, intersection / union above it")
    result.add_column("")
    counts = overlap_counts(table.neurons, table.num_layers, table.intermediate)
    shares = jaccard(counts)
    poles = [pole for pole in POLES if pole in table.poles]
    for pole in poles:
        result.add_column(str(pole), justify="right")
    for row, pole in enumerate(poles):
        cells = []
        for column, other in enumerate(poles):
            count, share = int(counts[pole.index, other.index]), float(shares[pole.index, other.index])
            cells.append(f"[bold]{count}[/bold]" if row == column else f"{share:.2f}" if column > row else str(count))
        result.add_row(str(pole), *cells)
    return result


def description(config: dict[str, Any], table: SteeringTable, calibration: Calibration | None) -> Table:
    """Base model, how the lists were made, and the strengths that levels are mapped to."""
    result = Table(show_header=False, title="Adapter")
    base = config["base_model"]
    sampled = len(base["fingerprint"]["weights"])
    check = f"recognised by {sampled} sampled weight tensors" if sampled else "recognised by its id and sizes alone"
    result.add_row("base model", f"{base['name'] or 'not named'} ({check})")
    sizes = {key: value for key, value in base["fingerprint"]["shape"].items() if value is not None}
    result.add_row("its sizes", ", ".join(f"{key} {value}" for key, value in sizes.items()))
    result.add_row("hypernetwork", "yes" if config["hypernet"] is not None else "none")
    for line, value in origin_lines(table.origin):
        result.add_row(line, value)
    if calibration is None:
        result.add_row("calibration", "none stored: strength 1 at level 5")
    else:
        strengths = {}
        for pole in table.poles:
            end = Personality({pole.trait.value: MAX_SCORE if pole.high else MIN_SCORE})
            strengths[str(pole)] = calibration.strengths(end)[pole.index]
        result.add_row("calibration", f"strength at the end of the scale: {_strengths(strengths)}")
        curves = {str(pole): curve.fitted for pole, curve in calibration.curves.items()}
        if curves:
            reached = (f"{pole} {fit['score_at_5']:+.1f}" for pole, fit in curves.items() if "score_at_5" in fit)
            result.add_row("fitted curves", f"judged score at level 5: {', '.join(reached) or 'not recorded'}")
    return result


def origin_lines(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the lists were made, as pairs of a heading and a text."""
    if origin.get("made_by") == "search":
        settings = dict(origin["settings"])
        rule = settings.pop("selection")
        asked = ", ".join(f"{trait} {count}" for trait, count in origin["questions"].items())
        tokens = origin["decode_tokens"]
        return [
            ("made by", "search on the model itself"),
            ("answers", f"{asked}, for each of two poles"),
            ("decode tokens", ", ".join(f"{pole} {count:,}" for pole, count in tokens.items())),
            ("generation", _settings(settings)),
            ("selection", _settings(rule)),
        ]
    if origin.get("made_by") == "import":
        lines = [("made by", f"import of lists in the format of {str(origin['format']).upper()}")]
        return lines + [(f"{file['pole']} from", f"{file['name']}: {import_line(file)}") for file in origin["files"]]
    return [("made by", "not recorded")]


def import_line(report: Mapping[str, Any]) -> str:
    """What an imported file held and what was done with it, given the fields of a ``FileReport``."""
    parts = [f"{report['listed']:,} neurons listed, {report['kept']:,} taken"]
    for what, count in report["not_finite"].items():
        parts.append(f"{count} left out: {what}")
    if report["above_histogram"]:
        parts.append(
            f"{report['above_histogram']} with p95 above 2.99, the last edge of the published code, kept "
            f"(largest {report['largest_p95']:.2f})"
        )
    if report["rounded"]:
        parts.append(f"{report['rounded']} rounded to float32")
    if report["reordered"]:
        parts.append("rows were not by descending diff: sorted")
    return "; ".join(parts)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _strengths(strengths: Mapping[str, float]) -> str:
    if len(set(strengths.values())) == 1:
        return f"{next(iter(strengths.values())):g} for every pole"
    return ", ".join(f"{name} {value:g}" for name, value in strengths.items())


def _spread(values: Sequence[float]) -> str:
    """The quantiles between the extremes, without leading zeros: three columns have to fit into a terminal."""
    inner = (f"{value:.2f}" for value, at in zip(values, QUANTILES, strict=True) if 0 < at < 1)
    return " ".join(text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text for text in inner)
