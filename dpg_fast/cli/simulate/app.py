"""``dpg-fast simulate``: people talk with each other, and what they said is compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    Adapter,
    BaseModel,
    BatchSize,
    Cache,
    Characters,
    Dtype,
    OptionalOutFile,
    OutFolder,
    Precision,
    Report,
    Resamples,
    Seed,
    Traits,
    named_folders,
    option,
)
from dpg_fast.cli.servers import takes_judge, takes_judges_model
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice
    from dpg_fast.llm.server import Server

simulate = group("Let simulated people talk with each other, and compare what they said.")


@simulate.command("run")
@takes_judge()
def run(
    scenarios: Annotated[list[Path], typer.Argument(help="Scenario files (YAML), or folders of them.")],
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapter = None,
    character: Characters = None,
    seeds: Annotated[int, option("Number of conversations of each scenario.", min=1)] = 4,
    first_seed: Annotated[int, option("First of the seeds.", min=0)] = 0,
    turns: Annotated[
        int | None, option("Turns of each conversation, in place of what the scenario says.", min=1)
    ] = None,
    batch_size: BatchSize = 32,
    readings: Annotated[int, option("Judge the personality every so many turns; 0 judges nothing.", min=0)] = 1,
    traits: Traits = "OCEAN",
    dtype: Precision = Dtype.FLOAT32,
    check: Annotated[bool, option("Only read the scenarios and say who speaks.", "--check")] = False,
    *,
    judge: JudgeChoice,
) -> None:
    """Let people talk: local rows and endpoints, many conversations in one batch, read by a judge as they go."""
    from dpg_fast.cli.simulate.run import RunOptions, run_simulation

    options = RunOptions(
        model=base_model,
        adapter=adapter,
        characters=named_folders(character, "--character"),
        seeds=tuple(range(first_seed, first_seed + seeds)),
        turns=turns,
        batch_size=batch_size,
        readings=readings,
        traits=traits,
        judge=judge,
        dtype=dtype.value,
    )
    run_simulation(scenarios, out, options, check=check)


@simulate.command("compare")
@takes_judges_model()
def compare(
    dialogues: Annotated[
        list[str], typer.Argument(help="Two or more files of dialogues, or NAME=FILE, one for each system.")
    ],
    terms: Annotated[Path | None, option("File with the terms of the domain, one a line.")] = None,
    scenario: Annotated[list[Path] | None, option("Scenario file whose terms are counted." + AGAIN)] = None,
    material: Annotated[
        list[Path] | None, option("Folder of a character from whose texts terms are derived." + AGAIN)
    ] = None,
    cache: Cache = Path("simulate_replies.sqlite"),
    out: OptionalOutFile = None,
    report: Report = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    *,
    judge: Server | None,
) -> None:
    """Compare systems' conversations: range of the domain's terms, agreement, lengths, repetition.

    Agreement is told by the judge's model, or by a weak rule that needs no network where none is named.
    """
    from dpg_fast.cli.simulate.run import CompareOptions, run_comparison

    files = [_named(text) for text in dialogues]
    if len(files) < 2:
        raise DPGError("name at least two files of dialogues")
    options = CompareOptions(
        terms=terms,
        scenarios=tuple(scenario or ()),
        material=tuple(material or ()),
        judge=judge,
        cache=cache or Path("simulate_replies.sqlite"),
        resamples=resamples,
        seed=seed,
    )
    run_comparison(files, options, out, report)


def _named(text: str) -> tuple[str, Path]:
    """A file with its name: given, else the folder's for a run's own file, else the file's."""
    name, sign, path = text.partition("=")
    if sign and name.strip():
        return name.strip(), Path(path)
    file = Path(text)
    return (file.parent.name or file.stem) if file.stem == "dialogues" else file.stem, file
