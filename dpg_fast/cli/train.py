"""``dpg-fast train``: hypernetworks and tuned characters, from a file of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import option

train = group(
    "Train a hypernetwork or tune a character. A run that was killed continues from its last checkpoint. The scripts "
    "python/train_*.py take the same arguments, also under `accelerate launch`."
)

Config = Annotated[Path | None, option("YAML file of settings; recipes/ has several.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[section.name=value]...",
        help="Settings that replace those of the file, such as trainer.max_steps=4.",
        show_default=False,
    ),
]


@train.command("hypernet")
def hypernet(config: Config = None, overrides: Overrides = None) -> None:
    """Train a hypernetwork that generates LoRA weights from a personality.

    The settings are dpg_fast.train.TrainSettings.
    """
    from rich.console import Console

    from dpg_fast.train import load_settings, run_training
    from dpg_fast.util.progress import progress_bars

    console = Console()
    settings = load_settings(config, overrides or ())
    with progress_bars(console) as report:
        adapter = run_training(settings, lambda done, total: report("lessons", done, total))
    console.print(f"Written to {adapter}")


@train.command("characters")
def characters(config: Config = None, overrides: Overrides = None) -> None:
    """Tune a character on its conversations, the first of PersLLM's two steps.

    The settings are dpg_fast.personified.train.SftSettings.
    """
    from dpg_fast.personified.train import SftSettings, run_sft
    from dpg_fast.train import read_settings

    typer.echo(f"Written to {run_sft(read_settings(SftSettings, config, overrides or ()))}")


@train.command("dpo")
def dpo(config: Config = None, overrides: Overrides = None) -> None:
    """Tune a character on preference pairs that were made without human labels, the second of PersLLM's two steps.

    The settings are dpg_fast.personified.train.DpoSettings.
    """
    from dpg_fast.personified.train import DpoSettings, run_dpo
    from dpg_fast.train import read_settings

    typer.echo(f"Written to {run_dpo(read_settings(DpoSettings, config, overrides or ()))}")
