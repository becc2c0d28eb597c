"""``dpg-fast data scripts``: read scripts, and make labelled datasets of them."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    BaseModel,
    Concurrency,
    DryRun,
    Encoding,
    MaxTokens,
    OptionalOutFile,
    OptionalWriterModel,
    OutFolder,
    Prices,
    Seed,
    Similarity,
    WriterKeyEnv,
    WriterUrl,
    option,
)
from dpg_fast.cli.servers import takes_judge
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice

data = group("Make training data of scripts, and of a character's material.")
scripts = group(
    "Read screenplays, plays, transcripts, subtitles, chats, tables and novels, and make labelled datasets of them."
)
data.add_typer(scripts, name="scripts")


class WriterName(StrEnum):
    """Who writes further dialogues."""

    LOCAL = "local"
    OPENAI = "openai"


class Label(StrEnum):
    """Personality of a record."""

    SEGMENT = "segment"
    CENTRE = "centre"


class Outliers(StrEnum):
    """What happens to segments far from the character's others."""

    DROP = "drop"
    KEEP = "keep"


_Format = Annotated[
    str | None,
    option(
        "Format of the files: fountain, play, subtitles, chats, table, fdx, tei or novel; by ending and content by default.",
        "--format",
    ),
]
_Aliases = Annotated[
    Path | None, option('JSON file of names: {"Harry Potter": ["HARRY", "THE BOY"]}; an empty list keeps a name apart.')
]


@scripts.command("read")
def read(
    path: Annotated[Path, typer.Argument(help='A script, a folder of scripts, or "samples" for those of the package.')],
    format: _Format = None,
    encoding: Encoding = None,
    aliases: _Aliases = None,
    out: OptionalOutFile = None,
    problems: Annotated[int, option("Number of problems that are shown of each file.", min=0)] = 10,
) -> None:
    """Read scripts and show scenes, speakers, merged names and problems. Costs nothing; novels need `build`.

    Files of a folder that cannot be read are named, and the others are read. The status is 1 if no speech was found.
    """
    from dpg_fast.data.scripts import load_aliases, read_corpus
    from dpg_fast.data.scripts.display import show_corpus

    names = None if aliases is None else load_aliases(aliases)
    corpus = read_corpus(path, format=format, encoding=encoding, aliases=names)
    show_corpus(corpus, problems, out)
    if not corpus.speeches:
        raise typer.Exit(1)


@scripts.command("build")
@takes_judge()
def build(
    path: Annotated[Path, typer.Argument(help='A script, a folder of scripts, or "samples" for those of the package.')],
    out: OutFolder,
    protocol: Annotated[
        str | None,
        option(
            "What a judge behind an API is asked: evidence, the default, judges a dialogue in one call with quotations; npti "
            "asks for ratings from 1 to 5, one call for each trait."
        ),
    ] = None,
    max_missing: Annotated[
        int,
        option(
            "Drop texts in which more traits than this lack evidence; with fewer, the character's centre stands in."
        ),
    ] = 2,
    base_model: BaseModel = "smollm2",
    generate: Annotated[int, option("Number of further dialogues to write for each character.", min=0)] = 0,
    writer: Annotated[
        WriterName, option("Who writes further dialogues: local is the base model, openai any server with that API.")
    ] = WriterName.LOCAL,
    writer_model: OptionalWriterModel = None,
    writer_url: WriterUrl = None,
    writer_key_env: WriterKeyEnv = "OPENAI_API_KEY",
    near: Annotated[
        float, option("Keep written dialogue that lies within this multiple of the character's radius.")
    ] = 1.0,
    format: _Format = None,
    encoding: Encoding = None,
    aliases: _Aliases = None,
    one_cast: Annotated[bool, option("The scripts share their people, as a series does.", "--one-cast")] = False,
    turns: Annotated[int, option("Most turns of a segment.", min=1)] = 8,
    before: Annotated[int, option("Turns of others that are kept before the character's first.", min=0)] = 2,
    min_words: Annotated[int, option("Fewest words of the character in a segment.", min=1)] = 10,
    min_segments: Annotated[int, option("Fewest segments of a character.", min=1)] = 3,
    test_characters: Annotated[float, option("Share of the characters that is kept for testing.")] = 0.1,
    test_scenes: Annotated[float, option("Share of the scenes that is kept for testing.")] = 0.1,
    keep_mixed: Annotated[
        bool, option("Also train on scenes in which test characters speak to the others.", "--keep-mixed")
    ] = False,
    min_distance: Annotated[
        float,
        option("Leave out test characters whose centre lies nearer than this to a training character's."),
    ] = 0.0,
    label: Annotated[
        Label, option("Personality of a record: its own scores (segment), or its character's centre.")
    ] = Label.SEGMENT,
    integers: Annotated[bool, option("Round personalities to whole levels, as DPG does.", "--integers")] = False,
    outliers: Annotated[
        Outliers, option("What happens to segments that lie far from the character's others.")
    ] = Outliers.DROP,
    similarity: Similarity = 0.8,
    prices: Prices = None,
    concurrency: Concurrency = 8,
    max_tokens: MaxTokens = 120,
    plots: Annotated[bool, option("Draw pictures of the statistics, which needs matplotlib.")] = True,
    seed: Seed = 0,
    dry_run: DryRun = False,
    *,
    judge: JudgeChoice,
) -> None:
    """From scripts to a labelled dataset: segments, judge, centres, further dialogue, splits, card. Resumes after a kill."""
    from dpg_fast.data.labelled import LabelSettings
    from dpg_fast.data.labelled.make import LabelOptions, ScriptSource, WriterChoice, run_build
    from dpg_fast.data.scripts.segments import SegmentSettings
    from dpg_fast.judges.choice import EVIDENCE, LIKELIHOOD

    if protocol is not None and judge.kind == LIKELIHOOD:
        raise DPGError("--protocol goes with --judge openai")
    settings = LabelSettings(
        cut=SegmentSettings(turns, before, min_words),
        one_cast=one_cast,
        min_segments=min_segments,
        test_characters=test_characters,
        test_scenes=test_scenes,
        keep_mixed=keep_mixed,
        min_distance=min_distance,
        label=label.value,
        integers=integers,
        outliers=outliers.value,
        max_missing=max_missing,
        similarity=similarity,
        generate=generate,
        near=near,
        seed=seed,
    )
    complete = run_build(
        ScriptSource(path, format, encoding, aliases),
        out,
        settings,
        LabelOptions(
            judge=replace(judge, protocol=protocol or EVIDENCE),
            writer=WriterChoice(writer.value, writer_model, writer_url, writer_key_env),
            model=base_model,
            prices=prices,
            concurrency=concurrency,
            max_tokens=max_tokens,
            plots=plots,
            dry_run=dry_run,
        ),
    )
    if not complete:
        raise typer.Exit(1)
