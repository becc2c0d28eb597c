"""``dpg-fast data scripts``: read scripts, and make labelled datasets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.cli.server_options import Concurrency, Prices
from dpg_fast.util.errors import DPGError

data = typer.Typer(help="Training data.", no_args_is_help=True)
scripts = typer.Typer(
    help="Screenplays, plays, transcripts, subtitles, chats and novels: read, judge, augment, split.",
    no_args_is_help=True,
)
data.add_typer(scripts, name="scripts")

_Format = Annotated[
    str | None, typer.Option("--format", help="fountain, play, subtitles, chats or novel. Default: by ending and look.")
]
_Encoding = Annotated[str | None, typer.Option(help="Encoding of the files; guessed by default.")]
_Aliases = Annotated[
    Path | None, typer.Option(help='JSON: {"Harry Potter": ["HARRY", "THE BOY"]}; an empty list keeps a name apart.')
]


@scripts.command("read")
def read(
    path: Annotated[Path, typer.Argument(help='A script, a folder of scripts, or "samples": those of the package.')],
    format: _Format = None,
    encoding: _Encoding = None,
    aliases: _Aliases = None,
    out: Annotated[Path | None, typer.Option(help="Also write every speech and direction, as JSON Lines.")] = None,
    problems: Annotated[int, typer.Option(min=0, help="Problems shown of each file.")] = 10,
) -> None:
    """Read scripts and show scenes, speakers, merged names and problems. Costs nothing; novels need `build`."""
    with one_line_errors("dpg-fast data scripts read"):
        from dpg_fast.cli.scripts_run import show_scripts
        from dpg_fast.data.scripts import find_scripts, load_aliases, read_script

        names = None if aliases is None else load_aliases(aliases)
        found = [read_script(file, format=format, encoding=encoding, aliases=names) for file in find_scripts(path)]
        show_scripts(found, problems, out)


@scripts.command("build")
def build(
    path: Annotated[Path, typer.Argument(help='A script, a folder of scripts, or "samples": those of the package.')],
    out: Annotated[Path, typer.Option(help="Folder to write; a killed run continues in it.")],
    judge: Annotated[
        str, typer.Option(help="likelihood needs no network; openai is any server with that API.")
    ] = "likelihood",
    judge_model: Annotated[str | None, typer.Option(help="The openai judge's model.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="The openai judge's server. Default: OpenAI's.")] = None,
    judge_key: Annotated[str, typer.Option(help="Environment variable with its key.")] = "OPENAI_API_KEY",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="What the openai judge is asked: evidence (the whole dialogue in one call, with quotations; the default) "
            "or npti (ratings 1 to 5, a call for each trait)."
        ),
    ] = None,
    max_missing: Annotated[
        int, typer.Option(help="Drop texts with more traits than this without evidence; the centre stands for fewer.")
    ] = 2,
    model: Annotated[
        str, typer.Option(help='Local model of the likelihood judge and the local generator; "smollm2" is bundled.')
    ] = "smollm2",
    generate: Annotated[int, typer.Option(min=0, help="Further dialogues written for each character.")] = 0,
    generator: Annotated[str, typer.Option(help="Who writes them: local or openai.")] = "local",
    generator_model: Annotated[str | None, typer.Option(help="The openai generator's model.")] = None,
    generator_url: Annotated[str | None, typer.Option(help="Its server. Default: OpenAI's.")] = None,
    generator_key: Annotated[str, typer.Option(help="Environment variable with its key.")] = "OPENAI_API_KEY",
    near: Annotated[
        float, typer.Option(help="Keep generated dialogue up to this multiple of the character's radius.")
    ] = 1.0,
    format: _Format = None,
    encoding: _Encoding = None,
    aliases: _Aliases = None,
    one_cast: Annotated[bool, typer.Option("--one-cast", help="The scripts share their people (a series).")] = False,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a segment, at most.")] = 8,
    before: Annotated[int, typer.Option(min=0, help="Turns of others kept before the character's first.")] = 2,
    min_words: Annotated[int, typer.Option(min=1, help="Words of the character in a segment, at least.")] = 10,
    min_segments: Annotated[int, typer.Option(min=1, help="Segments of a character, at least.")] = 3,
    test_characters: Annotated[float, typer.Option(help="Share of the characters kept for testing.")] = 0.1,
    test_scenes: Annotated[float, typer.Option(help="Share of the scenes kept for testing.")] = 0.1,
    keep_mixed: Annotated[
        bool, typer.Option("--keep-mixed", help="Train also where test characters speak to the others.")
    ] = False,
    min_distance: Annotated[
        float,
        typer.Option(help="Leave test characters out whose centre lies nearer than this to a training character's."),
    ] = 0.0,
    label: Annotated[str, typer.Option(help="A record's personality: its own scores (segment) or centre.")] = "segment",
    integers: Annotated[bool, typer.Option("--integers", help="Round it to whole levels, as in DPG.")] = False,
    outliers: Annotated[str, typer.Option(help="drop or keep segments far from the character's others.")] = "drop",
    similarity: Annotated[float, typer.Option(help="Word-trigram overlap that counts as a repetition.")] = 0.8,
    prices: Prices = None,
    concurrency: Concurrency = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest written dialogue, in tokens.")] = 120,
    plots: Annotated[bool, typer.Option(help="Draw the statistics; needs matplotlib.")] = True,
    seed: int = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and cost; send nothing.")
    ] = False,
) -> None:
    """From scripts to a labelled dataset: segments, judge, centres, further dialogue, splits, card. Resumes after a kill."""
    with one_line_errors("dpg-fast data scripts build"):
        from dpg_fast.cli.judge_options import EVIDENCE, LIKELIHOOD, JudgeOptions
        from dpg_fast.cli.scripts_run import Endpoint, RunOptions, Source, run_build
        from dpg_fast.data.labelled import LabelSettings
        from dpg_fast.data.scripts.segments import SegmentSettings

        if protocol is not None and judge == LIKELIHOOD:
            raise DPGError("--protocol goes with --judge openai")
        chosen: Any = label
        handled: Literal["drop", "keep"] = outliers  # type: ignore[assignment]
        settings = LabelSettings(
            cut=SegmentSettings(turns, before, min_words),
            one_cast=one_cast,
            min_segments=min_segments,
            test_characters=test_characters,
            test_scenes=test_scenes,
            keep_mixed=keep_mixed,
            min_distance=min_distance,
            label=chosen,
            integers=integers,
            outliers=handled,
            max_missing=max_missing,
            similarity=similarity,
            generate=generate,
            near=near,
            seed=seed,
        )
        complete = run_build(
            Source(path, format, encoding, aliases),
            out,
            settings,
            RunOptions(
                judge=JudgeOptions(judge, judge_model, judge_url, judge_key, protocol or EVIDENCE),
                generator=Endpoint(generator, generator_model, generator_url, generator_key),
                model=model,
                prices=prices,
                concurrency=concurrency,
                max_tokens=max_tokens,
                plots=plots,
                dry_run=dry_run,
            ),
        )
    if not complete:
        raise typer.Exit(1)
