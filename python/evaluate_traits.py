"""Measure whether and how well personalities show, and what they cost: adapters beside prompting, activation addition and
the bare model.

    python python/evaluate_traits.py out                                    # the shipped adapters on SmolLM2, all methods
    python python/evaluate_traits.py out --questions 4 --traits EN --methods prompt neurons --levels -5 0 5
    python python/evaluate_traits.py out --adapter DIR --model ID --judge openai --judge-model NAME --judge-url URL

Asks questions of split "holdout" (or PersonalityBench's), on which nothing was searched or fitted. At the two ends of the scale
every method also sits tasks of lm-evaluation-harness (60 offline questions; others by --capability-tasks). Killed at any time
it continues where it was; more questions, levels, traits, methods or tasks extend a finished evaluation.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dpg_fast.cli.demo import adapter_directory, hypernet_directory
from dpg_fast.cli.errors import one_line_errors
from dpg_fast.judges.choice import KINDS, JudgeChoice, fast_dtype
from dpg_fast.evaluation import TraitPlan, method_figures, run_evaluation
from dpg_fast.evaluation.build import METHODS, ActivationSettings, build_methods, default_names
from dpg_fast.evaluation.capability import CapabilityPlan, CapabilityRun
from dpg_fast.evaluation.harness.tasks import CHOICES
from dpg_fast.evaluation.questions import held_out_questions
from dpg_fast.evaluation.report import cost_sentence, verdict, write_report
from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import artifact
from dpg_fast.model.identity import adapter_identity, base_identity
from dpg_fast.personality.traits import parse_traits
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, load_base
from dpg_fast.util.progress import progress_bars


def main() -> None:
    options = parse()
    with one_line_errors("evaluate_traits.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    traits = parse_traits(options.traits)
    plan = TraitPlan(
        held_out_questions(traits, options.questions, options.personalitybench), options.levels, not options.no_cross
    )
    judge_options = JudgeChoice(options.judge, options.judge_model, options.judge_url, options.api_key_variable)
    settings = AnswerSettings(
        max_new_tokens=options.max_new_tokens,
        repetition_penalty=options.repetition_penalty,
        batch_size=options.batch_size,
    )
    tasks = None if options.no_capability else CapabilityPlan(options.capability_tasks, options.capability_items)
    adapter = artifact.locate(options.adapter or adapter_directory())
    shipped = options.adapter is None and options.model == BUNDLED
    second = options.hypernet or (hypernet_directory() if shipped else None)
    hypernet = None if second is None else artifact.locate(second)
    base, tokenizer = load_base(options.model)
    parts = artifact.load(adapter, base, allow_mismatch=options.allow_mismatch)
    identity = adapter_identity(adapter)
    if hypernet is not None:
        parts = replace(parts, hypernet=_hypernet(hypernet, base, options.allow_mismatch))
    shared = {"model": identity["base"], "weights": base_identity(base), "answers": settings.about()}
    judge = judge_options.make(base, tokenizer, options.output / "replies.sqlite")
    scorer = Scorer(judge, base, tokenizer, settings.system, fast_dtype())
    with progress_bars(console) as report:
        methods = build_methods(
            options.methods or default_names(parts, hypernet is None),
            base,
            tokenizer,
            settings,
            parts,
            scorer,
            options.output,
            identity=identity,
            hypernet_identity=None if hypernet is None else adapter_identity(hypernet),
            traits=traits,
            activation=ActivationSettings(options.activation_layer, questions=options.activation_fit),
            progress=report,
        )
        exam = None
        if tasks is not None:  # before the work starts: it finds out whether the tasks can be had
            weights = {name: value for name, value in shared.items() if name != "answers"}
            exam = CapabilityRun(methods, tokenizer, plan, tasks, options.output, weights)
        results = run_evaluation(
            methods, scorer, plan, options.output, shared, batch_size=settings.batch_size, progress=report
        )
        capability = None if exam is None else exam.run(report)
    figures = [method_figures(results, method.name) for method in methods]
    asked = "PersonalityBench" if options.personalitybench else "holdout"
    written = write_report(
        results,
        figures,
        options.output,
        judge=judge.describe(),
        settings={**shared, **identity, "split": asked, "judge_cost": scorer.spent()},
        capability=capability,
    )
    for method in figures[1:]:
        console.print(f"[bold]{method.name}[/bold]")
        for trait, found in method.traits.items():
            console.print(f"  {verdict(trait, found, plan.ends)}", highlight=False, markup=False)
        if capability is not None:
            console.print(f"  {cost_sentence(capability.methods[method.name])}", highlight=False, markup=False)
    console.print(f"Written to {written}")


def _hypernet(directory: Path, base: Any, allow_mismatch: bool) -> AdapterNetwork:
    found = artifact.load(directory, base, allow_mismatch=allow_mismatch).hypernet
    if found is None:
        raise DPGError(f"{directory} has no hypernetwork")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("output", type=Path, help="directory of the report and of the raw results")
    add("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    add("--adapter", help="directory or Hub id; default: the shipped neurons and hypernetwork")
    add("--hypernet", help="directory or Hub id of a second adapter, whose hypernetwork is measured too")
    add("--methods", nargs="+", choices=METHODS, help="beside the bare model; default: all that the adapter allows")
    add("--traits", default="OCEAN", help="letters")
    add("--questions", type=int, default=12, help="test questions of each trait")
    add("--levels", type=float, nargs="+", default=list(range(-5, 6)), help="requested levels")
    add("--personalitybench", type=Path, help="folder of PersonalityBench files to ask instead")
    add("--no-cross", action="store_true", help="do not judge answers on traits that were not asked for")
    add("--judge", choices=KINDS, default=KINDS[0], help="likelihood works offline; openai is any such API")
    add("--judge-model", help="model of the API")
    add("--judge-url", help="address of the API")
    add("--api-key-variable", default="OPENAI_API_KEY", help="environment variable with its key")
    add("--max-new-tokens", type=int, default=48, help="length of an answer; the paper's 400")
    add("--repetition-penalty", type=float, default=1.1, help="the paper's 1.15")
    add("--batch-size", type=int, default=24, help="answers generated at once")
    add("--activation-layer", type=int, help="decoder layer of activation addition; default: the middle")
    add("--activation-fit", type=int, default=3, help='questions of split "fit" for its strengths; 0: strength 1')
    add(
        "--capability-tasks",
        nargs="+",
        default=list(CHOICES),
        help=f"what methods cost; offline: {', '.join(CHOICES)}; others by the harness's name (gsm8k), from the network",
    )
    add("--capability-items", type=int, help="items of each task; default: all")
    add("--no-capability", action="store_true", help="leave the tasks out; the report says so")
    add("--allow-mismatch", action="store_true", help="accept another base model than the adapter's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
