"""Whole-model decode steps on SmolLM2-135M: dpg_fast against the bare model and PEFT, alternating in one process."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Result
from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.cli.demo import adapter_directory
from dpg_fast.model.speed import Generate, compare_steps, generation, peft_rival, twin
from dpg_fast.neurons import SteeringTable
from dpg_fast.util.smollm2 import load_smollm2

RANK, CODES, ROWS, TOKENS, PROMPT = 8, 6, 8, 16, 24
CHARACTERS = 4
PEFT_RANKS = (8, 16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NOTES = (
    f"one greedy decode step inside generate(): {TOKENS} tokens after a prompt of {PROMPT}, dynamic cache",
    f"dpg_fast: bank of {CODES} random rank-{RANK} entries on all seven linears of a layer, all ten poles' neurons",
    "PEFT: random LoRA on the same linears, adapters in the model's dtype; the mixed batch has one adapter for each row",
    f"characters: {CHARACTERS} random rank-{RANK} PEFT adapters beside the bank; each row one of them, with scores, no neurons",
    "ratios are to the bare model in the same round; ways run in alternating order and share one copy of the base weights",
)


def run(device: str, rounds: int) -> Iterator[Result]:
    """Check correctness, then time every dtype with 8 rows and with 1."""
    base, _ = load_smollm2(device=device)
    check(copy.deepcopy(base))
    for name, dtype in DTYPES.items():
        model = copy.deepcopy(base).to(dtype)
        for rows in (ROWS, 1):
            timings = compare_steps(ways(model, rows), rounds)
            for way, timing in timings.items():
                yield Result(
                    f"SmolLM2-135M, {name}, {rows} row{'s' if rows > 1 else ''}",
                    way,
                    timing.seconds * 1e3,
                    timing.ratio,
                    timing.lowest,
                    timing.highest,
                )


def ways(bare: Any, rows: int) -> dict[str, Generate]:
    """All ways share one copy of the weights; the bare model first."""
    ids = torch.randint(100, 40_000, (rows, PROMPT), generator=torch.Generator().manual_seed(0)).to(bare.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    people = personalities(rows)
    count = f"{rows} personalities" if rows > 1 else "1 personality"
    both = wrap(twin(bare), lora=True, steer=True)
    result = {
        "bare model": generation(bare, inputs, TOKENS),
        "dpg_fast, no personality": generation(both, inputs, TOKENS),
        f"dpg_fast, {count}: bank + neurons": generation(both, inputs, TOKENS, personality=people),
        f"dpg_fast, {count}: neurons": generation(
            wrap(twin(bare), lora=False, steer=True), inputs, TOKENS, personality=people
        ),
    }
    targets = sorted({site.kind for site in find_architecture(bare).sites})
    if rows > 1:
        tuned, names = with_characters(bare, targets)
        speaking = [Personality(p.scores, character=names[i % len(names)]) for i, p in enumerate(people)]
        result[f"dpg_fast, {rows} personalities of {len(names)} characters: bank + adapters"] = generation(
            tuned, inputs, TOKENS, personality=speaking
        )
    for rank in PEFT_RANKS:
        names = [f"row{i}" for i in range(rows)]
        rival = peft_rival(twin(bare), names, rank, targets)
        result[f"PEFT rank {rank}, one adapter"] = generation(rival, inputs, TOKENS)
        if rows > 1:
            result[f"PEFT rank {rank}, {rows} adapters in one batch"] = generation(
                rival, inputs, TOKENS, adapter_names=names
            )
    return result


def personalities(rows: int) -> list[Personality]:
    """Different people, every trait away from 0, so that half of the poles are steered in each row."""
    return [Personality.clipped([5 - i, i - 3.5, 4.5 - i, i - 4.5, 3.5 - i]) for i in range(rows)]


def wrap(model: Any, *, lora: bool, steer: bool) -> PersonalityModel:
    """The demo's neurons and a random bank on ``model``."""
    hypernet = None
    if lora:
        torch.manual_seed(0)
        hypernet = HyperNetwork(HypernetConfig(rank=RANK, codes=CODES), find_architecture(model).sites)
        hypernet.randomize_(torch.Generator().manual_seed(0))
    table = SteeringTable.load(adapter_directory() / "neurons.safetensors") if steer else None
    return PersonalityModel.from_model(model, hypernet=hypernet, steering=table)


def with_characters(bare: Any, targets: Sequence[str]) -> tuple[PersonalityModel, list[str]]:
    """The random bank and random PEFT adapters as characters without stages; their names."""
    names = [f"character{i}" for i in range(CHARACTERS)]
    model = wrap(twin(bare), lora=True, steer=False)
    with tempfile.TemporaryDirectory() as folder:
        peft_rival(twin(bare), names, RANK, targets).save_pretrained(folder)
        model.add_characters({name: Path(folder, name) for name in names})
    return model, names


def check(base: Any) -> None:
    """Compare the bank with merged weights, and rows without a personality with the bare model.

    Raises:
        RuntimeError: they differ by more than float32 rounding; no figure is reported then.
    """
    people = [*personalities(2), None]
    ids = torch.randint(100, 40_000, (3, PROMPT), generator=torch.Generator().manual_seed(1)).to(base.device)
    model = wrap(copy.deepcopy(base), lora=True, steer=False)
    assert model.hypernet is not None
    with torch.no_grad():
        found = model(ids, personality=people).logits
        for row, person in enumerate(people):
            merged = copy.deepcopy(base)
            if person is not None:
                for name, (A, B) in model.hypernet.materialise(person).items():
                    merged.get_submodule(name).weight += model.hypernet.config.scale * (B @ A)
            expected = merged(ids[row : row + 1]).logits[0]
            error = float((found[row] - expected).norm() / expected.norm())
            if not error < 1e-4:
                raise RuntimeError(f"row {row} ({person}) differs from merged weights by {error:.1e} (relative)")
