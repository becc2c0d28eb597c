"""Measure tuned characters beside prompting: who is distinct, what is known, false premises, ranking, questionnaire, drift.

python python/evaluate_personified.py out --data data/marit_oss --data data/anselm_voss \\
    --system sft=runs/marit_oss/sft/adapter --system sft=runs/anselm_voss/sft/adapter \\
    --system dpo=runs/marit_oss/dpo/adapter --system dpo=runs/anselm_voss/dpo/adapter --against sft
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.judges.choice import JudgeChoice
from dpg_fast.llm import LLMClient, LLMSettings
from dpg_fast.personified.evaluate.cast import load_cast
from dpg_fast.personified.evaluate.report import lead, write_report
from dpg_fast.personified.evaluate.run import EvaluationSettings, evaluate
from dpg_fast.personified.evaluate.systems import BASELINES, Sampling, make_systems
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, load_base
from dpg_fast.util.progress import progress_bars


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for journals, figures and reports; a killed run continues")
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="folder of personified data; one each"
    )
    parser.add_argument(
        "--system", action="append", default=[], help="NAME=DIR of a tuned character; NAME again for others"
    )
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), help=f"of {', '.join(BASELINES)}")
    parser.add_argument("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")
    parser.add_argument("--against", default=None, help="system from which differences are taken, such as sft")
    parser.add_argument("--limit", type=int, default=None, help="test questions of each stage, at most")
    parser.add_argument("--max-new-tokens", type=int, default=140)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--no-likelihoods", action="store_true", help="leave out what needs log-probabilities")
    parser.add_argument("--forms", type=int, default=2, help="forms of the questionnaire; 0 leaves it out")
    parser.add_argument("--drift", type=int, default=8, help="turns of the long chat; 0 leaves it out")
    parser.add_argument(
        "--parts-of", nargs="*", default=[], help="systems with questionnaire and long chat; default all"
    )
    parser.add_argument("--judge-model", default=None, help="an API's model for accuracy, ranking and stances")
    parser.add_argument("--judge-url", default=None, help="address of the API; OpenAI's by default")
    parser.add_argument("--judge-key-variable", default="OPENAI_API_KEY", help="environment variable with its key")
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap draws")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tuned(texts: list[str]) -> dict[str, list[Path]]:
    """name -> directories.

    Raises:
        ValueError: not NAME=DIR.
    """
    found: dict[str, list[Path]] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or not name.strip() or not path.strip():
            raise DPGError(f"--system takes NAME=DIR, not {text!r}")
        found.setdefault(name.strip(), []).append(Path(path.strip()))
    return found


def main() -> None:
    options = parse()
    with one_line_errors("evaluate_personified.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    if options.output.exists() and not options.output.is_dir():
        raise DPGError(f"{options.output} is a file; name a folder")
    if options.judge_url and not options.judge_model:
        raise DPGError("name the judge's model with --judge-model")
    directories = tuned(options.system)
    cast = load_cast(options.data, limit=options.limit, seed=options.seed)
    make_systems(
        options.baselines, directories, None, None, cast
    )  # whatever is wrong with them is found before loading
    settings = EvaluationSettings(
        sampling=Sampling(options.max_new_tokens, options.temperature, batch_size=options.batch_size),
        likelihoods=not options.no_likelihoods,
        forms=options.forms,
        drift=options.drift,
        parts_of=options.parts_of,
        against=options.against,
        resamples=options.resamples,
        seed=options.seed,
    )
    judge = None
    if options.judge_model:
        api = LLMSettings(options.judge_model, options.judge_url, api_key_variable=options.judge_key_variable)
        judge = LLMClient(api, options.output / "replies.sqlite")
    base, tokenizer = load_base(options.model, getattr(torch, options.dtype))
    systems = make_systems(options.baselines, directories, base, tokenizer, cast)
    with progress_bars(console) as bars:
        found = evaluate(
            systems,
            cast,
            options.output,
            settings,
            judge=judge,
            trait_judge=lambda bare, words: JudgeChoice().make(bare, words, options.output / "replies.sqlite"),
            about={"model": options.model, "dtype": options.dtype, "data": [folder.name for folder in options.data]},
            progress=bars,
        )
    page = write_report(found, options.output)
    console.print(lead(found))
    console.print(f"Report: {page}")


if __name__ == "__main__":
    main()
