"""Can one hypernetwork learn eight people by heart as well as eight LoRA adapters can?

    python -m benchmarks.memorising --out memorising.json

Eight people answer the same eight questions in words that only the person decides, so nothing but the personality tells the
answers apart. Plain LoRA adapters (one code, which is the constant 1) are trained for single people, then one hypernetwork for
all of them, until its loss is within 10% of theirs or the steps are used up. About ten minutes of one core on SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpg_fast.hypernet import HypernetConfig
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import MAX_SCORE
from dpg_fast.text.records import DialogueRecord, Turn
from dpg_fast.train.attention import grouped
from dpg_fast.train.loss import batch_loss
from dpg_fast.train.rows import TrainingRow, collate, text_sources

QUESTIONS = ("Tea?", "A walk?", "Music?", "Who called?", "Any plans?", "Is it cold?", "Hungry?", "Ready?")
_WORDS = "amber brick cedar delta ember fable grove harbor ivory jolly kettle lemon maple nickel orbit pepper"
WORDS = tuple(_WORDS.split())
WITHIN = 1.1


def people(count: int = 8, seed: int = 0) -> np.ndarray:
    """Scores [count, 5], -5..5, every two of them at least 5 apart."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < count:
        one = random.integers(-int(MAX_SCORE), int(MAX_SCORE) + 1, 5).astype(float)
        if all(np.linalg.norm(one - other) >= 5 for other in found):
            found.append(one)
    return np.array(found)


def dialogues(scores: np.ndarray, words: int = 3, seed: int = 1) -> list[DialogueRecord]:
    """Eight dialogues of each person, person after person; the answers are words drawn at random."""
    random = np.random.default_rng(seed)
    return [
        DialogueRecord(
            messages=[
                Turn(role="user", content=question),
                Turn(role="assistant", content=" ".join(random.choice(WORDS, words))),
            ],
            personality=tuple(own),
            source="memorising",
        )
        for own in scores
        for question in QUESTIONS
    ]


def fit(
    base: Any,
    config: HypernetConfig,
    rows: Sequence[TrainingRow],
    steps: int,
    rate: float,
    *,
    pad: int = 0,
    goal: float = 0.0,
    report: Callable[[int, float], None] | None = None,
) -> tuple[float, int]:
    """Train on all rows at once with Adam, the rate falling linearly to a tenth; (last loss in nats a token, steps made).

    Args:
        base: taken as it is and left so.
        config: one code at depth 0 is a plain LoRA.
        rows: of one person or several.
        steps: at most.
        rate: of learning.
        pad: token id.
        goal: training stops at this loss.
        report: gets step and loss.
    """
    torch.manual_seed(0)
    model = PersonalityModel.from_model(base, hypernet=config)
    assert model.hypernet is not None
    optimizer = torch.optim.Adam(model.hypernet.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    batch = collate(rows, pad)
    loss, step = float("inf"), 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        total, count = batch_loss(model, batch)
        mean = total / count
        loss = float(mean.detach())
        if report is not None:
            report(step, loss)
        if loss <= goal:
            break
        mean.backward()
        optimizer.step()
        schedule.step()
    model.unload()
    return loss, step


@dataclass(frozen=True)
class Memorised:
    """Losses in nats a token.

    Attributes:
        untrained: of the base model.
        alone: of plain LoRA adapters, one for each of some people.
        together: of the hypernetwork on everybody.
        steps: that it made.
        ratio: together / mean of alone.
        seconds: of everything.
    """

    untrained: float
    alone: list[float]
    together: float
    steps: int
    ratio: float
    seconds: float


def run(options: argparse.Namespace) -> Memorised:
    from dpg_fast.util.models import load_base

    started = time.perf_counter()
    base, tokenizer = load_base(options.model, getattr(torch, options.dtype))
    rows = [source.finished for source in text_sources(dialogues(people()), tokenizer)]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    shape = {"rank": options.rank, "alpha": 2.0 * options.rank, "first_layer": options.first_layer}

    def report(step: int, loss: float) -> None:
        if step == 1 or step % 10 == 0:
            print(f"  step {step}: {loss:.4f}", flush=True)

    first: list[float] = []
    with grouped(base):
        alone = []
        for person in options.alone:
            print(f"plain LoRA for person {person}")
            own = rows[8 * person : 8 * person + 8]
            alone.append(fit(base, HypernetConfig(codes=1, depth=0, **shape), own, 60, 5e-3, pad=pad, report=report)[0])
        print("hypernetwork for everybody")
        config = HypernetConfig(codes=options.codes, hidden=64, depth=2, **shape)
        goal = WITHIN * float(np.mean(alone))

        def noted(step: int, loss: float) -> None:
            first.append(loss)
            report(step, loss)

        together, steps = fit(base, config, rows, options.steps, options.rate, pad=pad, goal=goal, report=noted)
    ratio = together / float(np.mean(alone))
    return Memorised(first[0], alone, together, steps, ratio, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2", help="Hub id or directory")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of the base model")
    add("--rank", type=int, default=4, help="of the LoRA adapters and of each code")
    add("--codes", type=int, default=16, help="of the hypernetwork")
    add("--first-layer", type=int, default=20, help="adapters from this layer on")
    add("--alone", type=int, nargs="+", default=[0, 3, 7], help="people who get a LoRA of their own")
    add("--steps", type=int, default=200, help="of the hypernetwork at most")
    add("--rate", type=float, default=4e-3, help="its learning rate")
    add("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    found = run(options)
    text = json.dumps({**asdict(found), "options": {k: str(v) for k, v in vars(options).items()}}, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    raise SystemExit(found.ratio > WITHIN)


if __name__ == "__main__":
    main()
