"""``dpg-fast assess statements``: how likely methods find statements by others, at both ends of every trait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dpg_fast.cli.options import (
    Adapter,
    BaseModel,
    BatchSize,
    Dtype,
    InventoryName,
    Mismatch,
    OptionalOutFolder,
    Precision,
    Resamples,
    SecondHypernet,
    Seed,
    Statements,
    Traits,
    folder,
    option,
    words,
)
from dpg_fast.util.errors import DPGError


def statements(
    base_model: BaseModel = "smollm2",
    adapter: Adapter = None,
    hypernet: SecondHypernet = None,
    methods: Annotated[
        str | None,
        option(
            "Methods, with commas between them; by default persona (a description before and after the question) and all that "
            "the adapter has."
        ),
    ] = None,
    statements: Statements = None,
    inventory: InventoryName = None,
    items: Annotated[Path | None, option("File with the texts of a published inventory.")] = None,
    count: Annotated[
        int | None, option("Statements of each trait, half of them of each pole; all by default.", min=2)
    ] = None,
    traits: Traits = "OCEAN",
    level: Annotated[float, option("Level of the high end; the low end is its negative.", min=0.1, max=5)] = 5.0,
    batch_size: BatchSize = 32,
    dtype: Precision = Dtype.FLOAT32,
    allow_mismatch: Mismatch = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    out: OptionalOutFolder = None,
) -> None:
    """Measure whether statements that others wrote become likelier at the pole that would say them, trait by trait.

    Without --statements and --inventory, the 1,000 statements a trait of anthropics/evals are downloaded once. Without
    --adapter, the neurons and the hypernetwork that come with the package are measured on the bundled SmolLM2.
    """
    from rich.console import Console

    from dpg_fast.evaluation.lineup import Lineup, of_adapter, parts_there
    from dpg_fast.evaluation.witnesses.statement_run import StatementEvaluation, StatementPlan
    from dpg_fast.evaluation.witnesses.statements import chosen, find_statements
    from dpg_fast.model.disk import artifact
    from dpg_fast.personality.traits import parse_traits
    from dpg_fast.reporting import Table
    from dpg_fast.reporting.render import on_terminal
    from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET
    from dpg_fast.util.progress import progress_bars

    folder(out)
    wanted = parse_traits(traits)
    if adapter is None and base_model == BUNDLED:
        adapter, hypernet = BUNDLED, hypernet or BUNDLED_HYPERNET
    if adapter is None:
        if hypernet is not None:
            raise DPGError("--hypernet is a second adapter: name the first one with --adapter")
        lineup = Lineup(prompts=["persona"] if methods is None else words(methods))
    else:
        place, second = artifact.locate(adapter), None if hypernet is None else artifact.locate(hypernet)
        parts = [name for name, there in parts_there(place, second).items() if there]
        lineup = of_adapter(["persona", *parts] if methods is None else words(methods), place, second)
    read, source = find_statements(statements, inventory, items, wanted)
    plan = StatementPlan(chosen(read, wanted, count, seed), source, wanted, level)
    console = Console()
    run = StatementEvaluation(plan, lineup, out, batch_size, resamples)
    with progress_bars(console) as report:
        section, written = run.run(base_model, dtype.torch, allow_mismatch, report)
    for block in section.blocks:
        if isinstance(block, Table):
            console.print(on_terminal(block))
    console.print(plan.describe(), highlight=False, markup=False)
    if written is not None:
        console.print(f"Written to {written}")
