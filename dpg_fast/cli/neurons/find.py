"""``dpg-fast neurons find``: the bundled questions and people, a base model, an adapter with its neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.cli.neurons.report import print_table
from dpg_fast.model import Calibration, PersonalityModel
from dpg_fast.neurons import SearchSettings, search_neurons
from dpg_fast.neurons.checkpoint import remove_checkpoint
from dpg_fast.neurons.search import search_memory
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import load_base
from dpg_fast.util.progress import progress_bars
from dpg_fast.util.words import counted


@dataclass(frozen=True)
class FindOptions:
    """What to search, and how; see the command's help.

    Args:
        traits: letters.
        repeats: how often each question is asked.
        strengths: one, or one for each pole.
        settings: of the search.
        statistics: directory that keeps the statistics; None drops them when the adapter is written.
    """

    traits: str = "OCEAN"
    repeats: int = 2
    strengths: Sequence[float] = (1.0,)
    settings: SearchSettings = field(default_factory=SearchSettings)
    statistics: Path | None = None


def run_find(output: Path, model_name: str, options: FindOptions, console: Console | None = None) -> None:
    """Search, save the adapter to ``output`` and print what was found.

    The tables are kept in ``<output>.partial`` until the adapter is written, so a killed run continues.

    Raises:
        ValueError: unknown traits, or ``output`` is a file.
    """
    console = console or Console()
    if output.exists() and not output.is_dir():
        raise DPGError(f"{output} is a file; name a directory to write the adapter to")
    traits = list(dict.fromkeys(Trait.parse(letter) for letter in options.traits))
    if not traits:
        raise DPGError("no traits to search; name some of O, C, E, A, N")
    calibration = Calibration(equal_or_ten(options.strengths))
    questions = {t: [q.question for q in load_questions(t, "search")] * options.repeats for t in traits}
    descriptions = {pole: [d.text for d in load_descriptions(pole, "search")] for pole in POLES if pole.trait in traits}
    base, tokenizer = load_base(model_name)
    architecture = find_architecture(base, dense_only=options.settings.dense_only)
    answers = {pole: len(questions[pole.trait]) for pole in descriptions}
    memory = search_memory(architecture.num_layers, architecture.intermediate, answers, options.settings, base.dtype)
    console.print(
        f"{counted(sum(answers.values()), 'answer')}; statistics take {memory / 2**20:,.0f} MiB besides the model"
    )
    partial = options.statistics or output.with_name(output.name + ".partial")
    with progress_bars(console) as bars:
        table = search_neurons(
            base, tokenizer, questions, descriptions, options.settings, checkpoint=partial, progress=bars
        )
    PersonalityModel.from_model(base, steering=table, calibration=calibration).save_pretrained(output)
    if options.statistics is None:
        remove_checkpoint(partial)
    print_table(table, console)
    console.print(f"Saved to {output}")


def equal_or_ten(values: Sequence[float]) -> dict[Pole, float]:
    """Strengths of all poles, given one for all or ten.

    Raises:
        ValueError: another number of them.
    """
    if len(values) == 1:
        return dict.fromkeys(POLES, values[0])
    if len(values) != len(POLES):
        raise DPGError(f"give one strength or ten ({', '.join(map(str, POLES))}), got {len(values)}")
    return dict(zip(POLES, values, strict=True))
