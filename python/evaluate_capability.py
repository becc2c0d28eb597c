"""What a personality costs: tasks of lm-evaluation-harness with and without it.

    python python/evaluate_capability.py out                                      # offline items, every trait at both ends
    python python/evaluate_capability.py out --personality "E+5" "N+3" --tasks facts sentences
    python python/evaluate_capability.py out --model ID --adapter DIR --tasks gsm8k mmlu --chat    # needs the network

Needs `pip install 'dpg-fast[eval]'`. Killed at any time it continues where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dpg_fast.cli.demo import adapter_directory
from dpg_fast.cli.errors import one_line_errors
from dpg_fast.evaluation.harness import OFFLINE, measure_capability
from dpg_fast.evaluation.harness.report import write_costs
from dpg_fast.model import PersonalityModel, artifact
from dpg_fast.model.identity import adapter_identity, base_identity, calibration_identity
from dpg_fast.personality.scores import Personality, Pole, Trait
from dpg_fast.util.models import BUNDLED, load_base
from dpg_fast.util.progress import progress_bars


def main() -> None:
    options = parse()
    with one_line_errors("evaluate_capability.py"):
        run(options)


def run(options: argparse.Namespace) -> None:
    console = Console()
    people = [Personality(text) for text in options.personality or ends(options.levels)]
    adapter = artifact.locate(options.adapter)
    base, tokenizer = load_base(options.model)
    model = PersonalityModel.load(base, adapter, allow_mismatch=options.allow_mismatch)
    about = {**adapter_identity(adapter), "weights": base_identity(base), **calibration_identity(adapter)}
    with progress_bars(console) as report:
        costs = measure_capability(
            model,
            tokenizer,
            people,
            options.tasks,
            options.output,
            about,
            steer_tokens=options.steer_tokens,
            limit=options.limit,
            chat=options.chat,
            batch_size=options.batch_size,
            progress=report,
        )
    settings = {**about, "steer_tokens": options.steer_tokens, "limit": options.limit, "chat": options.chat}
    written = write_costs(costs, options.output, settings)
    console.print(written.read_text(encoding="utf-8"), markup=False, highlight=False)
    console.print(f"Written to {written}")


def ends(levels: list[float]) -> list[str]:
    """Every pole at each level."""
    return [f"{Pole(trait, high)}{level:g}" for trait in Trait for high in (True, False) for level in levels]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("output", type=Path, help="directory of the report and of the raw results")
    add("--model", default=BUNDLED, help="Hub id or directory; the bundled SmolLM2 by default")
    add("--adapter", default=str(adapter_directory()), help="directory or Hub id")
    add("--personality", nargs="+", help='such as "E+5"; default: every pole at --levels')
    add("--levels", type=float, nargs="+", default=[5.0], help="levels of every pole")
    add(
        "--tasks", nargs="+", default=list(OFFLINE), help=f"offline: {', '.join(OFFLINE)}; others by the harness's name"
    )
    add(
        "--steer-tokens",
        choices=("all", "decode"),
        default="all",
        help="tokens of scored texts that are steered; generation steers its own",
    )
    add("--limit", type=int, help="items of each task")
    add("--chat", action="store_true", help="put prompts into the model's chat format")
    add("--batch-size", type=int, default=16, help="requests run side by side")
    add("--allow-mismatch", action="store_true", help="accept another base model than the adapter's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
