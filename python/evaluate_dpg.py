"""Measure a hypernetwork as DPG was measured, beside its baselines: open questions, new personalities, scripted dialogue.

    python python/evaluate_dpg.py out --adapter DIR
    python python/evaluate_dpg.py out --adapter DIR --lora DIR/lora --neurons DIR2 --tasks questions new --people 24
    python python/evaluate_dpg.py out --adapter DIR --tasks scripted --records scripts.jsonl

Open questions change one trait at a time; the picture there shows whether judged scores rise with the level asked for. New
personalities have levels of -5, -2, 2 and 5 in combinations that were not trained on. Questions are of split "holdout".
Killed at any time it continues where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from dpg_fast.assess.answering import AnswerSettings
from dpg_fast.assess.evaluation import TraitPlan, method_figures, run_evaluation
from dpg_fast.assess.evaluation.case_report import build_case_report, write_case_report
from dpg_fast.assess.evaluation.cases import newcomers, run_cases, scripted
from dpg_fast.assess.evaluation.methods import (
    BareModel,
    DescriptionPrompt,
    LoraAdapter,
    Method,
    SimplePrompt,
    WrappedModel,
)
from dpg_fast.assess.evaluation.questions import held_out_questions
from dpg_fast.assess.evaluation.report import verdict, write_report
from dpg_fast.assess.scoring import Scorer
from dpg_fast.base_models import BUNDLED, load_base
from dpg_fast.data.records import DialogueRecord, read_records
from dpg_fast.judge_options import KINDS, JudgeOptions, fast_dtype
from dpg_fast.long_runs import adapter_identity, base_identity, parse_traits, plain_errors, progress_bars
from dpg_fast.model import artifact
from dpg_fast.personality import Trait

TASKS = ("questions", "new", "scripted")


def main() -> None:
    options = parse()
    with plain_errors("evaluate_dpg.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    tasks = options.tasks or [t for t in TASKS if t != "scripted" or options.records is not None]
    if "scripted" in tasks and options.records is None:
        raise ValueError("the task scripted needs --records")
    traits = parse_traits(options.traits)
    judge_options = JudgeOptions(options.judge, options.judge_model, options.judge_url, options.api_key_variable)
    settings = AnswerSettings(max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
    base, tokenizer = load_base(options.model)
    methods, identity = build(options, base, tokenizer, settings)
    judge = judge_options.make(base, tokenizer, options.output / "replies.sqlite")
    scorer = Scorer(judge, base, tokenizer, settings.system, fast_dtype())
    shared = {"weights": base_identity(base), "answers": settings.about()}
    with progress_bars(console) as report:
        if "questions" in tasks:
            plan = TraitPlan(held_out_questions(traits, options.questions), options.levels, options.cross)
            results = run_evaluation(
                methods,
                scorer,
                plan,
                options.output / "questions",
                shared,
                batch_size=settings.batch_size,
                progress=report,
            )
            figures = [method_figures(results, method.name) for method in methods]
            about = {**shared, **identity, "split": "holdout"}
            path = write_report(results, figures, options.output / "questions", judge=judge.describe(), settings=about)
            for method in figures[1:]:
                console.print(f"[bold]{method.name}[/bold]")
                for trait, found in method.traits.items():
                    line = f"  {verdict(trait, found, plan.ends)} Spearman {found.spearman}"
                    console.print(line, highlight=False, markup=False)
            console.print(f"Written to {path}")
        for task in ("new", "scripted"):
            if task not in tasks:
                continue
            if task == "new":
                cases = newcomers(options.people, held_out_questions(list(Trait), options.questions), options.seed)
            else:
                cases = scripted(read_records(options.records, DialogueRecord))
            judged = run_cases(
                methods, scorer, cases, options.output / task, shared, batch_size=settings.batch_size, progress=report
            )
            found_cases = build_case_report(cases, judged, methods[-1].name)
            path = write_case_report(
                "New personalities" if task == "new" else "Scripted dialogue",
                cases,
                found_cases,
                {method.name: method.describe() for method in methods},
                options.output / task,
                judge=judge.describe(),
                settings={**shared, **identity},
            )
            for name, one in found_cases.figures.items():
                console.print(f"{name}: mean Spearman {one.mean}", highlight=False, markup=False)
            console.print(f"Written to {path}")


def build(
    options: argparse.Namespace, base: Any, tokenizer: Any, settings: AnswerSettings
) -> tuple[list[Method], dict[str, Any]]:
    """The bare model, the baselines, and last the hypernetwork."""
    adapter = artifact.locate(options.adapter)
    identity = adapter_identity(adapter)
    hypernet = artifact.load(adapter, base, allow_mismatch=options.allow_mismatch).hypernet
    if hypernet is None:
        raise ValueError(f"{adapter} has no hypernetwork")
    methods: list[Method] = [BareModel(base, tokenizer, settings)]
    if "prompt" in options.baselines:
        methods.append(SimplePrompt(base, tokenizer, settings))
    if "description" in options.baselines:
        methods.append(DescriptionPrompt(base, tokenizer, settings))
    if options.lora is not None:
        methods.append(LoraAdapter(base, tokenizer, settings, options.lora))
    if options.neurons is not None:
        found = artifact.locate(options.neurons)
        parts = artifact.load(found, base, allow_mismatch=options.allow_mismatch)
        if parts.steering is None:
            raise ValueError(f"{found} has no personality neurons")
        methods.append(
            WrappedModel(
                "neurons",
                base,
                tokenizer,
                settings,
                steering=parts.steering,
                calibration=parts.calibration,
                identity=adapter_identity(found),
            )
        )
    methods.append(WrappedModel("hypernetwork", base, tokenizer, settings, hypernet=hypernet, identity=identity))
    return methods, identity


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("output", type=Path, help="directory of the reports and of the raw results")
    add("--adapter", required=True, help="directory or Hub id with a hypernetwork")
    add("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    add("--lora", type=Path, help="PEFT directory of the plain LoRA baseline (train_hypernet.py ... plain_lora=true)")
    add("--neurons", help="directory or Hub id of an adapter with personality neurons")
    add("--baselines", nargs="*", choices=("prompt", "description"), default=["prompt", "description"])
    add("--tasks", nargs="+", choices=TASKS, help="default: questions and new, and scripted with --records")
    add("--records", type=Path, help="JSON Lines of dialogue records with scores, for scripted dialogue")
    add("--traits", default="OCEAN", help="letters, for the questions")
    add("--questions", type=int, default=12, help="held-back questions of each trait")
    add("--levels", type=float, nargs="+", default=list(range(-5, 6)), help="levels of the questions")
    add("--cross", action="store_true", help="judge the questions' answers on the other traits too")
    add("--people", type=int, default=40, help="new personalities")
    add("--seed", type=int, default=0, help="of the new personalities")
    add("--judge", choices=KINDS, default=KINDS[0], help="likelihood works offline; openai is any such API")
    add("--judge-model", help="model of the API")
    add("--judge-url", help="address of the API")
    add("--api-key-variable", default="OPENAI_API_KEY", help="environment variable with its key")
    add("--max-new-tokens", type=int, default=48, help="length of an answer")
    add("--batch-size", type=int, default=24, help="answers generated at once")
    add("--allow-mismatch", action="store_true", help="accept another base model than the adapter's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
