"""``dpg-fast assess judge``: Big Five scores for the speakers of dialogues, by a local model or one behind an API.

The same command asks a model behind an API how answers compare with references: accuracy and ranking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.cli.judge_ways import Way, make_protocol, make_reader
from dpg_fast.cli.server_options import (
    BaseUrl,
    Concurrency,
    DryRun,
    KeyVariable,
    LegacyMaxTokens,
    MaxTokens,
    Prices,
    RetryFailed,
)
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from rich.console import Console

    from dpg_fast.judges.dialogue_protocols import JudgingProtocol
    from dpg_fast.judges.dialogue_run import Item, Summary
    from dpg_fast.llm import LLMClient


class Kind(StrEnum):
    """Who judges."""

    LIKELIHOOD = "likelihood"
    OPENAI = "openai"


@dataclass(frozen=True)
class Files:
    """Input, output, and what to do with them."""

    dialogues: Path
    out: Path
    target: str | None
    dry_run: bool
    batch_export: Path | None
    batch_import: list[Path]
    cache: Path | None


def judge(
    dialogues: Annotated[
        Path,
        typer.Argument(
            help="JSON Lines of dialogue records (messages, character, source); for accuracy and ranking of question, "
            "reference and answers by system."
        ),
    ],
    out: Annotated[Path, typer.Option(help="JSON Lines of judgements; a killed run continues.")] = Path(
        "judgements.jsonl"
    ),
    judge: Annotated[
        Kind, typer.Option(help="likelihood: SmolLM2 here, no network; openai: any server with that API.")
    ] = Kind.LIKELIHOOD,
    model: Annotated[str | None, typer.Option(help="The judge's model, as its server names it.")] = None,
    base_url: BaseUrl = None,
    api_key_variable: KeyVariable = "OPENAI_API_KEY",
    protocol: Annotated[
        Way,
        typer.Option(
            help="evidence: -5..5 with quotations that are checked; npti: ratings 1 to 5, and fluency; accuracy, ranking: "
            "systems' answers against a reference."
        ),
    ] = Way.EVIDENCE,
    target: Annotated[
        str | None, typer.Option(help="Who is judged, by name. Default: the record's character, else the assistant.")
    ] = None,
    traits: Annotated[str, typer.Option(help="Letters of the traits, for npti and likelihood.")] = "OCEAN",
    context_tokens: Annotated[
        int, typer.Option(min=1, help="The model's context; longer dialogues are judged in pieces (evidence).")
    ] = 16_000,
    seed: Annotated[
        int, typer.Option(help="Seed of the order in which answers are shown (ranking), and of intervals.")
    ] = 0,
    max_tokens: MaxTokens = 1500,
    legacy_max_tokens: LegacyMaxTokens = False,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of the replies.")] = 0.0,
    no_temperature: Annotated[bool, typer.Option(help="Send no temperature, for models that refuse one.")] = False,
    parameters: Annotated[str, typer.Option(help='Further parameters, JSON: {"seed": 1}.')] = "{}",
    concurrency: Concurrency = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one try of a call.")] = 120.0,
    max_retries: Annotated[int, typer.Option(min=0, help="For overload, server errors and broken connections.")] = 6,
    prices: Prices = None,
    cache: Annotated[Path | None, typer.Option(help="Where replies are kept. Default: beside the output.")] = None,
    retry_failed: RetryFailed = False,
    batch_export: Annotated[
        Path | None, typer.Option(help="Write the open requests as a batch file (OpenAI's format); send nothing.")
    ] = None,
    batch_import: Annotated[
        list[Path] | None, typer.Option(help="Repeatable: read output and error files of a batch; send nothing.")
    ] = None,
    dry_run: DryRun = False,
    report: Annotated[
        Path | None, typer.Option(help="Folder for an HTML report of all judgements in the output, with pictures.")
    ] = None,
) -> None:
    """Score the Big Five of one speaker in each dialogue of a file, or compare systems' answers with references.

    Every dialogue or item gets one line of the output. What failed is listed beside it and tried again by the next run.
    """
    with one_line_errors("dpg-fast assess judge"):
        from rich.console import Console

        from dpg_fast.personality.scores import Trait

        files = Files(dialogues, out, target, dry_run, batch_export, batch_import or [], cache)
        _check(files, judge, model, base_url, protocol, report)
        wanted = [trait for trait in Trait if trait in {Trait.parse(letter) for letter in traits}]
        if not wanted:
            raise DPGError("name some of the traits O, C, E, A, N")
        read = make_reader(files.dialogues, files.target, protocol)
        total = sum(1 for _ in read())
        console = Console()
        if judge is Kind.LIKELIHOOD:
            complete = _judge_here(files, wanted, total, console)
        else:
            sent = _json_object(parameters) | {
                "max_tokens" if legacy_max_tokens else "max_completion_tokens": max_tokens
            }
            if not no_temperature:
                sent.setdefault("temperature", temperature)
            client = _client(
                files,
                str(model),
                base_url,
                api_key_variable,
                sent,
                concurrency,
                timeout,
                max_retries,
                prices,
                retry_failed,
            )
            try:
                way = make_protocol(client, protocol, wanted, context_tokens, min(max_tokens, 700), seed, read, dry_run)
                more = {"seed": seed} if protocol is Way.RANKING else {}
                complete = _judge_there(files, client, way, read, total, protocol.noun, more, console)
            finally:
                client.cache.close()
        if report is not None and not dry_run and out.exists():
            from dpg_fast.judges.dialogue_run import failed_file
            from dpg_fast.judges.report import write_judgement_report

            console.print(f"Report: {write_judgement_report(out, failed_file(out), report)}", highlight=False)
    if not complete:
        raise typer.Exit(1)


def _check(
    files: Files, judge: Kind, model: str | None, base_url: str | None, protocol: Way, report: Path | None
) -> None:
    if files.out.is_dir():
        raise DPGError(f"{files.out} is a folder; name a file")
    if files.out.resolve() == files.dialogues.resolve():
        raise DPGError("the output would overwrite the dialogues; name another file with --out")
    if judge is Kind.OPENAI and not model:
        raise DPGError("name the judge's model with --model")
    if protocol in (Way.ACCURACY, Way.RANKING):
        if judge is Kind.LIKELIHOOD:
            raise DPGError(f"--protocol {protocol} goes with --judge openai")
        if files.target is not None or report is not None:
            raise DPGError("--target and --report go with dialogues")
    if judge is Kind.LIKELIHOOD:
        if model or base_url:
            raise DPGError("--model and --base-url go with --judge openai")
        if files.batch_export or files.batch_import:
            raise DPGError("--batch-export and --batch-import go with --judge openai")
    if files.batch_export and files.batch_import:
        raise DPGError("import first, then export what is still open")


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DPGError(f"--parameters is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DPGError("--parameters is a JSON object")
    return found


def _client(
    files: Files,
    model: str,
    base_url: str | None,
    api_key_variable: str,
    parameters: dict[str, Any],
    concurrency: int,
    timeout: float,
    max_retries: int,
    prices: Path | None,
    retry_failed: bool,
) -> LLMClient:
    from dpg_fast.llm import LLMClient, LLMSettings, PriceTable

    settings = LLMSettings(
        model,
        base_url,
        api_key_variable=api_key_variable,
        parameters=parameters,
        concurrency=concurrency,
        timeout=timeout,
        max_retries=max_retries,
    )
    table = PriceTable() if prices is None else PriceTable.load(prices)
    kept = files.cache or files.out.with_name(files.out.name + ".replies.sqlite")
    kept = Path(":memory:") if files.dry_run and not kept.exists() else kept  # a dry run writes nothing
    return LLMClient(settings, kept, prices=table, retry_failed=retry_failed)


def _judge_here(files: Files, traits: list[Any], total: int, console: Console) -> bool:
    import asyncio

    from dpg_fast.judges.dialogue_run import JudgementFile, judge_items, read_done, read_items

    about = {"model": "SmolLM2-135M-Instruct", "protocol": "likelihood", "traits": [trait.letter for trait in traits]}
    if files.dry_run:
        done = read_done(files.out, about)
        console.print(
            f"{total:,} dialogues, {len(done):,} judged already; the likelihood judge makes no calls: price 0"
        )
        return True
    from dpg_fast.cli.judge_options import fast_dtype
    from dpg_fast.judges.dialogue_protocols import LikelihoodProtocol
    from dpg_fast.judges.likelihood import LikelihoodJudge
    from dpg_fast.util.smollm2 import load_smollm2

    protocol = LikelihoodProtocol(LikelihoodJudge(*load_smollm2(), autocast=fast_dtype()), traits)
    console.print(protocol.describe(), highlight=False)
    with JudgementFile(files.out, about) as output, _bar(console, total) as show:
        work = judge_items(read_items(files.dialogues, files.target), protocol, None, output, progress=show)
        summary = asyncio.run(work)
    return _report(summary, output.failed_path, files.out, console)


def _judge_there(
    files: Files,
    client: LLMClient,
    protocol: JudgingProtocol[Any],
    read: Callable[[], Iterator[Item[Any]]],
    total: int,
    noun: str,
    more: dict[str, Any],
    console: Console,
) -> bool:
    import asyncio

    from dpg_fast.judges.dialogue_run import JudgementFile, judge_items, open_calls, read_done
    from dpg_fast.llm.batch import export_batch, import_batch
    from dpg_fast.llm.display import money, plan_table
    from dpg_fast.llm.session import StoredReplies

    settings = client.settings
    about = {
        "model": settings.model,
        "protocol": protocol.name,
        "prompt_version": protocol.prompt_version,
        "parameters": dict(settings.parameters),
    } | more
    done = read_done(files.out, about)

    def calls() -> Iterator[Any]:
        return open_calls(read(), protocol, done)

    if files.dry_run:
        console.print(f"{total:,} {noun}, {len(done):,} judged already; protocol {protocol.name}")
        console.print(plan_table(client.plan(calls(), completion_tokens=protocol.reply_tokens)))
        return True
    if files.batch_export is not None:
        written = export_batch(client, calls(), files.batch_export)
        for path, number in written:
            console.print(f"{number:,} requests written to {path}", highlight=False)
        if not written:
            console.print("no open requests")
        return True
    console.print(protocol.describe(), highlight=False)
    errors = None
    if files.batch_import:
        found = import_batch(client, calls(), files.batch_import)
        errors = found.errors
        console.print(
            f"{found.stored:,} replies stored, {found.known:,} known already, {found.unknown:,} of no call of these "
            f"{noun}, {len(errors):,} errors"
        )

    async def run(output: JudgementFile, show: Callable[[Summary], None]) -> Summary:
        async with client.session() as session:
            answers = session if errors is None else StoredReplies(client, errors)
            return await judge_items(
                read(),
                protocol,
                answers,
                output,
                lambda usage: client.prices.cost(settings.model, usage),
                client.prices.currency,
                workers=settings.concurrency,
                progress=show,
            )

    with JudgementFile(files.out, about) as output, _bar(console, total, noun) as show:
        summary = asyncio.run(run(output, show))
    usage = summary.usage
    cost = money(client.prices.cost(settings.model, usage), client.prices.currency)
    console.print(
        f"{usage.calls:,} replies behind the new judgements: {usage.prompt_tokens:,} prompt and "
        f"{usage.completion_tokens:,} reply tokens, {cost}"
    )
    if usage.uncounted:
        console.print(f"The server did not count the tokens of {usage.uncounted:,} replies: the figures are too low.")
    if hasattr(protocol, "summarise"):
        from dpg_fast.judges.reference.figures import write_figures

        table, path = write_figures(protocol, files.out)
        console.print(table)
        console.print(f"Figures written to {path}", highlight=False)
    return _report(summary, output.failed_path, files.out, console, noun)


@contextmanager
def _bar(console: Console, total: int, noun: str = "dialogues") -> Iterator[Callable[[Summary], None]]:
    from dpg_fast.util.progress import progress_bars

    with progress_bars(console) as bars:

        def show(summary: Summary) -> None:
            note = f"{summary.failed} failed" if summary.failed else ""
            bars(noun, summary.before + summary.judged + summary.failed, total, note)

        yield show


def _report(summary: Summary, failed: Path, out: Path, console: Console, noun: str = "dialogues") -> bool:
    earlier = f", {summary.before:,} before" if summary.before else ""
    console.print(f"{summary.judged:,} {noun} judged{earlier}; written to {out}", highlight=False)
    if summary.failed:
        listed = ", ".join(f"{number} {reason}" for reason, number in summary.reasons.most_common(5))
        console.print(f"{summary.failed:,} failed, listed in {failed}: {listed}", style="red", markup=False)
    return not summary.failed
