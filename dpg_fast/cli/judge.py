"""``dpg-fast assess judge``: Big Five scores for the speakers of dialogues, by a local model or one behind an API.

The same command asks a model behind an API how answers compare with references: accuracy and ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpg_fast.cli.options import (
    AGAIN,
    BaseModel,
    BatchSize,
    Dtype,
    Judge,
    JudgeKind,
    MaxNewTokens,
    OutFile,
    Precision,
    Questions,
    Report,
    Seed,
    Traits,
    option,
)
from dpg_fast.cli.servers import takes_server
from dpg_fast.judges.protocols import Way, make_protocol, make_reader
from dpg_fast.util.errors import DPGError
from dpg_fast.util.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from dpg_fast.judges.dialogue_protocols import JudgingProtocol
    from dpg_fast.judges.dialogue_run import JudgedItem, Summary
    from dpg_fast.llm import LLMClient
    from dpg_fast.llm.server import Server


@dataclass(frozen=True)
class Files:
    """Input, output, and what to do with them."""

    dialogues: Path
    out: Path
    target: str | None
    dry_run: bool
    batch_export: Path | None
    batch_import: list[Path]


@takes_server("judge", temperature=0.0, concurrency=16)
def judge(
    server: Server,
    dialogues: Annotated[
        Path,
        typer.Argument(
            help="JSON Lines of dialogues (messages as OpenAI has them, with character and id if any; ShareGPT's conversations; "
            "the output of `data scripts read`), or for accuracy and ranking of questions, references and answers by system."
        ),
    ],
    out: OutFile = Path("judgements.jsonl"),
    judge: Judge = JudgeKind.LIKELIHOOD,
    protocol: Annotated[
        Way,
        option(
            "What a judge behind an API is asked: evidence, scores from -5 to 5 with quotations that are checked; npti, "
            "ratings from 1 to 5 and fluency; accuracy or ranking, how systems' answers compare with a reference."
        ),
    ] = Way.EVIDENCE,
    target: Annotated[
        str | None, option("Name of who is judged; by default the record's character, or the assistant.")
    ] = None,
    traits: Traits = "OCEAN",
    context_tokens: Annotated[
        int, option("Context of the judge's model, in tokens; evidence judges longer dialogues in pieces.", min=1)
    ] = 16_000,
    seed: Seed = 0,
    batch_export: Annotated[
        Path | None, option("Write the open requests as a batch file in OpenAI's format, and send nothing.")
    ] = None,
    batch_import: Annotated[
        list[Path] | None, option("Output or error file of a batch to read; nothing is sent." + AGAIN)
    ] = None,
    report: Report = None,
) -> None:
    """Score the Big Five of one speaker in each dialogue of a file, or compare systems' answers with references.

    Every dialogue or item gets one line of the output. What failed is listed beside it and tried again by the next run.
    """
    from rich.console import Console

    from dpg_fast.personality.scores import Trait

    files = Files(dialogues, out, target, server.dry_run, batch_export, batch_import or [])
    _check(files, judge, server.model, server.url, protocol, report)
    wanted = [trait for trait in Trait if trait in {Trait.parse(letter) for letter in traits}]
    if not wanted:
        raise DPGError("name some of the traits O, C, E, A, N")
    read = make_reader(files.dialogues, files.target, protocol)
    total = sum(1 for _ in read())
    console = Console()
    if judge is JudgeKind.LIKELIHOOD:
        complete = _judge_here(files, wanted, total, console)
    else:
        client = server.client(out.with_name(out.name + ".replies.sqlite"))
        try:
            expected = min(server.max_tokens or 700, 700)
            way = make_protocol(client, protocol, wanted, context_tokens, expected, seed, read, server.dry_run)
            more: dict[str, Any] = {"seed": seed} if protocol is Way.RANKING else {}
            if protocol in (Way.EVIDENCE, Way.NPTI):
                more = {"traits": [trait.letter for trait in wanted]}
            complete = _judge_there(files, client, way, read, total, protocol.noun, more, console)
        finally:
            client.cache.close()
    if report is not None and not server.dry_run and out.exists():
        from dpg_fast.judges.dialogue_run import failed_file
        from dpg_fast.judges.report import write_judgement_report

        console.print(f"Report: {write_judgement_report(out, failed_file(out), report)}", highlight=False)
    if not complete:
        raise typer.Exit(1)


def fit_judge(
    out: OutFile,
    base_model: BaseModel = "smollm2",
    questions: Questions = 8,
    validation_questions: Annotated[
        int | None, option("Questions of each trait in the split validation; all by default.", min=1)
    ] = None,
    people: Annotated[int, option("Different personas that answer each question, for each pole.", min=1)] = 2,
    answers: Annotated[
        Path | None, option("Folder that keeps the answers and their ratios, to use them again.")
    ] = None,
    sample_out: Annotated[Path | None, option("File for a sample of the validation answers, as JSON Lines.")] = None,
    sample_questions: Annotated[int, option("Questions of each trait in that sample.", min=1)] = 4,
    personalitybench: Annotated[
        Path | None, option("Folder of PersonalityBench files, on which the judge is measured too.")
    ] = None,
    bench_questions: Annotated[int, option("PersonalityBench questions of each trait.", min=1)] = 6,
    template: Annotated[
        str | None, option("System text of the judge's prompt; it may hold {description} and {question}.")
    ] = None,
    user_template: Annotated[str | None, option("User text of the judge's prompt; it may hold the same.")] = None,
    max_new_tokens: MaxNewTokens = 70,
    batch_size: BatchSize = 32,
    dtype: Precision = Dtype.FLOAT32,
    autocast: Annotated[
        Dtype | None, option("Precision in which the judge runs; that of the weights by default.")
    ] = None,
) -> None:
    """Fit the likelihood judge's scale to a model's own persona-prompted answers, and measure it on held-out ones."""
    from rich.console import Console

    from dpg_fast.judges.fitting.run import FitSettings, JudgeFit
    from dpg_fast.util.models import BUNDLED, load_base
    from dpg_fast.util.progress import progress_bars
    from dpg_fast.util.smollm2 import HUB_ID

    if out.is_dir():
        raise DPGError(f"{out} is a folder; name a file")
    texts = {"system": template, "user": user_template}
    settings = FitSettings(
        questions,
        validation_questions,
        people,
        answers,
        sample_out,
        sample_questions,
        personalitybench,
        bench_questions,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        autocast=None if autocast is None else autocast.torch,
        **{name: text for name, text in texts.items() if text is not None},
    )
    model, tokenizer = load_base(base_model, dtype.torch)
    name = HUB_ID if base_model == BUNDLED else base_model
    with progress_bars(Console(stderr=True)) as report:
        for table in JudgeFit(model, tokenizer, name, settings, report).run(out):
            typer.echo(table)
    typer.echo(f"Written to {out}")


def _check(
    files: Files, judge: JudgeKind, model: str | None, base_url: str | None, protocol: Way, report: Path | None
) -> None:
    if files.out.is_dir():
        raise DPGError(f"{files.out} is a folder; name a file")
    if files.out.resolve() == files.dialogues.resolve():
        raise DPGError("the output would overwrite the dialogues; name another file with --out")
    if judge is JudgeKind.OPENAI and not model:
        raise DPGError("name the judge's model with --judge-model")
    if protocol in (Way.ACCURACY, Way.RANKING):
        if judge is JudgeKind.LIKELIHOOD:
            raise DPGError(f"--protocol {protocol} goes with --judge openai")
        if files.target is not None or report is not None:
            raise DPGError("--target and --report go with dialogues")
    if judge is JudgeKind.LIKELIHOOD:
        if model or base_url:
            raise DPGError("--judge-model and --judge-url go with --judge openai")
        if files.batch_export or files.batch_import:
            raise DPGError("--batch-export and --batch-import go with --judge openai")
    if files.batch_export and files.batch_import:
        raise DPGError("import first, then export what is still open")


def _judge_here(files: Files, traits: list[Any], total: int, console: Console) -> bool:
    import asyncio

    from dpg_fast.judges.dialogue_run import JudgementFile, judge_items, read_done, read_items

    about = {"model": "SmolLM2-135M-Instruct", "protocol": "likelihood", "traits": [trait.letter for trait in traits]}
    if files.dry_run:
        done = read_done(files.out, about)
        console.print(
            f"{counted(total, 'dialogue')}, {len(done):,} judged already; the likelihood judge makes no calls: price 0"
        )
        return True
    from dpg_fast.judges.choice import fast_dtype
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
    read: Callable[[], Iterator[JudgedItem[Any]]],
    total: int,
    noun: str,
    more: dict[str, Any],
    console: Console,
) -> bool:
    import asyncio

    from dpg_fast.judges.dialogue_run import JudgementFile, judge_items, open_calls, read_done
    from dpg_fast.llm.batch import export_batch, import_batch
    from dpg_fast.llm.display import plan_table, print_spent, told_usage
    from dpg_fast.llm.session import StoredReplies

    settings = client.settings
    about = {
        "model": settings.model,
        "protocol": protocol.name,
        "prompt_version": protocol.prompt_version,
        "parameters": dict(settings.parameters),
    } | more
    done = read_done(files.out, about, again=client.retry_failed)

    def calls() -> Iterator[Any]:
        return open_calls(read(), protocol, done)

    if files.dry_run:
        console.print(f"{total:,} {noun}, {len(done):,} judged already; protocol {protocol.name}")
        console.print(plan_table(client.plan(calls(), completion_tokens=protocol.reply_tokens)))
        return True
    if files.batch_export is not None:
        written = export_batch(client, calls(), files.batch_export)
        for path, number in written:
            console.print(f"{counted(number, 'request')} written to {path}", highlight=False)
        if not written:
            console.print("no open requests")
        return True
    console.print(protocol.describe(), highlight=False)
    errors = None
    if files.batch_import:
        found = import_batch(client, calls(), files.batch_import)
        errors = found.errors
        console.print(
            f"{counted(found.stored, 'reply', 'replies')} stored, {found.known:,} known already, "
            f"{found.unknown:,} of no call of these "
            f"{noun}, {counted(len(errors), 'error')}"
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

    output = JudgementFile(files.out, about, again=client.retry_failed)
    try:
        with output, _bar(console, total, noun) as show:
            summary = asyncio.run(run(output, show))
    finally:  # also where the run ends early
        print_spent(client, console)
    console.print(told_usage(summary.usage, "behind the new judgements, stored ones included", client), highlight=False)
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
    if summary.failed or summary.partial:
        listed = ", ".join(f"{number} {reason}" for reason, number in summary.reasons.most_common(5))
        counts = {"failed": summary.failed, "judged in part": summary.partial}
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        console.print(
            f"{' and '.join(parts)}, listed in {failed}: {listed}", style="red", markup=False, highlight=False
        )
        if summary.final:
            console.print(f"--retry-failed asks again, and pays again, for {summary.final:,} of them.", highlight=False)
    return not summary.failed and not summary.partial
