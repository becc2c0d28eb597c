"""``dpg-fast neurons``: find personality neurons, look at them, calibrate, import and export published lists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    BaseModel,
    BatchSize,
    MaxNewTokens,
    Mismatch,
    OptionalBaseModel,
    OptionalOutFile,
    OutFolder,
    Questions,
    Seed,
    Traits,
    option,
)
from dpg_fast.cli.servers import takes_judge
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice

neurons = group("Find personality neurons, look at them, calibrate them, import and export published lists.")

Strengths = Annotated[
    list[float] | None,
    option("Steering strength at level 5; given once, or ten times in the order O+ O- C+ ... N-.", min=0),
]


class Criterion(StrEnum):
    """What makes a neuron one of a pole's."""

    PROBABILITY = "probability"
    EFFECT = "effect"


class Overlap(StrEnum):
    """What happens to neurons of several traits."""

    KEEP = "keep"
    STRONGEST = "strongest"
    DROP = "drop"


class ListFormat(StrEnum):
    """File formats of neuron lists."""

    NPTI = "npti"


@neurons.command("find")
def find(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    traits: Traits = "OCEAN",
    repeats: Annotated[
        int, option("Number of times that each question is asked, each time as another person.", min=1)
    ] = 2,
    max_new_tokens: MaxNewTokens = 64,
    batch_size: BatchSize = 24,
    criterion: Annotated[
        Criterion,
        option(
            "Rule of choice: probability is NPTI's, effect is DPN-LE's (mean activation and Cohen's d over answers)."
        ),
    ] = Criterion.PROBABILITY,
    minimum: Annotated[int, option("Neurons that are kept whatever their difference (probability).", min=0)] = 2000,
    threshold: Annotated[
        float, option("Smallest difference in firing probability of further neurons (probability).")
    ] = 0.1,
    quantile: Annotated[
        float, option("Share of all shifts of the mean that a neuron's shift has to exceed (effect).", min=0, max=1)
    ] = 0.995,
    cohens_d: Annotated[float, option("Cohen's d that a neuron has to exceed (effect).")] = 0.8,
    layers: Annotated[str | None, option('First and last layer to choose from, such as "12-31".')] = None,
    top_k: Annotated[int | None, option("Most neurons of a pole.", min=1)] = None,
    min_per_layer: Annotated[str, option('Fewest neurons in a layer: a count, or a share such as "0.5%".')] = "0",
    max_per_layer: Annotated[str | None, option('Most neurons in a layer: a count, or a share such as "5%".')] = None,
    overlap: Annotated[
        Overlap,
        option("What happens to neurons of several traits: keep them in all, in the strongest only, or drop them."),
    ] = Overlap.KEEP,
    strength: Strengths = None,
    statistics: Annotated[
        Path | None,
        option("Folder that keeps the statistics; a later search with them only chooses again, in seconds."),
    ] = None,
    seed: Seed = 0,
    dense_only: Annotated[
        bool, option("Accept a mixture of experts, of which only the shared experts are searched.", "--dense-only")
    ] = False,
) -> None:
    """Find a model's personality neurons on the bundled questions and save them as an adapter."""
    from dpg_fast.cli.neurons.find import FindOptions, run_find
    from dpg_fast.neurons import SearchSettings, SelectionRule

    rule = SelectionRule(
        criterion=criterion.value,
        minimum=minimum,
        threshold=threshold,
        quantile=quantile,
        cohens_d=cohens_d,
        layers=_layers(layers),
        top_k=top_k,
        min_per_layer=_amount(min_per_layer),
        max_per_layer=None if max_per_layer is None else _amount(max_per_layer),
        overlap=overlap.value,
    )
    settings = SearchSettings(
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        selection=rule,
        means=rule.criterion == "effect",
        dense_only=dense_only,
    )
    run_find(out, base_model, FindOptions(traits, repeats, strength or (1.0,), settings, statistics))


@neurons.command("info")
def info(
    adapter: Annotated[
        str, typer.Argument(help='Directory or Hub id of an adapter; "smollm2" comes with the package.')
    ] = "smollm2",
    plots: Annotated[Path | None, option("Folder for pictures, which need matplotlib.")] = None,
    as_json: Annotated[bool, option("Print JSON instead of tables.", "--json")] = False,
) -> None:
    """Show an adapter's neurons: counts per layer and pole, values, overlap, base model, how it was made."""
    from dpg_fast.cli.neurons.files import show_adapter

    show_adapter(adapter, plots, as_json)


@neurons.command("import")
def import_(
    out: OutFolder,
    trait_file: Annotated[
        list[str],
        option(
            "Folder of <Trait>_dict.json and <Trait>_reversed_dict.json files (also .gz), one such file, or E+=FILE."
            + AGAIN
        ),
    ],
    base_model: OptionalBaseModel = None,
    num_layers: Annotated[int, option("Number of decoder layers of that model.", min=1)] = 32,
    intermediate_size: Annotated[int, option("Number of neurons in each of its layers.", min=1)] = 14336,
    fingerprint_from: Annotated[
        str | None,
        option(
            "Hub id or directory to load the base model from, so that it is recognised by its weights instead of its name."
        ),
    ] = None,
    strength: Strengths = None,
) -> None:
    """Make an adapter of neuron lists in the format that NPTI published.

    Without --base-model they belong to Meta-Llama-3-8B-Instruct, the model of the published lists.
    """
    from dpg_fast.cli.neurons.files import import_adapter

    import_adapter(out, trait_file, base_model, (num_layers, intermediate_size), fingerprint_from, strength or (1.0,))


@neurons.command("export")
def export(
    adapter: Annotated[
        str, typer.Argument(help='Directory or Hub id of an adapter; "smollm2" comes with the package.')
    ],
    out: OutFolder,
    format: Annotated[ListFormat, option("Format of the files.")] = ListFormat.NPTI,
    gzip: Annotated[bool, option("Compress the files.", "--gzip")] = False,
) -> None:
    """Write an adapter's neuron lists in the format that NPTI published."""
    from dpg_fast.cli.neurons.files import export_adapter

    export_adapter(adapter, out, compress=gzip)


@neurons.command("calibrate")
@takes_judge()
def calibrate(
    adapter: Annotated[Path, typer.Argument(help="Adapter directory; its calibration.json is replaced.")],
    base_model: BaseModel = "smollm2",
    traits: Traits = "OCEAN",
    questions: Questions = 6,
    max_strength: Annotated[float, option("Largest strength of the sweep.", min=0)] = 2.4,
    steps: Annotated[int, option("Number of strengths above 0, evenly spaced.", min=2)] = 6,
    max_new_tokens: MaxNewTokens = 48,
    batch_size: BatchSize = 16,
    max_perplexity_ratio: Annotated[
        float, option("Largest perplexity of usable answers under the bare model, relative to that of its own answers.")
    ] = 2.5,
    max_repetition: Annotated[float, option("Largest rise of the share of repeated 4-grams in usable answers.")] = 0.1,
    sweep: Annotated[
        Path | None, option("Folder for the raw answers and scores; ADAPTER.calibration by default.")
    ] = None,
    out: OptionalOutFile = None,
    plot: Annotated[Path | None, option("PNG file for the dose-response curves, which need matplotlib.")] = None,
    allow_mismatch: Mismatch = False,
    *,
    judge: JudgeChoice,
) -> None:
    """Fit the strength of each level: steer at several strengths, judge the answers, stay within bounds of fluency.

    The questions are those of the bundled split "fit".
    A run that was killed continues. The calibration of the adapter is replaced unless --out names another file.
    """
    from dpg_fast.cli.neurons.calibrate import CalibrateOptions, run_calibrate
    from dpg_fast.evaluation.calibration import Guard
    from dpg_fast.text.answers import AnswerSettings

    options = CalibrateOptions(
        traits=traits,
        questions=questions,
        most=max_strength,
        steps=steps,
        answers=AnswerSettings(max_new_tokens=max_new_tokens, batch_size=batch_size),
        guard=Guard(max_perplexity_ratio, max_repetition),
        judge=judge,
        sweep=sweep,
        output=out,
        plot=plot,
        allow_mismatch=allow_mismatch,
    )
    run_calibrate(adapter, base_model, options)


def _amount(text: str) -> int | float:
    """A count, or a share when it ends in a percent sign."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        raise DPGError(
            f'{text!r} is not a number for each layer; accepted: a count like "50", a share like "0.5%"'
        ) from None


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise DPGError(f'{text!r} is not a range of layers; accepted: a first and a last one, like "12-31"')
    return int(first), int(last)
