"""Measure whether an adapter moves the likelihood judge, on questions that its neurons were not searched on.

python python/evaluate_steering.py
python python/evaluate_steering.py --adapter path/to/adapter --model path/or/hub-id --level 3 --json scores.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from dpg_fast.cli.demo import SYSTEM, adapter_directory
from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.judges.poles import contrast_poles, contrast_table
from dpg_fast.kernels import isas
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_questions
from dpg_fast.util.files import write_text
from dpg_fast.util.models import BUNDLED, load_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    parser.add_argument("--adapter", type=Path, default=adapter_directory(), help="adapter directory")
    parser.add_argument("--split", choices=("fit", "holdout"), default="holdout", help="which of the shipped questions")
    parser.add_argument("--level", type=float, default=5.0, help="level asked for, positive and negative")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures and the answers")
    options = parser.parse_args()
    console = Console()
    base, tokenizer = load_base(options.model)
    model = PersonalityModel.load(base, options.adapter)
    judge = LikelihoodJudge(base, tokenizer, autocast=torch.bfloat16 if "avx512bf16" in isas() else None)
    result = contrast_poles(
        model,
        tokenizer,
        judge,
        {trait: [q.question for q in load_questions(trait, options.split)] for trait in Trait},
        system=SYSTEM,
        level=options.level,
        max_new_tokens=options.max_new_tokens,
        progress=lambda trait: console.print(f"{trait.value} done", style="dim"),
    )
    console.print(contrast_table(result, f"Steering at level {options.level:g}, {options.split} questions"))
    console.print(judge.describe(), style="dim")
    if options.json is not None:
        content = {trait.value: asdict(contrast) for trait, contrast in result.items()}
        write_text(options.json, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
