"""What counting neurons costs on top of plain generation: ``python -m benchmarks.search``.

SmolLM2-135M answers one batch of the search's own prompts, alternately with and without the tap, in one process. Processor
time is compared, which other jobs on the machine disturb less than the clock.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.turns import print_ratios, processor_seconds
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.neurons import ActivationCounter, SearchSettings
from dpg_fast.neurons.search import answer, end_tokens, make_jobs
from dpg_fast.neurons.tap import DecodeTap, steps_together
from dpg_fast.personality.scores import POLES, Trait
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.util.smollm2 import load_smollm2

PLAIN = "plain generation"


def measure(dtype: torch.dtype, batch_size: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each round: without a tap, with one, and with one that collects means as well."""
    model, tokenizer = load_smollm2(dtype=dtype)
    settings = SearchSettings(batch_size=batch_size, max_new_tokens=tokens)
    questions = {trait: [q.question for q in load_questions(trait, "search")] for trait in Trait}
    descriptions = {pole: [d.text for d in load_descriptions(pole, "search")] for pole in POLES}
    batch = make_jobs(tokenizer, POLES, questions, descriptions, settings)[:batch_size]
    prompts = [job.prompt for job in batch]
    slots = torch.tensor([job.pole.index for job in batch], dtype=torch.int32)
    architecture = find_architecture(model)
    window = steps_together(architecture.num_layers, architecture.intermediate, batch_size, tokens, dtype)
    taps: dict[str, DecodeTap | None] = {PLAIN: None}
    for name, means in (("counts and histograms", False), ("and means of answers", True)):
        counter = ActivationCounter(architecture.num_layers, architecture.intermediate, len(POLES), means=means)
        taps[name] = DecodeTap(model, architecture, counter, end_tokens(model, tokenizer), window)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        name: lambda tap=tap: answer(model, tokenizer, prompts, settings, tap, slots)  # type: ignore[misc]
        for name, tap in taps.items()
    }
    return processor_seconds(ways, rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    times = measure(getattr(torch, options.dtype), options.batch_size, options.tokens, options.rounds)
    title = f"SmolLM2-135M, {options.dtype}, {options.batch_size} rows, {options.tokens} new tokens"
    print_ratios(title, times, PLAIN)


if __name__ == "__main__":
    main()
