"""``dpg-fast verify``: does the personality act on this model, with the libraries that are installed here?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET


def verify(
    base_model: Annotated[
        str, typer.Option(help='Hub id or directory of the base model; "smollm2" is bundled.')
    ] = BUNDLED,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help='Repeatable: directory or Hub id of an adapter, "smollm2", "smollm2-hypernet", or "both" of these at once. '
            "Without it these three, one after the other."
        ),
    ] = None,
    character: Annotated[
        list[str] | None, typer.Option(help="Repeatable: NAME=DIRECTORY of a tuned character, put beside each adapter.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Repeatable: a text to go by instead of the three built in.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Data type of the base model: float32, bfloat16 or float16.")] = "float32",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer prompts, tokens and rows.")] = False,
) -> None:
    """Check an adapter on a model: it acts, rows do not mix, and nothing else changes. Exit status 1 when a check fails."""
    with one_line_errors("dpg-fast verify"):
        good = run_verify(base_model, adapter, _named(character or []), prompt, dtype, quick)
    if not good:
        raise typer.Exit(1)


def run_verify(
    base_model: str,
    adapters: list[str] | None,
    characters: dict[str, Path],
    prompts: list[str] | None,
    dtype: str,
    quick: bool,
) -> bool:
    """Print a table for each adapter; whether no check failed.

    Raises:
        ValueError: an unknown dtype, an adapter for another base, no adapter for a base that none comes with.
        OSError: no such model or adapter.
    """
    import torch
    from rich.console import Console

    from dpg_fast.util.models import load_base

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise DPGError(f"unknown dtype {dtype!r}; accepted: {', '.join(dtypes)}")
    if adapters is None and not characters and base_model != BUNDLED:
        raise DPGError(f"give an --adapter (or a --character) for {base_model}; only {BUNDLED} comes with some")
    wanted: list[str | None] = [*(adapters or [])]
    if not wanted:
        wanted = [BUNDLED, BUNDLED_HYPERNET, BOTH] if base_model == BUNDLED else [None]
    console = Console()
    base, tokenizer = load_base(base_model, dtypes[dtype])
    good = True
    for adapter in wanted:
        model = _wrap(base, base_model, adapter)
        if characters:
            model.add_characters(characters)
        found = model.verify(prompts, tokenizer=tokenizer, quick=quick)
        console.print(f"[bold]{adapter or 'characters'}[/bold]")
        console.print(found.table())
        good &= found.ok
        base = model.unload()
    console.print("every check passed" if good else "[bold red]some checks failed[/bold red]")
    return good


BOTH = "both"


def _wrap(base: Any, name: str, adapter: str | None) -> Any:
    from dpg_fast.cli.demo import give_personality
    from dpg_fast.model import PersonalityModel

    if adapter is None:
        return PersonalityModel(base)
    ways = {BUNDLED: "neurons", BUNDLED_HYPERNET: "hypernetwork", BOTH: "both"}
    if name == BUNDLED and adapter in ways and not Path(adapter).is_dir():
        return give_personality(base, ways[adapter])
    return PersonalityModel.load(base, adapter)


def _named(texts: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, directory = text.partition("=")
        if not (name and equals and directory):
            raise DPGError(f"a character is given as NAME=DIRECTORY, got {text!r}")
        found[name] = Path(directory)
    return found
