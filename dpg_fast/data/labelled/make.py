"""What ``dpg-fast data scripts`` does: read, plan, judge, write dialogue, and print all of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dpg_fast.data.labelled.augment import BATCH, APIGenerator, Generator, LocalGenerator, Writer, make_requests
from dpg_fast.data.labelled.build import Dataset, build, texts_of
from dpg_fast.data.labelled.files import write_dataset
from dpg_fast.data.labelled.judging import DialogueScorer
from dpg_fast.data.labelled.prepare import SPLITS, Prepared, prepare
from dpg_fast.data.labelled.settings import LabelSettings
from dpg_fast.data.scripts import Script, find_scripts, load_aliases, merge_speakers, read_corpus
from dpg_fast.data.scripts.novels import attribute, prepare_novel
from dpg_fast.data.scripts.reader import merged_aliases, read_lines
from dpg_fast.judges.choice import LIKELIHOOD, OPENAI, JudgeChoice, fast_dtype
from dpg_fast.judges.evidence import EvidenceJudge
from dpg_fast.judges.llm import LLMJudge
from dpg_fast.llm import LLMClient, LLMSettings, PriceTable
from dpg_fast.llm.display import money, plan_table, print_run, run_with_progress
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import progress_bars
from dpg_fast.util.words import counted

LOCAL = "local"
WORK = "work"  # folder with what a killed run continues from
_SHOWN = 12  # merged names


@dataclass(frozen=True)
class WriterChoice:
    """Who writes dialogue and names a novel's speakers: "local" (dialogue only) or "openai", any server with that API.

    Raises:
        ValueError: an unknown kind, or options that do not belong together.
    """

    kind: str = LOCAL
    model: str | None = None
    url: str | None = None
    key_env: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        if self.kind not in (LOCAL, OPENAI):
            raise DPGError(f"unknown writer {self.kind!r}; accepted: {LOCAL}, {OPENAI}")
        if self.kind == OPENAI and not self.model:
            raise DPGError("name the writer's model with --writer-model")
        if self.kind == LOCAL and (self.model or self.url):
            raise DPGError("--writer-model and --writer-url go with --writer openai")


@dataclass(frozen=True)
class ScriptSource:
    """The scripts: a file or folder, and how to read it."""

    path: Path
    format: str | None = None
    encoding: str | None = None
    aliases: Path | None = None


@dataclass(frozen=True)
class LabelOptions:
    """Who judges and writes, and what is printed.

    Attributes:
        model: local model of the likelihood judge and the local generator.
        max_tokens: of one written dialogue.
    """

    judge: JudgeChoice = field(default_factory=JudgeChoice)
    writer: WriterChoice = field(default_factory=WriterChoice)
    model: str = "smollm2"
    prices: Path | None = None
    concurrency: int = 8
    max_tokens: int = 120
    plots: bool = True
    dry_run: bool = False


def run_build(
    source: ScriptSource, out: Path, settings: LabelSettings, options: LabelOptions, console: Console | None = None
) -> bool:
    """Make the dataset, or with `options.dry_run` say what that would take; whether everything was judged.

    Raises:
        ValueError, OSError: as the readers, the judge and the generator.
        ImportError: a package for what is asked is missing.
        LLMError: an API cannot be used; what came before is kept.
    """
    console = console or Console()
    if out.exists() and not out.is_dir():
        raise DPGError(f"{out} is a file; name a folder to write to")
    if options.plots and not options.dry_run:
        _require_matplotlib()
    prices = PriceTable() if options.prices is None else PriceTable.load(options.prices)
    tools = _Tools(out / WORK, options, settings, prices)
    scripts = _read(source, tools, console)
    if scripts is None:
        return True
    prepared = prepare(scripts, settings)
    console.print(prepared_table(prepared))
    for line in _notes(prepared, settings):
        console.print(line, highlight=False)
    if options.dry_run:
        _print_plans(prepared, settings, tools, console)
        return True
    scorer = tools.scorer()
    writer = tools.writer() if settings.generate else None
    with progress_bars(console) as report:
        dataset = build(prepared, settings, scorer, writer, report)
    costs = _costs(scorer, tools)
    manifest = write_dataset(
        out, dataset, prepared, settings, scorer.judge.describe(), tools.about(), costs, plots=options.plots
    )
    _print_dataset(dataset, manifest, console)
    console.print(scorer.judge.describe(), style="dim", highlight=False)
    console.print(f"Written to {out}; with the datasets package: load_dataset({str(out)!r})")
    if dataset.unjudged:
        console.print(
            f"[red]{len(dataset.unjudged)} texts were not judged[/red] (dropped.jsonl says why). The same command tries again."
        )
    return not dataset.unjudged


class _Tools:
    """Judge and generator, made when they are needed."""

    def __init__(self, work: Path, options: LabelOptions, settings: LabelSettings, prices: PriceTable) -> None:
        self.work, self.options, self.settings, self.prices = work, options, settings, prices
        self.base = cache(self._load)
        self.judge = cache(self._judge)
        self.client = cache(self._client)
        self.generator = cache(self._generator)

    def _load(self) -> tuple[Any, Any]:
        from dpg_fast.util.models import load_base

        return load_base(self.options.model)

    def _judge(self) -> Any:
        likelihood = self.options.judge.kind == LIKELIHOOD
        base, tokenizer = self.base() if likelihood else (None, None)
        judge: Any = self.options.judge.make(base, tokenizer, self.replies("judge_replies.sqlite"))
        if hasattr(judge, "client"):
            judge.client.prices = self.prices
            judge.client.settings = replace(judge.client.settings, concurrency=self.options.concurrency)
            if isinstance(judge, LLMJudge):
                judge.fluency = False  # costs a call, and labels do not need it
        return judge

    def replies(self, name: str) -> Path:
        """Where an API's replies are kept; a dry run writes nothing."""
        file = self.work / name
        return Path(":memory:") if self.options.dry_run and not file.exists() else file

    def _client(self) -> LLMClient:
        endpoint = self.options.writer
        if endpoint.model is None:
            raise DPGError("novels need a language model that names the speakers: --writer openai")
        server = LLMSettings(
            endpoint.model,
            endpoint.url,
            api_key_variable=endpoint.key_env,
            concurrency=self.options.concurrency,
        )
        return LLMClient(server, self.replies("replies.sqlite"), prices=self.prices)

    def _generator(self) -> Generator:
        if self.options.writer.kind == OPENAI:
            return APIGenerator(self.client(), max_tokens=self.options.max_tokens)
        base, tokenizer = self.base()
        return LocalGenerator(base, tokenizer, seed=self.settings.seed, max_new_tokens=self.options.max_tokens)

    def about(self) -> dict[str, Any]:
        """Judge and generator, JSON-ready, without anything of this machine."""
        return {"judge": self._about_judge()} | (
            {"generator": self._about_generator()} if self.settings.generate else {}
        )

    def _about_judge(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.options.judge.kind, "what": self.judge().describe()}
        return found | self._about_base() if self.options.judge.kind == LIKELIHOOD else found

    def _about_base(self) -> dict[str, Any]:
        from dpg_fast.model.disk.identity import base_identity

        return {"weights": base_identity(self.base()[0]), "autocast": str(fast_dtype())}

    def _about_generator(self) -> dict[str, Any]:
        endpoint = self.options.writer
        found: dict[str, Any] = {"kind": endpoint.kind, "max_tokens": self.options.max_tokens}
        if endpoint.kind == OPENAI:
            return found | {"model": endpoint.model}
        return found | {"seed": self.settings.seed, "weights": self._about_base()["weights"]}

    def scorer(self) -> DialogueScorer:
        """The judge with its memory."""
        name = self.options.judge.model or self.options.model
        return DialogueScorer(self.judge, self._about_judge(), self.work / "scores.jsonl", name)

    def writer(self) -> Writer:
        """The generator with its memory."""
        api = self.options.writer.kind == OPENAI  # whose replies are kept one by one, however many are under way
        batch = max(BATCH, 4 * self.options.concurrency) if api else BATCH
        return Writer(self.generator, self._about_generator(), self.work / "generated.jsonl", batch)


def _read(source: ScriptSource, tools: _Tools, console: Console) -> list[Script] | None:
    """The scripts; None in a dry run over novels, whose speakers nobody has named yet."""
    names = None if source.aliases is None else load_aliases(source.aliases)
    if source.format != "novel":
        corpus = read_corpus(source.path, format=source.format, encoding=source.encoding, aliases=names)
        for line in corpus.report():
            console.print(line, highlight=False, markup=False)
        _require_own_names([script.name for script in corpus.scripts])
        return corpus.scripts
    files = find_scripts(source.path)
    _require_own_names([file.stem for file in files])
    novels = [prepare_novel(read_lines(file, source.encoding)[0], file.stem) for file in files]
    calls = [call for novel in novels for call in novel.calls]
    if tools.options.dry_run:
        console.print(plan_table(tools.client().plan(calls), "Dry run: naming the speakers; judging comes on top"))
        return None
    run = run_with_progress(tools.client(), calls, console, "naming speakers")
    print_run(run, console)
    scripts, start = [], 0
    for file, novel in zip(files, novels, strict=True):
        part = replace(run, results=run.results[start : start + len(novel.calls)])
        start += len(novel.calls)
        scripts.append(merge_speakers(attribute(novel, part), merged_aliases(file, names)))
    return scripts


def _require_own_names(names: Sequence[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DPGError(f"scripts need names of their own; there are several called {', '.join(repeated)}")


def _print_plans(prepared: Prepared, settings: LabelSettings, tools: _Tools, console: Console) -> None:
    texts = texts_of(prepared.segments)
    requests = make_requests(prepared, settings) if settings.generate else []
    if tools.options.judge.kind == OPENAI:
        judge = tools.judge()
        if isinstance(judge, EvidenceJudge):
            plan = judge.plan([text.dialogue for text in texts])
        else:
            plan = judge.plan([(text.situation, text.answer) for text in texts])
        console.print(plan_table(plan, "Dry run: judging the scripts"))
        if requests:
            each = plan.price / plan.to_pay * math.ceil(plan.calls / len(texts)) if plan.price and plan.to_pay else None
            total = None if each is None else each * len(requests)
            console.print(
                f"Judging {counted(len(requests), 'written dialogue')} comes on top: "
                f"{money(total, plan.currency)} if they are as long."
            )
    else:
        console.print(
            f"The likelihood judge costs nothing but time: {counted(len(texts) + len(requests), 'text')} to judge."
        )
    if requests and tools.options.writer.kind == OPENAI:
        generator = APIGenerator(tools.client(), max_tokens=tools.options.max_tokens)
        console.print(plan_table(tools.client().plan(generator.calls(requests)), "Dry run: writing dialogue"))
    elif requests:
        console.print(f"The local model writes {counted(len(requests), 'dialogue')}.")
    console.print("Nothing was sent or written.")


def _notes(prepared: Prepared, settings: LabelSettings) -> list[str]:
    lines = []
    counts = Counter(prepared.split.values())
    mixed = sum(row.reason == "a test character speaks in it" for row in prepared.dropped)
    if mixed > 0.3 * (counts["train"] + mixed):
        lines.append(
            f"{mixed} segments were left out of training because a test character speaks in them; --keep-mixed keeps them, a "
            "smaller --test-characters or another --seed may need it less."
        )
    if settings.test_characters and not prepared.held_out:
        lines.append("Too few characters to hold one out: there is no test of new characters.")
    merged = [
        f"{script.name}: {name} = {person}" for script in prepared.scripts for name, person in script.merged.items()
    ]
    if merged:
        lines.append(f"Merged names (an alias file undoes that): {'; '.join(merged[:_SHOWN])}")
    problems = sum(len(script.problems) for script in prepared.scripts)
    if problems:
        lines.append(f"{problems} problems in the files; `dpg-fast data scripts read` shows them.")
    return lines


def prepared_table(prepared: Prepared) -> Table:
    """Scripts, segments and splits."""
    table = Table(title="Scripts")
    for column in ("script", "format", "scenes", "speeches", *SPLITS):
        table.add_column(column, justify="left" if column in ("script", "format") else "right")
    for script in prepared.scripts:
        counts = Counter(prepared.split[s.id] for s in prepared.segments if s.script == script.name)
        speeches = sum(1 for _ in script.speeches())
        table.add_row(
            script.name,
            script.format,
            str(len(script.scenes)),
            str(speeches),
            *(str(counts[split]) for split in SPLITS),
        )
    reasons = Counter(row.reason for row in prepared.dropped)
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none"
    tested = ", ".join(name for _, name in sorted(prepared.held_out)) or "nobody"
    table.caption = f"Test characters: {tested}. Segments left out: {left_out}."
    return table


def _costs(scorer: DialogueScorer, tools: _Tools) -> dict[str, Any]:
    notes = [row["note"] for row in scorer.store.rows.values() if row["scores"]]
    known = [note["cost"] for note in notes if note.get("cost") is not None]
    judging = math.fsum(known) if known and len(known) == len(notes) else None
    found: dict[str, Any] = {"judging": judging, "currency": tools.prices.currency}
    if tools.options.writer.model is not None:
        writer = tools.generator() if tools.settings.generate else None
        found["writing_this_run"] = writer.cost if isinstance(writer, APIGenerator) else None
    return found


def _print_dataset(dataset: Dataset, manifest: dict[str, Any], console: Console) -> None:
    table = Table(title="Characters", caption="O to N: centre of the judged segments")
    for column in ("character", "split", "segments", "outliers", "written", "kept", *"OCEAN"):
        table.add_column(column, justify="left" if column in ("character", "split") else "right")
    for row in dataset.characters:
        values = ["", "", "", "", ""]
        if row.centre is not None:
            values = [f"{mean:+.1f}" for mean in row.centre]
        numbers = (sum(row.segments.values()), row.outliers, row.generated, row.kept)
        table.add_row(row.character, "test" if row.split != "train" else "train", *map(str, numbers), *values)
    console.print(table)
    parts = ", ".join(f"{split} {count}" for split, count in manifest["records"].items())
    dropped = ", ".join(f"{count} {reason}" for reason, count in manifest["dropped"].items()) or "nothing"
    console.print(f"Records: {parts}. Left out: {dropped}.", highlight=False)
    for row in dataset.characters:
        if row.nearest is not None:
            left_out = "; too near, left out of the test" if row.new is False else ""
            console.print(
                f"{row.character} (test) lies {row.nearest:.2f} from {row.nearest_character}, the closest in training{left_out}.",
                highlight=False,
                markup=False,
            )
    cost = manifest["cost"]
    if cost.get("judging") is not None:
        console.print(f"Judging cost {money(cost['judging'], cost['currency'])} in all.", highlight=False)


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ImportError("pictures need matplotlib: pip install 'dpg-fast[data]', or give --no-plots")
