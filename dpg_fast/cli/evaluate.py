"""``dpg-fast evaluate``: how well personalities and tuned characters show, beside prompting, and what they cost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dpg_fast.cli.errors import group
from dpg_fast.cli.options import (
    AGAIN,
    Adapter,
    Adapters,
    BaseModel,
    BatchSize,
    Capability,
    CapabilityItems,
    CapabilityTasks,
    Cross,
    DryRun,
    Dtype,
    Levels,
    MaxNewTokens,
    Mismatch,
    OutFolder,
    People,
    Precision,
    Prices,
    Questions,
    Resamples,
    SecondHypernet,
    Seed,
    Statements,
    Temperature,
    Traits,
    Witnesses,
    folder,
    numbers,
    option,
    words,
)
from dpg_fast.cli.servers import prompted_model, takes_judge, takes_judges_model
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice
    from dpg_fast.llm.server import Server

evaluate = group(
    "Measure personalities and tuned characters beside prompting, and what they cost. A run that was killed continues; more "
    "questions, levels or methods extend a finished one."
)


class SteerTokens(StrEnum):
    """Tokens of scored texts whose neurons are steered."""

    ALL = "all"
    DECODE = "decode"


@evaluate.command("traits")
@takes_judge()
def traits(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapter = None,
    hypernet: SecondHypernet = None,
    methods: Annotated[
        str | None,
        option("Methods beside the bare model, with commas between them; by default all that the adapter allows."),
    ] = None,
    traits: Traits = "OCEAN",
    questions: Questions = 12,
    levels: Levels = "-5,-4,-3,-2,-1,0,1,2,3,4,5",
    personalitybench: Annotated[
        Path | None, option("Folder of PersonalityBench files, whose questions are asked instead.")
    ] = None,
    cross: Cross = True,
    max_new_tokens: MaxNewTokens = 48,
    repetition_penalty: Annotated[float, option("Repetition penalty of the answers.")] = 1.1,
    batch_size: BatchSize = 24,
    activation_layer: Annotated[
        int | None, option("Decoder layer of activation addition; the middle one by default.")
    ] = None,
    activation_fit: Annotated[
        int, option('Questions of split "fit" for the strengths of activation addition; 0 takes strength 1.', min=0)
    ] = 3,
    capability: Capability = True,
    capability_tasks: CapabilityTasks = "facts,arithmetic,words",
    capability_items: CapabilityItems = None,
    witnesses: Witnesses = None,
    statements: Statements = None,
    allow_mismatch: Mismatch = False,
    *,
    judge: JudgeChoice,
) -> None:
    """Measure whether and how well personalities show, and what they cost, on questions that nothing was fitted to.

    Adapters are compared with prompting, activation addition and the bare model. Without --adapter, the neurons and the
    hypernetwork that come with the package are measured on the bundled SmolLM2.
    """
    from rich.console import Console

    from dpg_fast.evaluation.activation_addition import ActivationSettings
    from dpg_fast.evaluation.capability import CapabilityPlan
    from dpg_fast.evaluation.lineup import of_adapter
    from dpg_fast.evaluation.protocol import TraitPlan
    from dpg_fast.evaluation.questions import held_out_questions
    from dpg_fast.evaluation.trait_run import TraitEvaluation
    from dpg_fast.evaluation.witnesses.panel import PanelChoice
    from dpg_fast.model.disk import artifact
    from dpg_fast.personality.traits import parse_traits
    from dpg_fast.text.answers import AnswerSettings
    from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET
    from dpg_fast.util.progress import progress_bars

    folder(out)
    wanted, console = parse_traits(traits), Console()
    run = TraitEvaluation(
        out,
        TraitPlan(held_out_questions(wanted, questions, personalitybench), numbers(levels, "--levels"), cross),
        AnswerSettings(max_new_tokens=max_new_tokens, repetition_penalty=repetition_penalty, batch_size=batch_size),
        judge,
        CapabilityPlan(words(capability_tasks), capability_items) if capability else None,
        "holdout" if personalitybench is None else "PersonalityBench",
        PanelChoice(None if witnesses is None else words(witnesses), statements),
    )
    if hypernet is None and adapter is None and base_model == BUNDLED:
        hypernet = BUNDLED_HYPERNET
    place = artifact.locate(adapter or BUNDLED)
    lineup = of_adapter(
        None if methods is None else words(methods),
        place,
        None if hypernet is None else artifact.locate(hypernet),
        ActivationSettings(activation_layer, questions=activation_fit),
    )
    with progress_bars(console) as report:
        written, lines = run.run(base_model, place, lineup, allow_mismatch, report)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(f"Written to {written}")


@evaluate.command("dpg")
@takes_judge()
def dpg(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapters = None,
    lora: Annotated[
        list[str] | None, option("PEFT directory of a plain LoRA baseline, as DIR or NAME=DIR." + AGAIN)
    ] = None,
    neurons: Annotated[str | None, option("Adapter with personality neurons, which are measured too.")] = None,
    both: Annotated[bool, option("Also measure the first hypernetwork and the neurons together.", "--both")] = False,
    baselines: Annotated[
        str, option("Prompts of the base model that are measured, with commas between them.")
    ] = "prompt,description,persona",
    api_model: Annotated[str | None, option("Name of a model behind an API that is only prompted.")] = None,
    api_url: Annotated[str | None, option("Address of that model's server; OpenAI's by default.")] = None,
    api_key_env: Annotated[str, option("Environment variable that holds that model's API key.")] = "OPENAI_API_KEY",
    api_parameters: Annotated[str, option("Parameters of its calls, as JSON; temperature is 0 by default.")] = "{}",
    api_header: Annotated[list[str] | None, option("A header of its calls, as NAME=VARIABLE." + AGAIN)] = None,
    api_query: Annotated[list[str] | None, option("A parameter of its address, as NAME=VALUE." + AGAIN)] = None,
    prices: Prices = None,
    dry_run: DryRun = False,
    tasks: Annotated[
        str | None,
        option(
            "Tasks, with commas between them, of questions, new, scripted and interpolation; by default the first two, and "
            "scripted with --records."
        ),
    ] = None,
    records: Annotated[
        Path | None, option("JSON Lines of dialogue records with scores, for scripted dialogue.")
    ] = None,
    trained: Annotated[
        list[Path] | None, option("Lessons or records that were trained on, which tell who is new." + AGAIN)
    ] = None,
    new_as: Annotated[str, option("How new personalities have to be: person or combination.")] = "person",
    traits: Traits = "OCEAN",
    questions: Questions = 12,
    levels: Levels = "-5,-2,0,2,5",
    cross: Cross = False,
    people: Annotated[int, option("Number of new personalities.", min=1)] = 40,
    line: Annotated[
        list[str] | None, option('Pair of personalities for the interpolation, such as "E-5 > E+5".' + AGAIN)
    ] = None,
    line_questions: Annotated[int, option("Questions of each trait that changes in an interpolation.", min=1)] = 6,
    max_new_tokens: MaxNewTokens = 48,
    batch_size: BatchSize = 24,
    capability: Capability = True,
    capability_tasks: CapabilityTasks = "facts,arithmetic,words",
    capability_items: CapabilityItems = None,
    witnesses: Witnesses = None,
    statements: Statements = None,
    allow_mismatch: Mismatch = False,
    seed: Seed = 0,
    *,
    judge: JudgeChoice,
) -> None:
    """Measure hypernetworks as DPG was measured: open questions, new personalities, scripted dialogue, interpolation.

    Adapters are given as DIR or NAME=DIR; the first is what the others are compared with. Without --adapter, the
    hypernetwork and the neurons that come with the package are measured.
    """
    from rich.console import Console

    from dpg_fast.evaluation.capability import CapabilityPlan
    from dpg_fast.evaluation.dpg.evaluate import DPGEvaluation
    from dpg_fast.evaluation.dpg.interpolation import PAIRS
    from dpg_fast.evaluation.dpg.plan import NEW, QUESTIONS, SCRIPTED, DPGPlan, newness
    from dpg_fast.evaluation.lineup import Lineup, named_loras, shipped_or
    from dpg_fast.evaluation.witnesses.panel import PanelChoice
    from dpg_fast.llm.display import plan_table
    from dpg_fast.personality.traits import parse_traits
    from dpg_fast.text.answers import AnswerSettings
    from dpg_fast.util.progress import progress_bars

    folder(out)
    plan = DPGPlan(
        words(tasks) if tasks is not None else [QUESTIONS, NEW] + [SCRIPTED] * (records is not None),
        parse_traits(traits),
        questions,
        numbers(levels, "--levels"),
        cross,
        people,
        seed,
        records,
        trained or (),
        newness(new_as),
        line or PAIRS,
        line_questions,
    )
    hypernets, neurons = shipped_or(base_model, adapter or [], neurons)
    api = None
    if api_model is not None:
        server = prompted_model(api_model, api_url, api_key_env, api_parameters, api_header, api_query, prices, dry_run)
        api = server.client(out / "answers.sqlite")
    run = DPGEvaluation(
        out,
        plan,
        Lineup(hypernets, words(baselines), named_loras(lora or []), neurons, both, api),
        AnswerSettings(max_new_tokens=max_new_tokens, batch_size=batch_size),
        judge,
        CapabilityPlan(words(capability_tasks), capability_items) if capability else None,
        PanelChoice(None if witnesses is None else words(witnesses), statements),
    )
    console = Console()
    for what, cost in run.costs().items():
        console.print(plan_table(cost, f"{what} over an API"))
    if dry_run:
        console.print("Nothing was sent or computed.")
        return
    with progress_bars(console) as report:
        page, lines = run.run(base_model, allow_mismatch, report)
    for text in lines:
        console.print(text)
    console.print((page.parent / "report.md").read_text(encoding="utf-8").split("\n## ")[0], markup=False)
    console.print(f"Written to {page}")


@evaluate.command("capability")
def capability(
    out: OutFolder,
    base_model: BaseModel = "smollm2",
    adapter: Adapter = "smollm2",
    personality: People = None,
    levels: Levels = "5",
    tasks: Annotated[
        str,
        option(
            "Tasks of lm-evaluation-harness, with commas between them; the default ones need no network, others go by the "
            "harness's names."
        ),
    ] = "facts,arithmetic,words,sentences",
    steer_tokens: Annotated[
        SteerTokens, option("Tokens of scored texts whose neurons are steered; generation steers its own.")
    ] = SteerTokens.ALL,
    limit: Annotated[int | None, option("Items of each task; all by default.", min=1)] = None,
    chat: Annotated[bool, option("Put the prompts into the model's chat format.", "--chat")] = False,
    batch_size: BatchSize = 16,
    allow_mismatch: Mismatch = False,
) -> None:
    """Measure what a personality costs on tasks of lm-evaluation-harness.

    Without --personality, both ends of every trait are measured at each of the --levels.
    """
    from rich.console import Console

    from dpg_fast.evaluation.harness import measure_capability
    from dpg_fast.evaluation.harness.report import write_costs
    from dpg_fast.model.disk import artifact
    from dpg_fast.model.disk.identity import adapter_identity, base_identity, calibration_identity
    from dpg_fast.model.loading import load_wrapped
    from dpg_fast.personality.scores import POLES, Personality
    from dpg_fast.util.progress import progress_bars

    folder(out)
    if adapter is None:
        raise DPGError("name the adapter whose personalities are measured with --adapter")
    ends = [f"{pole}{level:g}" for pole in POLES for level in numbers(levels, "--levels")]
    people = [Personality(text) for text in personality or ends]
    place = artifact.locate(adapter)
    model, tokenizer = load_wrapped(base_model, adapter, allow_mismatch=allow_mismatch)
    about = {**adapter_identity(place), "weights": base_identity(model.base), **calibration_identity(place)}
    console = Console()
    with progress_bars(console) as report:
        costs = measure_capability(
            model,
            tokenizer,
            people,
            words(tasks),
            out,
            about,
            steer_tokens=steer_tokens.value,
            limit=limit,
            chat=chat,
            batch_size=batch_size,
            progress=report,
        )
    settings = {**about, "steer_tokens": steer_tokens.value, "limit": limit, "chat": chat}
    written = write_costs(costs, out, settings)
    console.print(written.with_suffix(".md").read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"Written to {written}")


@evaluate.command("personified")
@takes_judges_model()
def personified(
    out: OutFolder,
    data: Annotated[list[Path], option("Folder of a character's conversations, one for each character." + AGAIN)],
    system: Annotated[
        list[str] | None, option("A tuned character, as NAME=DIRECTORY; the same NAME again adds another." + AGAIN)
    ] = None,
    baselines: Annotated[
        str | None, option("Ways of prompting the bare model, with commas between them; all by default.")
    ] = None,
    base_model: BaseModel = "smollm2",
    dtype: Precision = Dtype.FLOAT32,
    against: Annotated[str | None, option("System from which differences are taken, such as sft.")] = None,
    limit: Annotated[int | None, option("Most test questions of each stage.", min=1)] = None,
    max_new_tokens: MaxNewTokens = 140,
    temperature: Temperature = 0.7,
    batch_size: BatchSize = 16,
    likelihoods: Annotated[bool, option("Measure what needs log-probabilities.")] = True,
    forms: Annotated[int, option("Forms of the questionnaire; 0 leaves it out.", min=0)] = 2,
    drift: Annotated[int, option("Turns of the long chat; 0 leaves it out.", min=0)] = 8,
    parts_of: Annotated[
        str, option("Systems with questionnaire and long chat, with commas between them; all by default.")
    ] = "",
    resamples: Resamples = 500,
    seed: Seed = 0,
    *,
    judge: Server | None,
) -> None:
    """Measure tuned characters beside prompting: who is distinct, what is known, false premises, questionnaire, drift.

    A judge's model also tells accuracy, ranking and stances.
    """
    from rich.console import Console

    from dpg_fast.judges.choice import JudgeChoice
    from dpg_fast.personified.evaluate.cast import load_cast
    from dpg_fast.personified.evaluate.report import lead, write_report
    from dpg_fast.personified.evaluate.run import EvaluationSettings, evaluate
    from dpg_fast.personified.evaluate.systems import BASELINES, Sampling, make_systems, tuned_directories
    from dpg_fast.util.models import load_base
    from dpg_fast.util.progress import progress_bars

    folder(out)
    directories, prompted = tuned_directories(system or []), list(BASELINES) if baselines is None else words(baselines)
    cast = load_cast(data, limit=limit, seed=seed)
    make_systems(prompted, directories, None, None, cast)  # whatever is wrong with them is found before loading
    settings = EvaluationSettings(
        sampling=Sampling(max_new_tokens, temperature, batch_size=batch_size),
        likelihoods=likelihoods,
        forms=forms,
        drift=drift,
        parts_of=words(parts_of),
        against=against,
        resamples=resamples,
        seed=seed,
    )
    replies = out / "replies.sqlite"
    base, tokenizer = load_base(base_model, dtype.torch)
    systems, console = make_systems(prompted, directories, base, tokenizer, cast), Console()
    with progress_bars(console) as bars:
        found = evaluate(
            systems,
            cast,
            out,
            settings,
            judge=None if judge is None else judge.client(replies),
            trait_judge=lambda bare, words: JudgeChoice().make(bare, words, replies),
            about={"model": base_model, "dtype": dtype.value, "data": [place.name for place in data]},
            progress=bars,
        )
    console.print(lead(found))
    console.print(f"Report: {write_report(found, out)}")
