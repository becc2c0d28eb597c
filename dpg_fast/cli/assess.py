"""``dpg-fast assess``: give a model a questionnaire, and compare what several methods say about the same people."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    Adapter,
    BaseModel,
    BatchSize,
    Dtype,
    Inventory,
    MaxNewTokens,
    OptionalOutFile,
    OutFolder,
    People,
    Precision,
    Report,
    Resamples,
    Seed,
    System,
    Temperature,
    Traits,
    folder,
    option,
)
from dpg_fast.cli.servers import takes_judge
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice

assess = group("Measure personalities: questionnaires, reliability, comparisons.")


class ReadingMethod(StrEnum):
    """How answers are read."""

    LOGPROBS = "logprobs"
    GENERATE = "generate"
    FREE = "free"


class Options(StrEnum):
    """Order of the options on later forms."""

    KEEP = "keep"
    REVERSE = "reverse"
    SHUFFLE = "shuffle"


class Steer(StrEnum):
    """Tokens whose neurons are steered."""

    ALL = "all"
    ANSWER = "answer"


class Through(StrEnum):
    """How people get their personality."""

    ADAPTER = "adapter"
    ADJECTIVES = "adjectives"
    DESCRIPTION = "description"


ThroughOption = Annotated[
    Through,
    option(
        "How people get their personality: by the adapter, or by adjectives or a description told to the bare model."
    ),
]


@assess.command("questionnaire")
def questionnaire(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapter = None,
    personality: People = None,
    population: Annotated[
        int, option("Add this many personalities spread over the scale; alpha is taken over people.", min=0)
    ] = 0,
    through: ThroughOption = Through.ADAPTER,
    inventory: Inventory = "bundled",
    items: Annotated[Path | None, option("File with the texts of a published inventory.")] = None,
    forms: Annotated[
        int, option("Number of forms, which have items, options and labels in different orders.", min=1)
    ] = 4,
    options: Annotated[Options, option("Order of the options on all forms but the first.")] = Options.SHUFFLE,
    method: Annotated[
        ReadingMethod,
        option("How answers are read: probabilities of the option labels, a generated label, or a free answer."),
    ] = ReadingMethod.LOGPROBS,
    temperature: Temperature = 0.0,
    context: Annotated[int, option("Earlier items that stay in the conversation.", min=0)] = 0,
    prefill: Annotated[str, option('Beginning of every answer, such as "My answer is".')] = "",
    steer: Annotated[Steer, option("Tokens whose neurons are steered.")] = Steer.ALL,
    batch_size: BatchSize = 32,
    dtype: Precision = Dtype.FLOAT32,
    sex: Annotated[str, option("Norms for the percentiles of IPIP-NEO: M, F, or N for both.")] = "N",
    age: Annotated[int, option("Age for the norms.")] = 30,
    report: Report = None,
    seed: Seed = 0,
) -> None:
    """Give an inventory to one or many personalities at once; score it, with reliability and signs of careless answers."""
    from rich.console import Console

    from dpg_fast.judges.results import RESULTS
    from dpg_fast.questionnaire.analysis import analyse, tables
    from dpg_fast.questionnaire.forms import make_forms
    from dpg_fast.questionnaire.published import find_inventory
    from dpg_fast.questionnaire.session import AdministrationSettings
    from dpg_fast.questionnaire.session import population as people_of
    from dpg_fast.util.results import write_results

    if sex not in ("M", "F", "N"):
        raise DPGError(f"sex is M, F or N, not {sex!r}")
    respondents = _respondents(personality) + (people_of(population, seed=seed) if population else [])
    if through is not Through.ADAPTER:
        respondents = _told(respondents, through, adapter)
    if adapter is None and any(r.personality is not None for r in respondents):
        raise DPGError("personalities need an adapter that gives them: --adapter DIR, or --adapter smollm2")
    found = find_inventory(inventory, items)
    settings = AdministrationSettings(
        method="generate" if method is ReadingMethod.FREE else method.value,  # type: ignore[arg-type]
        constrained=method is not ReadingMethod.FREE,
        temperature=temperature,
        context=context,
        prefill=prefill,
        steer=steer.value,
        batch_size=batch_size,
        seed=seed,
    )
    sheets = make_forms(found, forms, seed=seed, options=options.value)
    for place in (out, report):
        folder(place)
    started = time.monotonic()
    loaded, tokenizer = _load(base_model, adapter, dtype.torch)
    console = Console()
    session = _administer(loaded, tokenizer, found, respondents, sheets, settings, out / "answers.jsonl", console)
    result = analyse(session, sex=sex, age=age, seed=seed)  # type: ignore[arg-type]
    result |= {"adapter": adapter, "through": through.value}
    result["cost"] = {"seconds": round(time.monotonic() - started, 1), "answers": len(session.answers), "paid": 0}
    if through is not Through.ADAPTER:
        result["method"] += f", people by {through.value} in the prompt"
    write_results(out / RESULTS, result)
    for table in tables(result):
        console.print(table)
    console.print(f"Written to {out / RESULTS}")
    if report is not None:
        from dpg_fast.questionnaire.report import write_questionnaire_report

        console.print(f"Report: {write_questionnaire_report([result], report, session=session)}")


@assess.command("compare")
def compare(
    results: Annotated[list[Path], typer.Argument(help="Two or more result files, or folders with results.json.")],
    out: OptionalOutFile = None,
    top: Annotated[int, option("Number of disagreements that are shown.", min=0)] = 10,
    report: Report = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """Compare methods on the people they share: convergent and discriminant correlations, and who they disagree on."""
    from rich.console import Console
    from rich.table import Table

    from dpg_fast.judges.results import common_people, load_scores
    from dpg_fast.judges.validation.validity import agreement_table, agreements, disagreements, multitrait_multimethod
    from dpg_fast.util.results import write_results

    if len(results) < 2:
        raise DPGError("name at least two results")
    folder(report)
    loaded = [load_scores(path) for path in results]
    labels, scores = common_people(loaded)
    validity = multitrait_multimethod(scores, resamples=resamples, seed=seed)
    agreeing = agreements(scores, resamples=resamples, seed=seed)
    differing = disagreements(labels, scores, top=top)
    console = Console()
    for number, name in enumerate(validity.methods, 1):
        console.print(f"{number}: {name}")
    console.print(validity.table())
    figures = (validity.convergent_mean, validity.heteromethod_mean, validity.monomethod_mean, validity.passed)
    console.print(
        "Same trait, other method: mean r {:.2f}. Other trait: mean |r| {:.2f} with another method, {:.2f} with the "
        "same. Campbell-Fiske comparisons passed: {:.0%}.".format(*figures)
    )
    console.print(agreement_table(agreeing))
    shown = Table(title="Largest disagreements (standardised within each method)")
    for column in ("respondent", "trait", "methods", "scores", "distance"):
        shown.add_column(column)
    for d in differing:
        pair = f"{d.scores[0]:+.2f} / {d.scores[1]:+.2f}"
        shown.add_row(d.label, d.trait.value, " / ".join(d.methods), pair, f"{d.distance:.2f}")
    if differing:
        console.print(shown)
    rows = [
        {"label": d.label, "trait": d.trait.value, "methods": list(d.methods), "scores": list(d.scores)}
        | {"distance": d.distance}
        for d in differing
    ]
    agreement = [row.to_dict() for row in agreeing]
    content = {"validity": validity.to_dict(), "agreement": agreement, "disagreements": rows}
    if out is not None:
        write_results(out, content)
        console.print(f"Written to {out}")
    if report is not None:
        from dpg_fast.questionnaire.comparison_report import write_comparison_report

        systems = [table.content for table in loaded]
        console.print(f"Report: {write_comparison_report(systems, validity, agreeing, differing, report, content)}")


@assess.command("drift")
@takes_judge()
def drift(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapter = None,
    personality: People = None,
    through: ThroughOption = Through.ADAPTER,
    user_turns: Annotated[
        Path | None, option("File with what the user says, one turn a line; twelve turns by default.")
    ] = None,
    limit: Annotated[int | None, option("Use only this many of the turns.", min=2)] = None,
    traits: Traits = "OCEAN",
    max_new_tokens: MaxNewTokens = 48,
    system: System = None,
    dtype: Precision = Dtype.FLOAT32,
    beside: Annotated[list[Path] | None, option("Folder of another run that the report shows too." + AGAIN)] = None,
    report: Report = None,
    seed: Seed = 0,
    *,
    judge: JudgeChoice,
) -> None:
    """Chat for many turns as one or many personalities, judge every answer, and say whether the personality holds."""

    from dpg_fast.evaluation.drift_run import DriftOptions, run_drift

    for place in (out, report):
        folder(place)
    people = _respondents(personality)
    if through is not Through.ADAPTER:
        people = _told(people, through, adapter)
    if adapter is None and any(r.personality is not None for r in people):
        raise DPGError("personalities need an adapter that gives them: --adapter DIR, or --adapter smollm2")
    options = DriftOptions(
        user_turns,
        limit,
        traits,
        max_new_tokens,
        system,
        judge,
        beside or (),
    )
    loaded, tokenizer = _load(base_model, adapter, dtype.torch)
    about = {"model": base_model, "adapter": adapter, "through": through.value}
    run_drift(loaded, tokenizer, people, out, options, about, report=report, seed=seed)


@assess.command("agreement")
def agreement(
    ratings: Annotated[list[Path], typer.Argument(help="Two or more files of scores of the same texts, one a judge.")],
    key: Annotated[
        list[str] | None,
        option("Field that tells texts apart; by default id, or question and answer, or messages." + AGAIN),
    ] = None,
    top: Annotated[int, option("Number of disagreements that are shown.", min=0)] = 10,
    out: OptionalOutFile = None,
    report: Report = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
) -> None:
    """How far judges agree on the same texts: weighted kappa, ICC, correlations, and the largest disagreements."""
    from rich.console import Console

    from dpg_fast.judges.validation.agreement import judge_agreement, read_ratings
    from dpg_fast.util.results import write_results

    folder(report)
    found = judge_agreement(
        [read_ratings(path, key or ()) for path in ratings], top=top, resamples=resamples, seed=seed
    )
    console = Console()
    for table in found.tables():
        console.print(table)
    if out is not None:
        write_results(out, found.to_dict())
        console.print(f"Written to {out}")
    if report is not None:
        from dpg_fast.judges.validation.agreement_report import write_agreement_report

        console.print(f"Report: {write_agreement_report(found, report)}")


def _respondents(texts: list[str] | None) -> list[Any]:
    """The base model and the named people."""
    from dpg_fast.personality.scores import parse_personality
    from dpg_fast.questionnaire.session import Respondent

    found = {"base": Respondent("base")}
    for text in texts or ():
        personality = parse_personality(text)
        if personality is not None:
            found.setdefault(text.strip(), Respondent(text.strip(), personality))
    return list(found.values())


def _told(respondents: list[Any], through: Through, adapter: str | None) -> list[Any]:
    """The people as instructions to the bare model, in the words of the evaluation's baselines."""
    from dpg_fast.evaluation.methods import DescriptionPrompt, SimplePrompt
    from dpg_fast.questionnaire.session import by_prompt

    if adapter is not None:
        raise DPGError(f"--through {through.value} is about the bare model: leave --adapter out")
    kind = SimplePrompt if through is Through.ADJECTIVES else DescriptionPrompt
    return by_prompt(respondents, kind.words)


def _load(name: str, adapter: str | None, dtype: Any) -> tuple[Any, Any]:
    """A `PersonalityModel` and its tokenizer."""
    from dpg_fast.model.loading import load_wrapped

    return load_wrapped(name, adapter, dtype)


def _administer(
    model: Any, tokenizer: Any, inventory: Any, people: Any, sheets: Any, settings: Any, file: Path, console: Any
) -> Any:
    from dpg_fast.questionnaire.administer import administer
    from dpg_fast.util.progress import progress_bars

    with progress_bars(console) as bars:
        count = bars.count("answers")
        return administer(model, tokenizer, inventory, people, sheets, settings, checkpoint=file, progress=count)
