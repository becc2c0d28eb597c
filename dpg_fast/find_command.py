"""``dpg-fast neurons search``: the bundled questions and people, a base model, an adapter with its neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dpg_fast.base_models import load_base
from dpg_fast.data.texts import load_descriptions, load_questions
from dpg_fast.model import Calibration, PersonalityModel
from dpg_fast.neurons import SearchSettings, SteeringTable, search_neurons
from dpg_fast.personality import POLES, Pole, Trait


@dataclass(frozen=True)
class SearchOptions:
    """What to search, and how; see the command's help."""

    traits: str = "OCEAN"
    repeats: int = 2
    strengths: Sequence[float] = (1.0,)
    settings: SearchSettings = field(default_factory=SearchSettings)


def run_search(output: Path, model_name: str, options: SearchOptions, console: Console | None = None) -> None:
    """Search, save the adapter to ``output`` and print what was found.

    Finished poles are kept in ``<output>.partial`` until the adapter is written, so a killed run continues.

    Raises:
        ValueError: unknown traits, or ``output`` is a file.
    """
    console = console or Console()
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; name a directory to write the adapter to")
    traits = list(dict.fromkeys(Trait.parse(letter) for letter in options.traits))
    if not traits:
        raise ValueError("no traits to search; name some of O, C, E, A, N")
    calibration = Calibration(_strengths(options.strengths))
    questions = {t: [q.question for q in load_questions(t, "search")] * options.repeats for t in traits}
    descriptions = {pole: [d.text for d in load_descriptions(pole, "search")] for pole in POLES if pole.trait in traits}
    base, tokenizer = load_base(model_name)
    partial = output.with_name(output.name + ".partial")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {
            pole: progress.add_task(f"answers as {pole}", total=len(questions[pole.trait])) for pole in descriptions
        }
        table = search_neurons(
            base,
            tokenizer,
            questions,
            descriptions,
            options.settings,
            checkpoint=partial,
            progress=lambda pole, n: progress.update(tasks[pole], advance=n),
        )
        for task in tasks.values():
            progress.update(task, completed=progress.tasks[task].total)
    PersonalityModel.from_model(base, steering=table, calibration=calibration).save_pretrained(output)
    for file in partial.iterdir():
        file.unlink()
    partial.rmdir()
    console.print(neuron_counts(table))
    console.print(f"Saved to {output}")


def neuron_counts(table: SteeringTable) -> Table:
    """How many neurons each pole has, where they are, and how far their firing differs."""
    result = Table(title="Personality neurons")
    for column in ("pole", "neurons", "share", "median layer", "largest difference", "smallest"):
        result.add_column(column, justify="right")
    everywhere = table.num_layers * table.intermediate
    for pole in table.poles:
        found = table.neurons[pole]
        middle = int(found.layer.sort().values[len(found) // 2])
        result.add_row(
            str(pole),
            str(len(found)),
            f"{len(found) / everywhere:.1%}",
            str(middle),
            f"{float(found.diff.max()):.3f}",
            f"{float(found.diff.min()):.3f}",
        )
    return result


def _strengths(values: Sequence[float]) -> dict[Pole, float]:
    if len(values) == 1:
        return dict.fromkeys(POLES, values[0])
    if len(values) != len(POLES):
        raise ValueError(f"give one strength or ten ({', '.join(map(str, POLES))}), got {len(values)}")
    return dict(zip(POLES, values, strict=True))
