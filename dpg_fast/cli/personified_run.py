"""What ``dpg-fast data personified`` does: read, plan, ask, write, and print all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpg_fast.llm import LLMClient
from dpg_fast.llm.display import money, plan_table, run_with_progress
from dpg_fast.llm.results import Plan
from dpg_fast.llm.server import Server
from dpg_fast.personified.data import extraction, novel
from dpg_fast.personified.data.asking import Asker
from dpg_fast.personified.data.build import Annotator
from dpg_fast.personified.data.general import INSTRUCTIONS, load_instructions
from dpg_fast.personified.data.lessons import training_examples, writer_lessons
from dpg_fast.personified.data.material import CharacterMaterial, load_character
from dpg_fast.personified.data.pairs import Pairs, PairSettings, pair_statistics, personality_pairs, stage_pairs
from dpg_fast.personified.data.planning import expected_calls
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.record import LostItem, PersonifiedRecord
from dpg_fast.personified.data.retrieval import API, make_embedder
from dpg_fast.personified.data.slots import PersonifySettings
from dpg_fast.personified.data.writing import LOST, read_personified, write_pairs, write_personified
from dpg_fast.personified.data.written import load_examples
from dpg_fast.text.records import write_records
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

REPLIES = "replies.sqlite"
_SHOWN_NOTES = 10
_SHOWN_TEXT = 160  # characters of an example
_AGREEING = 0.8  # share of thoughts agreed with, from which the character has no mind of its own


def run_build(
    folder: Path,
    out: Path,
    settings: PersonifySettings,
    server: Server,
    embedding: str = "tfidf",
    general_file: Path | None = None,
    encoding: str | None = None,
    unreviewed: bool = False,
    console: Console | None = None,
) -> bool:
    """Make a character's conversations; whether everything asked for is there.

    Raises:
        ValueError, FileNotFoundError, ImportError: something is wrong with what is given; nothing was sent.
    """
    console = console or Console()
    _check_folder(out)
    character = load_character(folder, encoding)
    if not character.reviewed and not unreviewed:
        raise DPGError(
            f"{folder} was made by a language model and nobody has looked through it: correct it and set reviewed to true in "
            "its stages.yaml, or give --unreviewed"
        )
    instructions: Sequence[str] = ()
    if settings.general:
        if general_file is None and character.language != "en":
            raise DPGError(
                f"the package's general instructions are English, {character.name} speaks {character.language!r}: "
                "give --general-file, or --general 0"
            )
        instructions = INSTRUCTIONS if general_file is None else load_instructions(general_file)
    client = server.client(out / REPLIES)
    embedder = make_embedder(embedding, client)
    asker = Asker(client, lambda calls, title: run_with_progress(client, calls, console, title))
    examples = load_examples(folder, character) if settings.shots or settings.written else ()
    annotator = Annotator(character, settings, asker, embedder, instructions, examples)
    _print_character(character, console)
    if server.dry_run:
        if embedding.startswith(API):
            annotator.embedder = make_embedder("tfidf")
            console.print(
                "Materials were chosen by TF-IDF for this estimate; embeddings cost little and are not in it."
            )
        _print_plan(client, expected_calls(annotator), console)
        console.print(
            f"The prompts of answers and verdicts are estimates; at most {settings.rounds - 1} more rounds replace what is lost"
            f"{f', each answer is asked for up to {settings.candidates} times' if settings.candidates > 1 else ''}."
        )
        return True
    build = annotator.build()
    manifest = write_personified(out, character, settings, build, asker, embedder.name)
    _print_build(manifest, console)
    _print_refusals((*build.refused, *build.lost), console)
    if asker.broken is not None:
        console.print(f"[red]The server could not be used any more:[/red] {asker.broken}", highlight=False)
        console.print("What was finished is written; the same command goes on from there.")
    elif not manifest["complete"]:
        console.print(
            f"[yellow]Fewer conversations than wanted.[/yellow] {out / LOST} says why; raise --rounds, or start the same "
            "command again if calls failed."
        )
    console.print(f"Written to {out}")
    return bool(manifest["complete"])


def run_material(
    path: Path,
    out: Path,
    wanted: novel.Wanted,
    server: Server,
    encoding: str | None = None,
    console: Console | None = None,
) -> bool:
    """Make a character's folder; whether nothing has to be tried again.

    Raises:
        ValueError, FileNotFoundError, ImportError: something is wrong with what is given; nothing was sent.
    """
    console = console or Console()
    novel.check_target(out)
    found, notes = novel.read_novel(path, wanted, encoding)
    words = sum(count_words(block.text) for passage in found for block in passage.blocks)
    console.print(
        f"{counted(len(found), 'passage')} with {counted(words, 'word')} concern {wanted.name}.", highlight=False
    )
    _print_notes(notes, console)
    client = server.client(out / REPLIES)
    if server.dry_run:
        calls: list[Any] = [extraction.extract_call(passage, wanted.name, wanted.aliases) for passage in found]
        plan = client.plan(calls, completion_tokens=extraction.EXTRACT_TOKENS)
        console.print(plan_table(plan))
        console.print("Stages, and the stages of what is found, come on top: about a tenth of that.")
        return True
    asker = Asker(client, lambda calls, title: run_with_progress(client, calls, console, title))
    made = novel.make_material(found, wanted, asker)
    made.notes = notes
    manifest = novel.write_material(out, wanted, made, client, asker)
    table = Table(title=wanted.name)
    for column in ("stage", "time", "knowledge", "style"):
        table.add_column(column, justify="left" if column in ("stage", "time") else "right")
    for stage in made.stages:
        counts = manifest["items"][stage.id]
        table.add_row(stage.id, stage.time, str(counts.get("knowledge", 0)), str(counts.get("style", 0)))
    console.print(table)
    left_out = ", ".join(f"{count} {reason}" for reason, count in manifest["left_out"].items()) or "nothing"
    console.print(f"Left out: {left_out}. Failed calls: {len(made.failed)}.", highlight=False)
    for item, kind, detail in made.failed[:_SHOWN_NOTES]:
        console.print(f"  {item}: {kind}: {detail}", markup=False, highlight=False)
    console.print(f"Cost: {money(manifest['cost'], manifest['currency'])}", highlight=False)
    thin = [
        stage.id for stage in made.stages if any(not manifest["items"][stage.id].get(k) for k in ("knowledge", "style"))
    ]
    if thin:
        console.print(f"[yellow]Without knowledge or style, add some:[/yellow] {', '.join(thin)}")
    if not made.items:
        console.print("[yellow]The model took nothing out of the text.[/yellow]")
    if asker.broken is not None:
        console.print(f"[red]The server could not be used any more:[/red] {asker.broken}", highlight=False)
    if not made.complete:
        console.print("Not finished; the same command goes on from there.")
    elif made.stages:
        console.print(f"Look through {out}, correct it, and set reviewed to true in its stages.yaml.")
    return made.complete and bool(made.stages) and not thin


def show_character(folder: Path, encoding: str | None = None, console: Console | None = None) -> None:
    """Print a character's stages and what was repaired while reading."""
    _print_character(load_character(folder, encoding), console or Console())


def run_pairs(
    folders: Sequence[Path],
    out: Path,
    settings: PairSettings,
    embedding: str,
    server: Server,
    console: Console | None = None,
) -> None:
    """Make preference pairs of characters' conversations and print their statistics.

    Raises:
        ValueError: no pairs can be made, or two folders hold the same character.
        FileNotFoundError: a folder does not exist.
    """
    console = console or Console()
    _check_folder(out)
    found: list[Pairs] = []
    records: list[PersonifiedRecord] = []
    crossed: list[PersonifiedRecord] = []
    for folder in folders:
        own, cross = read_personified(folder)
        if {r.character for r in own} & {r.character for r in records}:
            raise DPGError(f"{folder} holds a character that another folder holds too")
        records += own
        crossed += cross
    found.append(stage_pairs(records, crossed, settings))
    if len({r.character for r in records}) > 1:
        client = server.client(out / REPLIES) if embedding.startswith(API) else None
        found.append(personality_pairs(records, make_embedder(embedding, client), settings))
    else:
        console.print("One character: no pairs between personalities; give another character's folder too.")
    pairs = [pair for part in found for pair in part.pairs]
    if not pairs:
        raise DPGError("no pairs: build with --cross above 0 and several stages, or give several characters")
    statistics = pair_statistics(found)
    write_pairs(out, pairs, statistics, settings)
    table = Table(title=counted(len(pairs), "pair"))
    for column in ("pairs", "of", "chosen words", "rejected words", "difference (95 %)", "chosen longer"):
        table.add_column(column, justify="left" if column == "pairs" else "right")
    for name, bias in statistics.lengths.items():
        table.add_row(
            name,
            f"{bias.pairs:,}",
            f"{bias.chosen_words:.1f}",
            f"{bias.rejected_words:.1f}",
            f"{bias.difference:+.1f} ({bias.low:+.1f} to {bias.high:+.1f})",
            f"{bias.chosen_longer:.0%}",
        )
    console.print(table)
    for name, count in statistics.without.items():
        console.print(f"Without a pair: {count} ({name})", highlight=False)
    biased = [name for name, bias in statistics.lengths.items() if bias.biased]
    if biased:
        console.print(f"[yellow]The chosen side can be told by its length:[/yellow] {', '.join(biased)}")
    console.print(f"Written to {out}")


def run_lessons(
    folders: Sequence[Path],
    out: Path,
    settings: PersonifySettings,
    embedding: str = "tfidf",
    encoding: str | None = None,
    console: Console | None = None,
) -> None:
    """Write what a small model can learn to write from: the prompts of `run_build` with the characters' examples as replies.

    Raises:
        ValueError: a folder has no examples for training, or two hold the same character.
    """
    console = console or Console()
    lessons = []
    names: set[str] = set()
    for folder in folders:
        character = load_character(folder, encoding)
        if character.name in names:
            raise DPGError(f"{folder} holds {character.name}, whom another folder holds too")
        names.add(character.name)
        asker = Asker(Server("nobody", dry_run=True).client(out.parent / REPLIES))  # prompts alone, nothing is asked
        examples = training_examples(load_examples(folder, character), settings)
        found = writer_lessons(Annotator(character, settings, asker, make_embedder(embedding), examples=examples))
        console.print(f"{character.name}: {counted(len(found), 'lesson')}", highlight=False)
        lessons += found
    write_records(out, lessons)
    console.print(f"Written to {out}")


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DPGError(f"{out} is a file; name a folder to write to")


def _print_character(character: CharacterMaterial, console: Console) -> None:
    table = Table(title=character.name)
    for column in ("stage", "label", "time", "knowledge", "words", "style", "words"):
        table.add_column(column, justify="left" if column in ("stage", "label", "time") else "right")
    for stage in character.stages:
        row = [stage.id, stage.label, stage.time or ""]
        for part in (stage.knowledge, stage.style):
            row += [f"{len(part):,}", f"{sum(count_words(p.text) for p in part):,}"]
        table.add_row(*row)
    console.print(table)
    _print_notes(character.notes, console)


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes[:_SHOWN_NOTES]:
        console.print(f"  {note}", markup=False, highlight=False)
    if len(notes) > _SHOWN_NOTES:
        console.print(f"  and {len(notes) - _SHOWN_NOTES} more notes", highlight=False)


def _print_plan(client: LLMClient, steps: Sequence[tuple[str, Sequence[Any], int]], console: Console) -> None:
    plans = []
    for name, calls, tokens in steps:
        plan = client.plan(calls, completion_tokens=tokens)
        plans.append(plan)
        console.print(plan_table(plan, f"Dry run: {name}"))
    if len(plans) > 1:
        price = None if any(p.price is None for p in plans) else sum(p.price or 0.0 for p in plans)
        total = Plan(
            sum(p.calls for p in plans),
            sum(p.cached for p in plans),
            sum(p.to_pay for p in plans),
            sum(p.prompt_tokens for p in plans),
            sum(p.completion_tokens or 0 for p in plans),
            price,
            plans[0].currency,
        )
        console.print(plan_table(total, "Dry run, all together: nothing was sent"))


def _print_build(manifest: dict[str, Any], console: Console) -> None:
    records = manifest["records"]
    table = Table(
        title=f"{counted(records['total'], 'conversation')}, {counted(manifest['cross'], 'answer')} across stages"
    )
    table.add_column("by")
    table.add_column("count")
    for name in ("stage", "kind", "split", "stance"):
        table.add_row(name, ", ".join(f"{key} {count}" for key, count in records[name].items()))
    console.print(table)
    if manifest["lost"]:
        listed = ", ".join(f"{count} {reason}" for reason, count in manifest["lost"].items())
        console.print(f"Gave no record: {listed}.", highlight=False)
    thoughts = records["thoughts_by_stance"]
    total = sum(thoughts.values())
    if total >= 10 and thoughts.get("agrees", 0) > _AGREEING * total:
        console.print(
            f"[yellow]{thoughts['agrees']} of {total} opinions were agreed with; --guidance may help.[/yellow]"
        )
    cost = manifest["cost"]
    console.print(
        f"Cost in all: {money(cost['total'], cost['currency'])}; of this run: {money(cost['this_run'], cost['currency'])}"
    )


def _print_refusals(items: Sequence[LostItem], console: Console) -> None:
    """Which rule refused how much, with an example."""
    groups: dict[tuple[str, str], list[LostItem]] = {}
    for item in items:
        groups.setdefault((item.step, item.reason), []).append(item)
    if not groups:
        return
    table = Table(title="What fell")
    for column in ("step", "rule", "count", "an example"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for (step, reason), fallen in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        shown = " ".join((fallen[0].text or fallen[0].detail).split())
        table.add_row(step, reason, f"{len(fallen):,}", escape(shown[:_SHOWN_TEXT]))
    console.print(table)
