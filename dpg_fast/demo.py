"""``dpg-fast demo``: one question, several people in one batch, judged, timed and plotted. Needs no network."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dpg_fast.assess.answering import NEUTRAL_SYSTEM as SYSTEM
from dpg_fast.assess.likelihood import Judgement, LikelihoodJudge
from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.kernels import isas
from dpg_fast.model import PersonalityModel
from dpg_fast.model.rows import Row
from dpg_fast.personality import Personality, Trait, parse_personality
from dpg_fast.smollm2 import find_gguf, load_smollm2
from dpg_fast.speed import StepTiming, compare_steps, generation, peft_rival, twin

QUESTION = "Your friends have planned a big party for tonight and you only just found out. What do you do?"
PEOPLE = ("base", "E+5", "E-5", "N+5", "N-5", "A-5", "C+5", "O+5 E+3")
RANK = 8


@dataclass(frozen=True)
class Person:
    """One row of the batch: its label, its personality, what it said, and the judge's view of it."""

    label: str
    personality: Row
    answer: str
    judgement: Judgement


def adapter_directory() -> Path:
    """Where the steering table for SmolLM2-135M-Instruct that comes with the package lies."""
    return Path(str(resources.files("dpg_fast").joinpath("assets", "smollm2_personality")))


def hypernet_directory() -> Path:
    """Where the hypernetwork for SmolLM2-135M-Instruct that comes with the package lies (``recipes/smollm2_cpu.yaml``)."""
    return Path(str(resources.files("dpg_fast").joinpath("assets", "smollm2_hypernet")))


def load_demo_model() -> tuple[PersonalityModel, Any]:
    """SmolLM2-135M-Instruct with the shipped personality neurons, and its tokenizer."""
    base, tokenizer = load_smollm2()
    # The table was made on the packaged weights; the Hub's are the same model before 4-bit quantisation.
    from_hub = find_gguf() is None
    return PersonalityModel.load(base, adapter_directory(), allow_mismatch=from_hub), tokenizer


def run_demo(
    question: str | None, personalities: Sequence[str] | None, max_new_tokens: int, output: Path, speed: bool
) -> list[Person]:
    """Answer, judge, print, plot and time; what the command does.

    Args:
        question: asked of everybody; the default question if None.
        personalities: as strings, "base" for the bare model; a default cast if None. The base always comes first.
        max_new_tokens: length of each answer.
        output: PNG file of the scores.
        speed: whether to time decode steps.

    Raises:
        ValueError: an unreadable personality, an empty question, or an output that is not a PNG file.
    """
    question = QUESTION if question is None else question.strip()
    if not question:
        raise ValueError("the question is empty")
    if output.suffix.lower() != ".png":
        raise ValueError(f"the picture is written as PNG; {output} does not end in .png")
    rows = _cast(personalities or PEOPLE)
    console = Console()
    started = time.perf_counter()
    model, tokenizer = load_demo_model()
    console.print(f"SmolLM2-135M-Instruct with personality neurons, loaded in {time.perf_counter() - started:.1f} s")
    console.print(f"[bold]{question}[/bold]\n")
    people = answer(model, tokenizer, question, rows, max_new_tokens)
    console.print(answers_table(people))
    judge = demo_judge(model, tokenizer)
    console.print(judge.describe(), style="dim")
    plot(people, question, output)
    console.print(f"\nScores drawn in {output}")
    if speed:
        console.print()
        console.print(speed_table(measure(model, tokenizer, question)))
    console.print(f"Done in {time.perf_counter() - started:.0f} s")
    return people


def answer(
    model: PersonalityModel, tokenizer: Any, question: str, rows: Sequence[tuple[str, Row]], max_new_tokens: int
) -> list[Person]:
    """Everybody answers in one batch (greedy), then every answer is judged."""
    answers = model.chat(
        question,
        personality=[row for _, row in rows],
        tokenizer=tokenizer,
        system=SYSTEM,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.1,
    )
    judgements = demo_judge(model, tokenizer).judge(question, answers)
    return [Person(label, row, said, j) for (label, row), said, j in zip(rows, answers, judgements, strict=True)]


def demo_judge(model: PersonalityModel, tokenizer: Any) -> LikelihoodJudge:
    """The likelihood judge on the bare model, in bfloat16 where the processor multiplies that natively: twice as fast."""
    return LikelihoodJudge(model.base, tokenizer, autocast=torch.bfloat16 if "avx512bf16" in isas() else None)


def answers_table(people: Sequence[Person]) -> Table:
    """Who said what, and how each answer scores on the five traits."""
    table = Table(title="One batch, one forward pass a token, a personality for each row", show_lines=True)
    table.add_column("personality", no_wrap=True)
    table.add_column("answer", ratio=1)
    for trait in Trait:
        table.add_column(trait.letter, justify="right", no_wrap=True)
    for person in people:
        scores = person.judgement.scores
        table.add_row(
            person.label, person.answer or "(nothing)", *(f"{scores[t]:+.1f}" if t in scores else "-" for t in Trait)
        )
    return table


def measure(
    model: PersonalityModel, tokenizer: Any, question: str, rows: int = 8, rounds: int = 3
) -> dict[str, StepTiming]:
    """Decode steps of ``rows`` rows: the bare model, personality neurons, neurons with a random bank, and PEFT.

    PEFT has no neuron steering; it runs random LoRA adapters of the bank's rank on the same layers, one for each row.
    """
    batch = tokenizer([f"{question} {i}" for i in range(rows)], return_tensors="pt", padding=True)
    people = [Personality(E=5 - i, N=i - 4) for i in range(rows)]
    bare = twin(model.unload())
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    table, calibration = model.steering, model.calibration
    neurons = PersonalityModel.from_model(model.base, steering=table, calibration=calibration)
    both = PersonalityModel.from_model(
        twin(bare), hypernet=HypernetConfig(rank=RANK, targets=targets), steering=table, calibration=calibration
    )
    assert isinstance(both.hypernet, HyperNetwork)
    both.hypernet.randomize_(torch.Generator().manual_seed(0))
    ways = {
        "bare model": generation(bare, batch, 16),
        f"{rows} personalities, neurons": generation(neurons, batch, 16, personality=people),
        f"{rows} personalities, neurons + rank-{RANK} bank": generation(both, batch, 16, personality=people),
    }
    try:
        names = [f"row{i}" for i in range(rows)]
        rival = peft_rival(twin(bare), names, RANK, targets)
        ways[f"PEFT, {rows} rank-{RANK} LoRA adapters in one batch"] = generation(rival, batch, 16, adapter_names=names)
    except ImportError:
        pass
    return compare_steps(ways, rounds)


def speed_table(timings: dict[str, StepTiming], rows: int = 8) -> Table:
    """Tokens per second and time relative to the bare model."""
    table = Table(title=f"Decode, {rows} rows, float32, {torch.get_num_threads()} threads, timed alternately")
    table.add_column("model")
    for column in ("tokens/s", "time / bare"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        table.add_row(name, f"{rows / timing.seconds:.0f}", f"{timing.ratio:.2f}")
    return table


def plot(people: Sequence[Person], question: str, output: Path) -> None:
    """A map of judged scores, people by traits; dots mark what was asked for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from dpg_fast.files import write_atomically

    traits = list(Trait)
    scores = [[p.judgement.scores.get(t, float("nan")) for t in traits] for p in people]
    figure, axes = plt.subplots(figsize=(8.5, 1.7 + 0.5 * len(people)), layout="constrained")
    image = axes.imshow(scores, cmap="RdBu_r", vmin=-5, vmax=5, aspect="auto")
    for y, person in enumerate(people):
        for x, trait in enumerate(traits):
            asked = person.personality.scores[trait.position] if isinstance(person.personality, Personality) else 0
            text = f"{scores[y][x]:+.1f}" + (f"\n(asked {asked:+g})" if asked else "")
            dark = abs(scores[y][x]) > 3
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(traits)), [trait.value for trait in traits])
    axes.set_yticks(range(len(people)), [person.label for person in people])
    axes.set_title("\n".join(textwrap.wrap(question, 95, max_lines=3, placeholder=" ...")), fontsize=9)
    figure.colorbar(image, label="judged score (weak judge)", shrink=0.9)
    write_atomically(output, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
    plt.close(figure)


def _cast(texts: Sequence[str]) -> list[tuple[str, Row]]:
    """Labels and personalities, the base model first."""
    rows: list[tuple[str, Row]] = [("base", None)]
    for text in texts:
        personality = parse_personality(text)
        if personality is not None:
            rows.append((text.strip(), personality))
    return rows
