"""Fit the likelihood judge's scale to a model's own persona-prompted answers; measure it on held-out ones.

    python python/fit_likelihood_judge.py --out judge.json                     # SmolLM2-135M-Instruct
    python python/fit_likelihood_judge.py --model PATH_OR_HUB_ID --out judge.json
    python python/fit_likelihood_judge.py --questions 3 --validation-questions 3 --out quick.json    # a quick look

The questions and personas of the fit, of "holdout" (looked at while the judge was chosen), of "validation" (not
looked at before) and the personas inside the judge are different sets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dpg_fast.judges.fitting import (
    Item,
    fit_scale,
    judge_own_trait,
    neutral_scores,
    personalitybench_items,
    separation,
    shipped_items,
    split_by_pole,
    table_text,
)
from dpg_fast.judges.likelihood import SURPRISAL_CAP, Judgement, LikelihoodJudge, Scale, TraitScale
from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_personalitybench
from dpg_fast.text.personas import (
    SYSTEM_TEMPLATE,
    USER_TEMPLATE,
    PersonaAnswer,
    generate_persona_answers,
    load_answers,
    save_answers,
)
from dpg_fast.util.files import write_text
from dpg_fast.util.smollm2 import HUB_ID, load_smollm2

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    arguments = parse()
    dtype = DTYPES[arguments.dtype]
    if arguments.model is None:
        model, tokenizer = load_smollm2(dtype, arguments.device)
        name = HUB_ID
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).to(arguments.device).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        name = arguments.model
    size: dict[str, Any] = {"questions": arguments.questions, "descriptions": arguments.people}
    flat = Scale({trait: TraitScale(0.0, 1.0) for trait in Trait}, name, arguments.template, arguments.user_template)
    unscaled = LikelihoodJudge(model, tokenizer, scale=flat, autocast=DTYPES.get(arguments.autocast))

    fit_answers = answer("fit", shipped_items("fit", **size), model, tokenizer, arguments)
    judged = ratios("fit", fit_answers, unscaled, arguments)
    scale = replace(flat, traits={t: fit_scale(*split_by_pole(fit_answers, judged, t)) for t in Trait})
    judge = LikelihoodJudge(model, tokenizer, scale=scale, autocast=DTYPES.get(arguments.autocast))
    report: dict[str, Any] = {
        "method": "logistic curve on Platt's smoothed targets; score = 5 tanh((llr - centre) / width)",
        "answers": f"{name}, greedy, repetition penalty 1.1, at most {arguments.max_new_tokens} new tokens, "
        f"{arguments.dtype}; personas of splits search (fit), holdout and validation; the judge's own of split judge",
        "weight": f"min(surprisal under both personas, {SURPRISAL_CAP:g} nats) / {SURPRISAL_CAP:g}",
        "judge_decoder_dtype": arguments.autocast or arguments.dtype,
        "pairs": len(judge.descriptions[Trait.OPENNESS]),
    }

    def keep(key: str, answers: list[PersonaAnswer], found: list[Judgement]) -> None:
        report[key] = separation(answers, judge.rescore(found))
        print(table_text(key, report[key]), flush=True)
        write_text(arguments.out, json.dumps(replace(scale, fit=report).to_dict(), indent=1) + "\n")

    keep("fit", fit_answers, judged)
    for split in ("holdout", "validation"):
        if split == "validation":
            size["questions"] = arguments.validation_questions
        unseen = answer(split, shipped_items(split, **size), model, tokenizer, arguments)
        if split == "validation" and arguments.sample_out is not None:
            save_answers(arguments.sample_out, sample(unseen, arguments.sample_questions))
        keep(split, unseen, ratios(split, unseen, unscaled, arguments))
    if arguments.personalitybench is not None:
        bench = load_personalitybench(arguments.personalitybench)
        items = personalitybench_items(bench, questions=arguments.bench_questions)
        answers = answer("personalitybench", items, model, tokenizer, arguments)
        keep("personalitybench", answers, ratios("personalitybench", answers, unscaled, arguments))
    report["neutral_mean_score"] = neutral_scores(judge, questions=arguments.questions)
    print("mean score of answers without a persona:", report["neutral_mean_score"])
    keep("fit", fit_answers, judged)
    print("written:", arguments.out)


def sample(answers: list[PersonaAnswer], questions: int) -> list[PersonaAnswer]:
    """The answers to the first so many questions of each trait."""
    kept: dict[Trait, list[str]] = {trait: [] for trait in Trait}
    for row in answers:
        if row.question not in kept[row.pole.trait]:
            kept[row.pole.trait].append(row.question)
    return [row for row in answers if row.question in kept[row.pole.trait][:questions]]


def answer(
    what: str, items: list[Item], model: Any, tokenizer: Any, arguments: argparse.Namespace
) -> list[PersonaAnswer]:
    stored = arguments.answers / f"{what}.jsonl" if arguments.answers is not None else None
    if stored is not None and stored.exists():
        found = load_answers(stored)
        if [(row.pole, row.question, row.description) for row in found] != items:
            raise SystemExit(f"{stored} holds answers to other questions or personas; remove it or name another folder")
        return found
    answers = generate_persona_answers(
        model,
        tokenizer,
        items,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        progress=shower(f"answer {what}"),
    )
    if stored is not None:
        save_answers(stored, answers)
    return answers


def ratios(
    what: str, answers: list[PersonaAnswer], judge: LikelihoodJudge, arguments: argparse.Namespace
) -> list[Judgement]:
    """Each answer's ratio on the trait of its pole; kept beside the answers, and reused for the same work."""
    settings = {
        "model": judge.scale.model,
        "templates": [judge.scale.system_template, judge.scale.user_template],
        "cap": SURPRISAL_CAP,
        "dtypes": [arguments.dtype, arguments.autocast],
        "descriptions": {trait.value: [list(pair) for pair in pairs] for trait, pairs in judge.descriptions.items()},
        "answers": [[str(row.pole), row.question, row.answer] for row in answers],
    }
    stored = arguments.answers / f"{what}_ratios.json" if arguments.answers is not None else None
    if stored is not None and stored.exists():
        content = json.loads(stored.read_text(encoding="utf-8"))
        if content["settings"] == settings:
            return [load_judgement(row) for row in content["judgements"]]
    found = judge_own_trait(judge, answers, progress=shower(f"judge {what}"))
    if stored is not None:
        content = {"settings": settings, "judgements": [asdict(row) for row in found]}
        write_text(stored, json.dumps(content, ensure_ascii=False))
    return found


def load_judgement(row: dict[str, Any]) -> Judgement:
    by_trait = {key: {Trait.parse(t): float(v) for t, v in row[key].items()} for key in ("scores", "llr", "spread")}
    return Judgement(**(row | by_trait))


def shower(what: str) -> Any:
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        print(
            f"\r{what}: {done}/{total}, {time.monotonic() - start:.0f} s ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if done == total:
            print(file=sys.stderr)

    return show


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="where the scale and its validation are written (JSON)")
    add("--model", help=f"path or Hub id of a chat model; default {HUB_ID}")
    add("--questions", type=int, default=8, help="use only so many questions per trait of fit and holdout")
    add("--validation-questions", type=int, help="the same for the split validation")
    add("--people", type=int, default=2, help="different personas that answer each question, per pole")
    add("--answers", type=Path, help="folder where answers and their ratios are kept, and reused when found")
    add("--sample-out", type=Path, help="write a sample of the validation answers here (JSON Lines)")
    add("--sample-questions", type=int, default=4, help="questions per trait in the sample")
    add("--personalitybench", type=Path, help="folder of PersonalityBench files to validate on as well")
    add("--bench-questions", type=int, default=6, help="PersonalityBench questions per trait")
    add("--template", default=SYSTEM_TEMPLATE, help="system text of the judge; may hold {description}, {question}")
    add("--user-template", default=USER_TEMPLATE, help="user text of the judge; may hold the same")
    add("--max-new-tokens", type=int, default=70, help="length of an answer")
    add("--batch-size", type=int, default=32, help="answers generated at once")
    add("--dtype", choices=sorted(DTYPES), default="float32", help="data type of the model's parameters")
    add("--autocast", choices=sorted(DTYPES), help="dtype in which the judge runs the decoder")
    add("--device", default="cpu", help="where the model runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
