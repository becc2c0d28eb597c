"""``dpg-fast verify``: does the personality act on this model, with the libraries that are installed here?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpg_fast.cli.options import AGAIN, Adapters, BaseModel, Characters, Dtype, Precision, named_folders, option
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET


def verify(
    base_model: BaseModel = BUNDLED,
    adapter: Adapters = None,
    character: Characters = None,
    prompt: Annotated[
        list[str] | None, option("Text to generate from, instead of the three that are built in." + AGAIN)
    ] = None,
    dtype: Precision = Dtype.FLOAT32,
    quick: Annotated[bool, option("Use fewer prompts, tokens and rows.", "--quick")] = False,
) -> None:
    """Check an adapter on a model: it acts, rows do not mix, and nothing else changes. Exit status 1 when a check fails.

    Without --adapter, the adapters that come with the package are checked one after the other: "smollm2",
    "smollm2-hypernet", and "both" at once.
    """
    good = run_verify(base_model, adapter, named_folders(character, "--character"), prompt, dtype.torch, quick)
    if not good:
        raise typer.Exit(1)


def run_verify(
    base_model: str,
    adapters: list[str] | None,
    characters: dict[str, Path],
    prompts: list[str] | None,
    dtype: Any,
    quick: bool,
) -> bool:
    """Print a table for each adapter; whether no check failed.

    Raises:
        ValueError: an adapter for another base, no adapter for a base that none comes with.
        OSError: no such model or adapter.
    """
    from rich.console import Console

    from dpg_fast.model.loading import BOTH, wrap
    from dpg_fast.util.models import load_base

    if adapters is None and not characters and base_model != BUNDLED:
        raise DPGError(f"give an --adapter (or a --character) for {base_model}; only {BUNDLED} comes with some")
    wanted: list[str | None] = [*(adapters or [])]
    if not wanted:
        wanted = [BUNDLED, BUNDLED_HYPERNET, BOTH] if base_model == BUNDLED else [None]
    console = Console()
    base, tokenizer = load_base(base_model, dtype)
    good = True
    for adapter in wanted:
        model = wrap(base, base_model, adapter)
        if characters:
            model.add_characters(characters)
        found = model.verify(prompts, tokenizer=tokenizer, quick=quick)
        console.print(f"[bold]{adapter or 'characters'}[/bold]")
        console.print(found.table())
        good &= found.ok
        base = model.unload()
    console.print("every check passed" if good else "[bold red]some checks failed[/bold red]")
    return good
