"""``dpg-fast neurons``: find personality neurons, look at them, calibrate, import and export published lists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.util.errors import DPGError

neurons = typer.Typer(help="Personality neurons: find, inspect, calibrate, import, export.", no_args_is_help=True)

Strengths = Annotated[
    list[float] | None,
    typer.Option(min=0, help="Steering strength at level 5: once, or ten times (O+ O- C+ ... N-)."),
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


def find(
    output: Annotated[Path, typer.Argument(help="Adapter directory to write.")],
    model: Annotated[
        str, typer.Option(help='Hub id or directory of the base model; "smollm2" is the bundled SmolLM2-135M-Instruct.')
    ] = "smollm2",
    traits: Annotated[str, typer.Option(help="Letters of the traits to search.")] = "OCEAN",
    repeats: Annotated[
        int, typer.Option(min=1, help="How often each question is asked, each time as another person.")
    ] = 2,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of each answer; NPTI used 500.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1)] = 24,
    criterion: Annotated[
        Criterion,
        typer.Option(help="probability: NPTI's rule. effect: DPN-LE's, mean activation and Cohen's d over answers."),
    ] = Criterion.PROBABILITY,
    minimum: Annotated[int, typer.Option(min=0, help="Neurons kept whatever their difference (probability).")] = 2000,
    threshold: Annotated[
        float, typer.Option(help="Smallest difference in firing probability of further neurons (probability).")
    ] = 0.1,
    quantile: Annotated[
        float, typer.Option(min=0, max=1, help="The shift of the mean exceeds this share of all shifts (effect).")
    ] = 0.995,
    cohens_d: Annotated[float, typer.Option(help="Cohen's d exceeds this (effect).")] = 0.8,
    layers: Annotated[str | None, typer.Option(help='First and last layer that may be chosen from: "12-31".')] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Most neurons of a pole.")] = None,
    min_per_layer: Annotated[str, typer.Option(help='Kept in each layer: a count, or a share such as "0.5%".')] = "0",
    max_per_layer: Annotated[
        str | None, typer.Option(help='Most in a layer: a count, or a share such as "5%".')
    ] = None,
    overlap: Annotated[
        Overlap, typer.Option(help="Neurons of several traits: keep in all, in the strongest only, or drop.")
    ] = Overlap.KEEP,
    strength: Strengths = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            help="Keep the statistics in this directory; a later run there only repeats the choice, in seconds."
        ),
    ] = None,
    seed: int = 0,
    dense_only: Annotated[
        bool, typer.Option("--dense-only", help="Accept a mixture of experts; its shared experts alone are searched.")
    ] = False,
) -> None:
    """Find a model's personality neurons on the bundled questions and save them as an adapter. Resumes when killed."""
    with one_line_errors("dpg-fast neurons find"):
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
        run_find(output, model, FindOptions(traits, repeats, strength or (1.0,), settings, statistics))


neurons.command("find")(find)
neurons.command("search", hidden=True, help="Earlier name of find.")(find)


@neurons.command("info")
def info(
    adapter: Annotated[
        str, typer.Argument(help='Directory or Hub id of an adapter; "smollm2" is the one that comes with the package.')
    ] = "smollm2",
    plots: Annotated[Path | None, typer.Option(help="Directory for pictures (needs matplotlib).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show an adapter's neurons: counts per layer and pole, values, overlap, base model, how it was made."""
    with one_line_errors("dpg-fast neurons info"):
        from dpg_fast.cli.neurons.files import show_adapter

        show_adapter(adapter, plots, as_json)


@neurons.command("import")
def import_(
    output: Annotated[Path, typer.Argument(help="Adapter directory to write.")],
    trait_file: Annotated[
        list[str],
        typer.Option(
            help="Repeatable: a directory of <Trait>_dict.json and <Trait>_reversed_dict.json (also .gz), such a file, "
            "or E+=FILE."
        ),
    ],
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the model they were made on; Meta-Llama-3-8B-Instruct if not given.")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="Decoder layers of that model.")] = 32,
    intermediate: Annotated[int, typer.Option(min=1, help="Neurons in each.")] = 14336,
    fingerprint_from: Annotated[
        str | None,
        typer.Option(help="Load the base model from here, and recognise it by its weights instead of its name."),
    ] = None,
    strength: Strengths = None,
) -> None:
    """Make an adapter of neuron lists in the format that NPTI published."""
    with one_line_errors("dpg-fast neurons import"):
        from dpg_fast.cli.neurons.files import import_adapter

        import_adapter(output, trait_file, base_model, (layers, intermediate), fingerprint_from, strength or (1.0,))


@neurons.command("export")
def export(
    adapter: Annotated[str, typer.Argument(help='Directory or Hub id of an adapter, or "smollm2".')],
    output: Annotated[Path, typer.Argument(help="Directory to write to.")],
    format: Annotated[ListFormat, typer.Option(help="Format of the files.")] = ListFormat.NPTI,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress the files.")] = False,
) -> None:
    """Write an adapter's neuron lists in the format that NPTI published."""
    with one_line_errors("dpg-fast neurons export"):
        from dpg_fast.cli.neurons.files import export_adapter

        export_adapter(adapter, output, compress=gzip)


@neurons.command("calibrate")
def calibrate(
    adapter: Annotated[Path, typer.Argument(help="Adapter directory; its calibration.json is replaced.")],
    model: Annotated[
        str, typer.Option(help='Hub id or directory of the base model; "smollm2" is bundled.')
    ] = "smollm2",
    traits: Annotated[str, typer.Option(help="Letters of the traits; other poles keep what they have.")] = "OCEAN",
    questions: Annotated[int, typer.Option(min=1, max=12, help='Of each trait, from the bundled split "fit".')] = 6,
    max_strength: Annotated[float, typer.Option(min=0, help="Largest strength of the sweep.")] = 2.4,
    steps: Annotated[int, typer.Option(min=2, help="Strengths above 0, evenly spaced.")] = 6,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of each answer.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    max_perplexity_ratio: Annotated[
        float, typer.Option(help="Guard: perplexity of usable answers under the bare model, over that of its own.")
    ] = 2.5,
    max_repetition: Annotated[float, typer.Option(help="Guard: rise of the share of repeated 4-grams.")] = 0.1,
    judge: Annotated[
        str, typer.Option(help='"likelihood" (on the model itself) or "openai" (any such API).')
    ] = "likelihood",
    judge_model: Annotated[str | None, typer.Option(help="Model of the API.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="Address of the API; OpenAI's if not given.")] = None,
    api_key_variable: Annotated[str, typer.Option(help="Environment variable with its key.")] = "OPENAI_API_KEY",
    sweep: Annotated[
        Path | None, typer.Option(help="Directory of the raw answers and scores; ADAPTER.calibration if not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the calibration here and leave the adapter alone.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file of the dose-response curves (needs matplotlib).")] = None,
    allow_mismatch: Annotated[bool, typer.Option(help="Accept another base model than the adapter's.")] = False,
) -> None:
    """Fit level -> strength: steer at several strengths, judge the answers, bound by fluency. Resumes when killed."""
    with one_line_errors("dpg-fast neurons calibrate"):
        from dpg_fast.cli.judge_options import JudgeOptions
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
            judge=JudgeOptions(judge, judge_model, judge_url, api_key_variable),
            sweep=sweep,
            output=output,
            plot=plot,
            allow_mismatch=allow_mismatch,
        )
        run_calibrate(adapter, model, options)


def _amount(text: str) -> int | float:
    """A count, or a share when it ends in a percent sign."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        raise DPGError(f'{text!r} is no number per layer; accepted: a count like "50", a share like "0.5%"') from None


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise DPGError(f'{text!r} is not a range of layers; accepted: a first and a last one, like "12-31"')
    return int(first), int(last)
