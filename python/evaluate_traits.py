"""Measure whether and how well personalities show: an adapter beside prompting, activation addition and the bare model.

    python python/evaluate_traits.py out                                    # the shipped adapter on SmolLM2, all methods
    python python/evaluate_traits.py out --questions 4 --traits EN --methods prompt neurons --levels -5 0 5
    python python/evaluate_traits.py out --adapter DIR --model ID --judge openai --judge-model NAME --judge-url URL

Asks questions of split "holdout" (or PersonalityBench's), on which nothing was searched or fitted. Killed at any time it
continues where it was; more questions, levels, traits or methods extend a finished evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dpg_fast.assess.answering import AnswerSettings
from dpg_fast.assess.evaluation import TraitPlan, method_figures, run_evaluation
from dpg_fast.assess.evaluation.build import METHODS, ActivationSettings, build_methods, default_names
from dpg_fast.assess.evaluation.questions import held_out_questions
from dpg_fast.assess.evaluation.report import verdict, write_report
from dpg_fast.assess.scoring import Scorer
from dpg_fast.base_models import BUNDLED, load_base
from dpg_fast.demo import adapter_directory
from dpg_fast.judge_options import KINDS, JudgeOptions, fast_dtype
from dpg_fast.long_runs import adapter_identity, base_identity, parse_traits, plain_errors, progress_bars
from dpg_fast.model import artifact


def main() -> None:
    options = parse()
    with plain_errors("evaluate_traits.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    traits = parse_traits(options.traits)
    plan = TraitPlan(
        held_out_questions(traits, options.questions, options.personalitybench), options.levels, not options.no_cross
    )
    judge_options = JudgeOptions(options.judge, options.judge_model, options.judge_url, options.api_key_variable)
    settings = AnswerSettings(
        max_new_tokens=options.max_new_tokens,
        repetition_penalty=options.repetition_penalty,
        batch_size=options.batch_size,
    )
    adapter = artifact.locate(options.adapter)
    base, tokenizer = load_base(options.model)
    parts = artifact.load(adapter, base, allow_mismatch=options.allow_mismatch)
    identity = adapter_identity(adapter)
    shared = {"model": identity["base"], "weights": base_identity(base), "answers": settings.about()}
    judge = judge_options.make(base, tokenizer, options.output / "replies.sqlite")
    scorer = Scorer(judge, base, tokenizer, settings.system, fast_dtype())
    with progress_bars(console) as report:
        methods = build_methods(
            options.methods or default_names(parts),
            base,
            tokenizer,
            settings,
            parts,
            scorer,
            options.output,
            identity=identity,
            traits=traits,
            activation=ActivationSettings(options.activation_layer, questions=options.activation_fit),
            progress=report,
        )
        results = run_evaluation(
            methods, scorer, plan, options.output, shared, batch_size=settings.batch_size, progress=report
        )
    figures = [method_figures(results, method.name) for method in methods]
    asked = "PersonalityBench" if options.personalitybench else "holdout"
    written = write_report(
        results,
        figures,
        options.output,
        judge=judge.describe(),
        settings={**shared, **identity, "split": asked, "judge_cost": scorer.spent()},
    )
    for method in figures[1:]:
        console.print(f"[bold]{method.name}[/bold]")
        for trait, found in method.traits.items():
            console.print(f"  {verdict(trait, found, plan.ends)}", highlight=False, markup=False)
    console.print(f"Written to {written}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("output", type=Path, help="directory of the report and of the raw results")
    add("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    add("--adapter", default=str(adapter_directory()), help="directory or Hub id")
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
    add("--allow-mismatch", action="store_true", help="accept another base model than the adapter's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
