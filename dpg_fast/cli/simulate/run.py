"""What ``dpg-fast simulate`` does: read scenarios, load what speaks, run, show and write; and compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from dpg_fast.judges.choice import JudgeChoice
from dpg_fast.simulate.scenario import Scenario, load_scenarios
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

if TYPE_CHECKING:
    from dpg_fast.llm.server import Server

REPLIES = "replies.sqlite"
DTYPES = ("float32", "bfloat16", "float16")
_LAST_WORDS = 60  # characters of the latest turn in the live table


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run; see the command's help.

    Args:
        characters: name -> directory of a tuned character.
        seeds: one conversation of each scenario for each.
        readings: turns between two readings; 0 for none.
    """

    model: str = "smollm2"
    adapter: str | None = None
    characters: Mapping[str, Path] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    turns: int | None = None
    batch_size: int = 32
    readings: int = 1
    traits: str = "OCEAN"
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    dtype: str = "float32"


def run_simulation(
    files: Sequence[Path], out: Path, options: RunOptions, *, check: bool = False, console: Console | None = None
) -> Any:
    """Run scenarios and write ``dialogues.jsonl``, ``transcript.md`` and ``report.html`` into ``out``.

    Args:
        files: scenario files or folders.
        check: only read the scenarios and show who speaks.

    Returns:
        The `Simulation`; None with ``check``.

    Raises:
        ValueError: a bad scenario, something that a scenario needs and nobody gave, or a folder with another run; before the
            model is loaded where that can be known.
    """
    console = console or Console()
    if options.dtype not in DTYPES:
        raise DPGError(f"dtype is one of {', '.join(DTYPES)}, not {options.dtype!r}")
    scenarios = read_scenarios(files, options)
    console.print(_cast_table(scenarios))
    if check:
        return None
    if out.exists() and not out.is_dir():
        raise DPGError(f"{out} is a file; name a folder")
    from dpg_fast.llm import LLMClient, LLMSettings
    from dpg_fast.personality.traits import parse_traits
    from dpg_fast.simulate.order import LikelyName
    from dpg_fast.simulate.run import simulate
    from dpg_fast.simulate.voices import EndpointVoice, LocalVoice, Voices, endpoint_key
    from dpg_fast.simulate.writing import write_transcripts

    traits = parse_traits(options.traits)
    endpoints = {
        endpoint_key(speaker.endpoint): speaker.endpoint
        for scenario in scenarios
        for speaker in scenario.speakers
        if speaker.endpoint is not None
    }
    clients = {
        key: LLMClient(
            LLMSettings(endpoint.model, endpoint.base_url, api_key_variable=endpoint.api_key_variable), out / REPLIES
        )
        for key, endpoint in endpoints.items()
    }
    for client in clients.values():
        client.settings.key()  # a missing key is found before the model is loaded
    local = any(scenario.needs_local for scenario in scenarios)
    model = tokenizer = None
    if local or (options.readings and options.judge.kind == "likelihood"):
        model, tokenizer = load_model(options)
    about: dict[str, Any] = {"model": options.model, "adapter": options.adapter, "dtype": options.dtype}
    about |= {"characters": {name: _digest(path) for name, path in options.characters.items()}}
    about |= {"batch_size": options.batch_size}
    voice = None
    if local and model is not None:
        from dpg_fast.model.disk.identity import model_identity

        about["identity"] = model_identity(model)
        voice = LocalVoice(model, tokenizer, options.batch_size)
        voice.check(scenarios)
    judge = None
    if options.readings:
        judge = options.judge.make(None if model is None else model.base, tokenizer, out / REPLIES)
    with _live(console, scenarios) as show:
        found = simulate(
            scenarios,
            options.seeds,
            Voices(voice, {key: EndpointVoice(client) for key, client in clients.items()}),
            out,
            about,
            scorer=None if model is None else LikelyName(model.base, tokenizer),
            judge=judge,
            judge_every=max(1, options.readings),
            traits=traits,
            progress=show,
        )
    page = write_transcripts(found, scenarios, out, about, None if judge is None else judge.describe())
    console.print(
        f"{counted(len(found.conversations), 'conversation')}: {out / 'dialogues.jsonl'}, {out / 'transcript.md'}, {page}"
    )
    return found


def read_scenarios(files: Sequence[Path], options: RunOptions) -> list[Scenario]:
    """The scenarios with the run's turns, checked against what the run has.

    Raises:
        ValueError: a personality without an adapter, a character without a directory, or a directory nobody needs.
        FileNotFoundError: no such file or directory.
    """
    found = load_scenarios(list(files))
    if options.turns is not None:
        found = [Scenario.model_validate(s.model_dump() | {"turns": options.turns}) for s in found]
    wanted: dict[str, str] = {}
    for scenario in found:
        for speaker in scenario.speakers:
            who = f"{speaker.name} of {scenario.name}"
            if speaker.character is not None:
                wanted.setdefault(speaker.character, who)
            if speaker.personality is not None and options.adapter is None:
                raise DPGError(
                    f"{who} has a personality, which needs an adapter: --adapter DIR, or --adapter smollm2-hypernet"
                )
    missing = [f"{name} ({who})" for name, who in wanted.items() if name not in options.characters]
    if missing:
        raise DPGError(f"name the directory of {', '.join(missing)}: --character NAME=DIRECTORY")
    unused = [name for name in options.characters if name not in wanted]
    if unused:
        raise DPGError(
            f"no scenario has the character {', '.join(unused)}; characters there: {', '.join(wanted) or 'none'}"
        )
    for name, path in options.characters.items():
        if not path.is_dir():
            raise FileNotFoundError(f"the directory of {name} does not exist: {path}")
    return found


def load_model(options: RunOptions) -> tuple[Any, Any]:
    """The `PersonalityModel` with adapter and characters, and its tokenizer."""
    import torch

    from dpg_fast.model.loading import load_wrapped

    return load_wrapped(options.model, options.adapter, getattr(torch, options.dtype), options.characters)


def _digest(directory: Path) -> str:
    """Hash of a character's weights, whatever the directory is called."""
    total = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()[:16]


def _cast_table(scenarios: Sequence[Scenario]) -> Table:
    from dpg_fast.simulate.writing import speaks

    table = Table(title="Who speaks")
    for column in ("scenario", "turns", "order", "speaker", "by"):
        table.add_column(column, justify="right" if column == "turns" else "left")
    for scenario in scenarios:
        for place, name in enumerate(scenario.names):
            head = (scenario.name, str(scenario.turns), scenario.order) if place == 0 else ("", "", "")
            table.add_row(*map(escape, (*head, name, speaks(scenario, place))))
    return table


@contextmanager
def _live(console: Console, scenarios: Sequence[Scenario]) -> Iterator[Callable[[Any, int, int], None]]:
    """A table of mean readings and latest turns that is redrawn after every step; lines where there is no terminal."""
    if not console.is_terminal:
        yield lambda simulation, done, total: console.print(f"turn {done}/{total}", highlight=False)
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(simulation: Any, done: int, total: int) -> None:
            live.update(Group(_readings_table(simulation, scenarios), ProgressBar(total, done, width=60)), refresh=True)

        yield show


def _readings_table(simulation: Any, scenarios: Sequence[Scenario]) -> Table:
    import math

    from dpg_fast.personality.scores import Trait

    table = Table(title="Mean readings so far (judge's scores, -5 to 5)")
    for column in ("scenario", "speaker", *(trait.letter for trait in Trait), "latest turn"):
        table.add_column(column, justify="right" if len(column) == 1 else "left")
    for scenario in scenarios:
        latest = next(c for c in simulation.conversations if c.scenario.name == scenario.name)
        for place, name in enumerate(scenario.names):
            means = [simulation.mean(scenario.name, place, trait) for trait in Trait]
            said = next((turn.text for turn in reversed(latest.said) if turn.speaker == place), "")
            cells = ["" if math.isnan(value) else f"{value:+.1f}" for value in means]
            first = scenario.name if place == 0 else ""
            table.add_row(escape(first), escape(name), *cells, escape(said[:_LAST_WORDS]))
    return table


@dataclass(frozen=True)
class CompareOptions:
    """Settings of a comparison; see the command's help."""

    terms: Path | None = None
    scenarios: Sequence[Path] = ()
    material: Sequence[Path] = ()
    judge: Server | None = None
    cache: Path = Path("simulate_replies.sqlite")
    resamples: int = 1000
    seed: int = 0


def run_comparison(
    files: Sequence[tuple[str, Path]],
    options: CompareOptions,
    out: Path | None = None,
    report: Path | None = None,
    console: Console | None = None,
) -> Any:
    """Compare files of dialogues; the `Comparison`.

    Raises:
        ValueError: two systems of one name, terms from two places, or a file that cannot be used.
    """
    from dpg_fast.simulate.compare import compare, read_systems
    from dpg_fast.simulate.comparison_report import comparison_tables, write_comparison_page
    from dpg_fast.util.results import write_results

    console = console or Console()
    names = [name for name, _ in files]
    if len(set(names)) < len(names):
        raise DPGError(f"two systems have the same name ({', '.join(names)}); write NAME=FILE")
    if report is not None and report.exists() and not report.is_dir():
        raise DPGError(f"{report} is a file; name a folder")
    terms, origin = find_terms(options)
    systems = read_systems(dict(files))
    client = None if options.judge is None else options.judge.client(options.cache)
    try:
        found = compare(
            systems, terms=terms, terms_from=origin, client=client, resamples=options.resamples, seed=options.seed
        )
    finally:
        if client is not None:
            client.cache.close()
    for table in comparison_tables(found):
        console.print(table)
    console.print(f"Agreement by {found.agreement_by}.", style="dim", highlight=False)
    if out is not None:
        write_results(out, found.to_dict())
        console.print(f"Written to {out}")
    if report is not None:
        console.print(f"Report: {write_comparison_page(found, report)}")
    return found


def find_terms(options: CompareOptions) -> tuple[tuple[str, ...], str]:
    """The domain's terms and where they are from; none if nothing was named.

    Raises:
        ValueError: more than one source was named, or it holds no terms.
    """
    from dpg_fast.simulate.compare import derive_terms, read_terms

    given = [name for name in ("terms", "scenarios", "material") if getattr(options, name)]
    if len(given) > 1:
        raise DPGError("terms come from --terms, --scenario or --material: name one of them")
    if options.terms is not None:
        return read_terms(options.terms), f"the file {options.terms.name}"
    if options.scenarios:
        scenarios = load_scenarios(list(options.scenarios))
        found = tuple(dict.fromkeys(term for scenario in scenarios for term in scenario.terms))
        if not found:
            raise DPGError("the scenarios name no terms")
        return found, f"the scenarios {', '.join(s.name for s in scenarios)}"
    if options.material:
        from dpg_fast.personality.scores import POLES
        from dpg_fast.personified.data.general import INSTRUCTIONS
        from dpg_fast.personified.data.material import load_character
        from dpg_fast.text.assets import load_descriptions, load_questions

        people = [load_character(folder) for folder in options.material]
        texts = [p.text for person in people for stage in person.stages for p in stage.knowledge]
        usual = [q.question for q in load_questions()] + list(INSTRUCTIONS)
        usual += [d.text for pole in POLES for d in load_descriptions(pole)]
        names = ", ".join(folder.name for folder in options.material)
        return derive_terms(texts, usual), f"the knowledge of {names}"
    return (), ""
