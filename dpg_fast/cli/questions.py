"""``dpg-fast questions``: make situational questions and descriptions with a language model, fetch or check published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    OutFolder,
    Seed,
    Similarity,
    Traits,
    folder,
    option,
)
from dpg_fast.cli.servers import takes_server
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.llm.server import Server

questions = group("Make, fetch or check situational questions and persona descriptions.")


@questions.command("build")
@takes_server("writer")
def build(
    out: OutFolder,
    server: Server,
    traits: Traits = "OCEAN",
    count: Annotated[int, option("Number of questions for each trait.", min=0)] = 100,
    descriptions: Annotated[int, option("Number of descriptions for each pole.", min=0)] = 8,
    per_call: Annotated[
        int | None, option("Texts that one call asks for; 5 by default, or 1 with --examples.", min=1)
    ] = None,
    examples: Annotated[
        int,
        option("Answered requests, up to 5, that are shown to weak models in place of long instructions.", min=0),
    ] = 0,
    spare: Annotated[float, option("Texts of the first round, relative to --count; a weak model needs more.")] = 1.25,
    rounds: Annotated[
        int, option("Rounds in which texts are asked for; later ones replace what the rules removed.", min=1)
    ] = 3,
    similarity: Similarity = 0.5,
    embedding_model: Annotated[
        str | None, option("Also drop texts of the same meaning, as this embedding model of the server tells.")
    ] = None,
    avoid: Annotated[
        list[Path] | None, option("JSON Lines file of questions that new ones must not resemble." + AGAIN)
    ] = None,
    topics: Annotated[Path | None, option("Text file of everyday topics, one a line.")] = None,
    seed: Seed = 0,
) -> None:
    """Make questions and descriptions with a language model. A killed run continues without paying twice.

    The prompts, topics and rules are this project's own: what they make is not PersonalityBench, only of its form.
    """
    from dpg_fast.data.questions.builder import BuildSettings
    from dpg_fast.personality.scores import Trait
    from dpg_fast.text.facets import TOPICS
    from dpg_fast.text.records import QuestionRecord, read_records
    from dpg_fast.util.reading import text_lines

    folder(out)
    settings = BuildSettings(
        traits=tuple(dict.fromkeys(Trait.parse(letter) for letter in traits)),
        questions=count,
        descriptions=descriptions,
        per_call=per_call or (1 if examples else 5),
        rounds=rounds,
        spare=spare,
        examples=examples,
        similarity=similarity,
        embedding_model=embedding_model,
        topics=TOPICS if topics is None else [line.strip() for _, line in text_lines(topics)],
        seed=seed,
    )
    avoided = [record.question for path in avoid or () for record in read_records(path, QuestionRecord)]
    client = server.client(out / "replies.sqlite")
    complete = _build(out, client, settings, avoided, server.dry_run)
    if not complete:
        raise typer.Exit(1)


@questions.command("fetch")
def fetch(
    folder: Annotated[Path | None, typer.Argument(help="Folder for the files; the cache by default.")] = None,
    part: Annotated[
        str, option('Part to download: "test" (459 questions) or "search" (36,000 for each trait).')
    ] = "test",
) -> None:
    """Download PersonalityBench from its public repository at a pinned commit, and check it. It states no licence."""
    from dpg_fast.data.questions.published import fetch_personalitybench

    wanted: Literal["test", "search"] = "search" if part == "search" else "test"
    if part != wanted:
        raise DPGError(f'part is "test" or "search", not {part!r}')
    found = fetch_personalitybench(folder, part=wanted)
    _print_counts(found)


@questions.command("check")
def check(folder: Annotated[Path, typer.Argument(help="Folder with {Trait}.jsonl and descriptions.jsonl.")]) -> None:
    """Check files of PersonalityBench's form, and say what the builder's rules make of their questions."""
    _print_counts(folder)


def _print_counts(folder: Path) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    from dpg_fast.data.questions.rules import check_question
    from dpg_fast.personality.scores import Pole
    from dpg_fast.text.assets import load_personalitybench

    bench = load_personalitybench(folder)
    table = Table(title=str(folder))
    for column in (
        "trait",
        "questions",
        "descriptions +",
        "descriptions -",
        "questions the builder's rules would drop",
    ):
        table.add_column(column, justify="left" if column[0] in "tq" and column != "questions" else "right")
    for trait, texts in bench.questions.items():
        found = (check_question(text, trait) for text in texts)
        reasons = Counter(rejection.reason for rejection in found if rejection)
        numbers = [str(len(bench.descriptions[Pole(trait, high)])) for high in (True, False)]
        table.add_row(trait.value, str(len(texts)), *numbers, _listed(reasons))
    Console().print(table)


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1]))


def _build(output: Path, client: Any, settings: Any, avoided: Sequence[str], dry_run: bool) -> bool:
    """Build, write and print; whether everything asked for is there."""
    from rich.console import Console
    from rich.table import Table

    from dpg_fast.data.questions import builder
    from dpg_fast.data.questions.files import write_build
    from dpg_fast.llm.display import money, plan_table, print_run, run_with_progress
    from dpg_fast.personality.scores import Pole

    console = Console()
    if dry_run:
        console.print(
            plan_table(client.plan(builder.first_round(settings)), "Dry run of the first round: nothing sent")
        )
        console.print(f"Reply tokens are the limit; up to {settings.rounds - 1} rounds replace what the rules drop.")
        return True

    def run(calls: Sequence[Any], title: str) -> Any:
        done = run_with_progress(client, calls, console, title)
        if done.failed:
            print_run(done, console)
        return done

    made: list[Any] = []
    for trait in settings.traits:
        made.append(builder.build_questions(client, trait, settings, avoid=avoided, run=run))
        made += [builder.build_descriptions(client, Pole(trait, high), settings, run=run) for high in (True, False)]
    manifest = write_build(output, client, settings, made)
    table = Table(title=str(output))
    for column in ("target", "wanted", "generated", "kept", "dropped", "failed calls"):
        table.add_column(column, justify="left" if column in ("target", "dropped") else "right")
    for row in manifest["parts"]:
        numbers = [str(row[name]) for name in ("wanted", "generated", "kept")]
        table.add_row(row["target"], *numbers, _listed(row["dropped"]), str(row["failed_calls"]))
    console.print(table)
    cost, currency = manifest["cost"], client.prices.currency
    console.print(f"Cost in all: {money(cost['total'], currency)}; of this run: {money(cost['this_run'], currency)}")
    short = [row for row in manifest["parts"] if row["kept"] < row["wanted"]]
    if short:
        listed = ", ".join(f"{row['target']} ({row['kept']} of {row['wanted']})" for row in short)
        console.print(
            f"[yellow]Fewer than wanted:[/yellow] {listed}. Raise --rounds or see dropped.jsonl, failed.jsonl."
        )
    return not short
