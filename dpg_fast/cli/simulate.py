"""``dpg-fast simulate``: people talk with each other, and what they said is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.util.errors import DPGError

simulate = typer.Typer(help="Conversations between simulated people.", no_args_is_help=True)

_Key = Annotated[str, typer.Option(help="Environment variable that holds the judge's API key.")]


@simulate.command("run")
def run(
    scenarios: Annotated[list[Path], typer.Argument(help="Scenario files (YAML), or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for transcripts and readings; a killed run continues in it.")],
    model: Annotated[
        str, typer.Option(help='Hub id or directory of the base model; "smollm2" is the bundled SmolLM2-135M-Instruct.')
    ] = "smollm2",
    adapter: Annotated[
        str | None,
        typer.Option(
            help='Directory or Hub id of an adapter; in the package: "smollm2" (neurons), "smollm2-hypernet".'
        ),
    ] = None,
    character: Annotated[
        list[str] | None, typer.Option(help="Repeatable: NAME=DIRECTORY of a tuned character that scenarios name.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Conversations of each scenario.")] = 4,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of the seeds.")] = 0,
    turns: Annotated[
        int | None, typer.Option(min=1, help="Turns of each conversation, in place of the files'.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Turns written side by side.")] = 32,
    readings: Annotated[
        int, typer.Option(min=0, help="Judge the personality every so many turns; 0 for no readings.")
    ] = 1,
    traits: Annotated[str, typer.Option(help="Letters of the traits to judge.")] = "OCEAN",
    judge: Annotated[str, typer.Option(help="likelihood works offline; openai is any such API.")] = "likelihood",
    judge_model: Annotated[str | None, typer.Option(help="Model of the API.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="Address of the API.")] = None,
    judge_key_variable: _Key = "OPENAI_API_KEY",
    dtype: Annotated[
        str, typer.Option(help="Data type of the model's weights: float32, bfloat16, float16.")
    ] = "float32",
    check: Annotated[bool, typer.Option("--check", help="Read the scenarios, say who speaks, and stop.")] = False,
) -> None:
    """Let people talk: local rows and endpoints, many conversations in one batch, read by a judge as they go."""
    with one_line_errors("dpg-fast simulate run"):
        from dpg_fast.cli.judge_options import JudgeOptions
        from dpg_fast.cli.simulate_run import RunOptions, run_simulation

        options = RunOptions(
            model=model,
            adapter=adapter,
            characters=_pairs(character or [], "--character"),
            seeds=tuple(range(first_seed, first_seed + seeds)),
            turns=turns,
            batch_size=batch_size,
            readings=readings,
            traits=traits,
            judge=JudgeOptions(judge, judge_model, judge_url, judge_key_variable),
            dtype=dtype,
        )
        run_simulation(scenarios, out, options, check=check)


@simulate.command("compare")
def compare(
    dialogues: Annotated[
        list[str], typer.Argument(help="Two or more files of dialogues, or NAME=FILE, one for each system.")
    ],
    terms: Annotated[Path | None, typer.Option(help="File with the domain's terms, one a line.")] = None,
    scenario: Annotated[
        list[Path] | None, typer.Option(help="Repeatable: scenario files whose terms are counted.")
    ] = None,
    material: Annotated[
        list[Path] | None, typer.Option(help="Repeatable: character folders from whose texts terms are derived.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Model of an API that tells agreement. Default: a weak rule, offline.")
    ] = None,
    judge_url: Annotated[str | None, typer.Option(help="Address of the API.")] = None,
    judge_key_variable: _Key = "OPENAI_API_KEY",
    cache: Annotated[Path, typer.Option(help="Where the judge's replies are kept.")] = Path("simulate_replies.sqlite"),
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for an HTML report.")] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap draws of the intervals.")] = 1000,
    seed: int = 0,
) -> None:
    """Compare systems' conversations: range of the domain's terms, agreement, lengths, repetition."""
    with one_line_errors("dpg-fast simulate compare"):
        from dpg_fast.cli.simulate_run import CompareOptions, run_comparison

        files = [_named(text) for text in dialogues]
        if len(files) < 2:
            raise DPGError("name at least two files of dialogues")
        options = CompareOptions(
            terms=terms,
            scenarios=tuple(scenario or ()),
            material=tuple(material or ()),
            judge_model=judge_model,
            judge_url=judge_url,
            judge_key_variable=judge_key_variable,
            cache=cache,
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


def _pairs(texts: list[str], option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or not name.strip() or not path.strip():
            raise DPGError(f"{option} takes NAME=DIRECTORY, not {text!r}")
        if name.strip() in found:
            raise DPGError(f"{option} names {name.strip()} twice")
        found[name.strip()] = Path(path.strip())
    return found
