"""``dpg-fast verify``: does the personality act on this model, with the libraries that are installed here?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dpg_fast.cli.options import AGAIN, Adapters, BaseModel, Characters, Dtype, Precision, named_folders, option
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET


class Engine(StrEnum):
    """What runs the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


def verify(
    base_model: BaseModel = BUNDLED,
    adapter: Adapters = None,
    character: Characters = None,
    prompt: Annotated[
        list[str] | None, option("Text to generate from, instead of the three that are built in." + AGAIN)
    ] = None,
    dtype: Precision = Dtype.FLOAT32,
    quick: Annotated[bool, option("Use fewer prompts, tokens and rows.", "--quick")] = False,
    engine: Annotated[
        Engine, option("What runs the model: transformers, or vLLM with the plugin, where vLLM is installed.")
    ] = Engine.TRANSFORMERS,
) -> None:
    """Check an adapter on a model: it acts, rows do not mix, and nothing else changes. Exit status 1 when a check fails.

    Without --adapter, the adapters that come with the package are checked one after the other: "smollm2",
    "smollm2-hypernet", and "both" at once (with vLLM "both" alone).
    """
    if engine is Engine.VLLM:
        if character or prompt:
            raise DPGError("--engine vllm takes neither --character nor --prompt")
        if not run_verify_vllm(base_model, adapter, dtype.torch, quick):
            raise typer.Exit(1)
        return
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


def run_verify_vllm(base_model: str, adapters: list[str] | None, dtype: Any, quick: bool) -> bool:
    """Print a table for each adapter in vLLM; whether no check failed. Errors as `run_verify`, or vLLM is not installed."""
    from importlib.util import find_spec

    from rich.console import Console

    from dpg_fast.model.loading import BOTH

    if find_spec("vllm") is None:
        raise DPGError(
            "vLLM is not installed in this environment; in a checkout, make setup-vllm makes .venv-vllm with it"
        )
    if adapters is None and base_model != BUNDLED:
        raise DPGError(f"give an --adapter for {base_model}; only {BUNDLED} comes with some")
    from dpg_fast.vllm.verify import verify_vllm

    good = True
    for adapter in adapters or [BOTH]:
        found = verify_vllm(base_model, adapter, dtype, quick)
        Console().print(found.table())
        good &= found.ok
    return good
