"""Measure hypernetworks as DPG was measured, beside their baselines: open questions, new personalities, scripted dialogue.

    python python/evaluate_dpg.py out                                       # the shipped hypernetwork and neurons on SmolLM2
    python python/evaluate_dpg.py out --adapter scores=DIR --adapter text=DIR2 --lora DIR3 --both --trained LESSONS
    python python/evaluate_dpg.py out --tasks new interpolation --people 24 --line "E-5 N+4 > E+5 N-4"
    python python/evaluate_dpg.py out --tasks scripted --records test.jsonl --trained train.jsonl
    python python/evaluate_dpg.py out --api-model NAME --api-url URL --prices prices.json --dry-run

Open questions change one trait at a time; new personalities have levels of -5, -2, 2 and 5 in combinations that were not trained
on; interpolation walks from one personality to another. Questions are of split "holdout". Killed at any time it continues
where it was; more questions, levels, people, methods or tasks extend a finished evaluation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from dpg_fast.cli.demo import adapter_directory, hypernet_directory
from dpg_fast.cli.errors import one_line_errors
from dpg_fast.judges.choice import KINDS, LIKELIHOOD, JudgeChoice, fast_dtype
from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.capability import CapabilityPlan
from dpg_fast.evaluation.contenders import BOTH, HYPERNETWORK, PROMPTS, Contenders, named, named_loras
from dpg_fast.evaluation.dpg.interpolation import PAIRS
from dpg_fast.evaluation.dpg.newness import Newness
from dpg_fast.evaluation.dpg.plan import NEW, QUESTIONS, SCRIPTED, TASKS, DPGPlan, plan_costs
from dpg_fast.evaluation.dpg.run import DPGRun
from dpg_fast.evaluation.dpg.summary import write_summary
from dpg_fast.evaluation.harness.tasks import CHOICES
from dpg_fast.judges.scoring import Scorer
from dpg_fast.llm import LLMClient, LLMSettings, PriceTable
from dpg_fast.llm.display import money, plan_table
from dpg_fast.model.identity import adapter_identity, base_identity
from dpg_fast.personality.traits import parse_traits
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, load_base
from dpg_fast.util.progress import progress_bars


def main() -> None:
    options = parse()
    with one_line_errors("evaluate_dpg.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    plan, capability = make_plan(options), None
    if not options.no_capability:
        capability = CapabilityPlan(options.capability_tasks, options.capability_items)
    judge_options = JudgeChoice(options.judge, options.judge_model, options.judge_url, options.api_key_variable)
    settings = AnswerSettings(max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    contenders = make_contenders(options)
    directories = contenders.locate()
    walkers = [*contenders.hypernets, *([BOTH] if contenders.both else [])]
    trained = plan.load_trained()
    if judge_options.kind != LIKELIHOOD or contenders.api is not None:
        paid = (
            judge_options.make(None, None, options.output / "replies.sqlite") if options.judge != LIKELIHOOD else None
        )
        count = 1 + len(contenders.prompts) + len(contenders.loras) + len(directories) + contenders.both
        costs = plan_costs(
            plan, settings, count + (contenders.api is not None), len(walkers), contenders.api, paid, trained
        )
        for what, cost in costs.items():
            console.print(plan_table(cost, f"{what} over an API"))
    if options.dry_run:
        console.print("Nothing was sent or computed.")
        return
    base, tokenizer = load_base(options.model)
    methods = contenders.build(base, tokenizer, settings, directories, allow_mismatch=options.allow_mismatch)
    judge = judge_options.make(base, tokenizer, options.output / "replies.sqlite")
    scorer = Scorer(judge, base, tokenizer, settings.system, fast_dtype())
    identities = {name: adapter_identity(directory) for name, directory in directories.items()}
    shared = {
        "model": identities[contenders.compared]["base"],
        "weights": base_identity(base),
        "answers": settings.about(),
    }
    about = {"adapters": {name: identity["adapter"] for name, identity in identities.items()}}
    with progress_bars(console) as report:
        found = DPGRun(
            plan,
            methods,
            walkers,
            contenders.compared,
            scorer,
            tokenizer,
            options.output,
            shared,
            about,
            settings.batch_size,
            capability,
            report,
        ).run()
    described = {method.name: method.describe() for method in methods}
    page = write_summary(
        found,
        contenders.compared,
        described,
        options.output,
        judge=judge.describe(),
        settings={**shared, **about, "judge_cost": scorer.spent()},
    )
    for method in methods:
        if isinstance(method, APIPrompt):
            console.print(f"answers over an API cost {money(method.cost, method.client.prices.currency)} in this run")
    console.print((page.parent / "report.md").read_text(encoding="utf-8").split("\n## ")[0], markup=False)
    console.print(f"Written to {page}")


def make_plan(options: argparse.Namespace) -> DPGPlan:
    """The tasks."""
    default = [QUESTIONS, NEW] + ([SCRIPTED] if options.records is not None else [])
    return DPGPlan(
        options.tasks or default,
        parse_traits(options.traits),
        options.questions,
        options.levels,
        options.cross,
        options.people,
        options.seed,
        options.records,
        options.trained,
        Newness(options.new_as),
        options.line or PAIRS,
        options.line_questions,
    )


def make_contenders(options: argparse.Namespace) -> Contenders:
    """Who takes part; the shipped adapters where none is named."""
    shipped = not options.adapter and options.model == BUNDLED
    adapters = options.adapter or ([str(hypernet_directory())] if shipped else [])
    neurons = options.neurons or (str(adapter_directory()) if shipped else None)
    api = None
    if options.api_model is not None:
        settings = LLMSettings(
            options.api_model,
            options.api_url,
            api_key_variable=options.api_key_variable,
            parameters=_json_object(options.api_parameters),
        )
        prices = PriceTable() if options.prices is None else PriceTable.load(options.prices)
        replies = options.output / "answers.sqlite"
        kept = ":memory:" if options.dry_run and not replies.exists() else replies  # a dry run writes nothing
        api = LLMClient(settings, kept, prices=prices)
    return Contenders(
        named(adapters, HYPERNETWORK), options.baselines, named_loras(options.lora), neurons, options.both, api
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DPGError(f"--api-parameters is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DPGError(f"--api-parameters is a JSON object, not {text!r}")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("output", type=Path, help="directory of the reports and of the raw results")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="with a hypernetwork; default: the shipped one",
    )
    add("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    add("--lora", action="append", default=[], metavar="[NAME=]DIR", help="PEFT directory of a plain LoRA baseline")
    add("--neurons", help='adapter with personality neurons: directory, Hub id, or "smollm2"')
    add("--both", action="store_true", help="also the (first) hypernetwork and the neurons together")
    add("--baselines", nargs="*", choices=PROMPTS, default=list(PROMPTS), help="prompts of the base model")
    add("--api-model", help="a model behind an API that is only prompted")
    add("--api-url", help="its address; default: OpenAI's")
    add("--api-parameters", default='{"temperature": 0}', help="sent with each of its calls, JSON")
    add("--prices", type=Path, help='JSON, per million tokens: {"models": {"NAME": {"input": 1, "output": 2}}}')
    add("--dry-run", action="store_true", help="say what calls of an API would cost, and stop")
    add("--tasks", nargs="+", choices=TASKS, help="default: questions and new, and scripted with --records")
    add("--records", type=Path, help="JSON Lines of dialogue records with scores, for scripted dialogue")
    add("--trained", type=Path, nargs="+", default=[], help="lessons or records trained on, to tell who is new")
    add("--new-as", choices=[str(n) for n in Newness], default=str(Newness.PERSON), help="how new personalities are")
    add("--traits", default="OCEAN", help="letters, for the questions")
    add("--questions", type=int, default=12, help="held-back questions of each trait")
    add("--levels", type=float, nargs="+", default=[-5, -2, 0, 2, 5], help="levels of the questions")
    add("--cross", action="store_true", help="judge the questions' answers on the other traits too")
    add("--people", type=int, default=40, help="new personalities")
    add("--seed", type=int, default=0, help="of the new personalities")
    add("--line", action="append", metavar='"E-5 > E+5"', help="pair of the interpolation; may be repeated")
    add("--line-questions", type=int, default=6, help="held-back questions of each trait that changes there")
    add("--judge", choices=KINDS, default=KINDS[0], help="likelihood works offline; openai is any such API")
    add("--judge-model", help="model of the API")
    add("--judge-url", help="address of the API")
    add("--api-key-variable", default="OPENAI_API_KEY", help="environment variable with the key")
    add("--max-new-tokens", type=int, default=48, help="length of an answer")
    add("--batch-size", type=int, default=24, help="answers generated at once")
    add(
        "--capability-tasks",
        nargs="+",
        default=list(CHOICES),
        help="what methods cost: offline, or the harness's by name",
    )
    add("--capability-items", type=int, help="items of each task; default: all")
    add("--no-capability", action="store_true", help="leave the tasks out; the report says so")
    add("--allow-mismatch", action="store_true", help="accept another base model than the adapter's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
