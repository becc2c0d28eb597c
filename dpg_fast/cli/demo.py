"""``dpg-fast demo``: one question, several people in one batch, in three ways; judged, timed and plotted. No network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dpg_fast.cli.demo_display import DemoRow, answers_table, plot, speed_table
from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.judges.choice import fast_dtype
from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.model import PersonalityModel, loading
from dpg_fast.model.disk import artifact
from dpg_fast.model.layers.changes import NoEffectError
from dpg_fast.model.speed import StepTiming, compare_steps, generation, peft_rival, twin
from dpg_fast.personality.row import RowItem
from dpg_fast.personality.scores import MAX_SCORE, Personality, parse_personality
from dpg_fast.text.answers import NEUTRAL_SYSTEM as SYSTEM
from dpg_fast.text.answers import AnswerSettings, greedy_answers
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED, BUNDLED_HYPERNET
from dpg_fast.util.smollm2 import load_smollm2
from dpg_fast.util.words import counted

QUESTION = "Your friends have planned a big party for tonight and you only just found out. What do you do?"
PEOPLE = ("E+5", "E-5", "N+5", "A-5", "C+5", "O+5 E+3")
RANK = 8
TIMED = 12  # tokens of a timed call
ENOUGH = 16  # tokens after which a person at an end of a trait has said something else than the base model
NEURONS, HYPERNETWORK, BOTH, ALL = "neurons", "hypernetwork", "both", "all"
WAYS = (NEURONS, HYPERNETWORK, BOTH)
ADAPTERS = {NEURONS: BUNDLED, HYPERNETWORK: BUNDLED_HYPERNET, BOTH: loading.BOTH}
TITLES = {
    NEURONS: "Neurons: one batch, one forward pass a token, a personality for each row",
    HYPERNETWORK: "Hypernetwork: the same batch, LoRA weights generated for each row",
    BOTH: "Hypernetwork and neurons together",
}


def adapter_directory() -> Path:
    """Where the steering table for SmolLM2-135M-Instruct that comes with the package lies."""
    return artifact.packaged("smollm2")


def hypernet_directory() -> Path:
    """Where the hypernetwork for SmolLM2-135M-Instruct that comes with the package lies (``recipes/smollm2_cpu.yaml``)."""
    return artifact.packaged("smollm2-hypernet")


def load_demo_model(way: str = NEURONS) -> tuple[PersonalityModel, Any]:
    """SmolLM2-135M-Instruct with what comes with the package ("neurons", "hypernetwork" or "both"), and its tokenizer."""
    base, tokenizer = load_smollm2()
    return give_personality(base, way), tokenizer


def give_personality(base: Any, way: str) -> PersonalityModel:
    """A bare SmolLM2-135M-Instruct with the shipped neurons, the shipped hypernetwork, or both.

    Raises:
        DPGError: another way.
    """
    _check_way(way, WAYS)
    return loading.wrap(base, BUNDLED, ADAPTERS[way])


def _check_way(way: str, accepted: Sequence[str]) -> None:
    if way not in accepted:
        raise DPGError(f"unknown way {way!r}; accepted: {', '.join(accepted)}")


def run_demo(
    question: str | None,
    personalities: Sequence[str] | None,
    max_new_tokens: int,
    output: Path,
    speed: bool,
    way: str = ALL,
) -> list[DemoRow]:
    """Answer, judge, print, plot and time; what the command does.

    Args:
        question: asked of everybody; the default question if None.
        personalities: as strings, "base" for the bare model; a default cast if None. The base always comes first.
        max_new_tokens: length of each answer.
        output: PNG file of the scores.
        speed: whether to time decode steps.
        way: "neurons", "hypernetwork", "both", or "all" three, one after the other.

    Returns:
        Everybody, the base first, then the people of each way.

    Raises:
        ValueError: an unreadable personality, an empty question, an unknown way, or an output that is not a PNG file.
        RuntimeError: a check of the model failed, or somebody with a score at an end said what the base model says.
    """
    question = QUESTION if question is None else question.strip()
    if not question:
        raise DPGError("the question is empty")
    if output.suffix.lower() != ".png":
        raise DPGError(f"the picture is written as PNG; {output} does not end in .png")
    _check_way(way, (*WAYS, ALL))
    rows = _cast(personalities or PEOPLE)
    ways = WAYS if way == ALL else (way,)
    console = Console()
    started = time.perf_counter()
    base, tokenizer = load_smollm2()
    console.print(f"SmolLM2-135M-Instruct, loaded in {time.perf_counter() - started:.1f} s")
    console.print(f"[bold]{question}[/bold]\n")
    said: list[tuple[str, str, RowItem, str]] = []
    settings = AnswerSettings(SYSTEM, max_new_tokens)
    for number, name in enumerate(ways):
        model = give_personality(base, name)
        people = rows if number == 0 else rows[1:]  # the base says the same in each
        texts = greedy_answers(model, tokenizer, [question] * len(people), settings, personality=[r for _, r in people])
        said += [(name, label, row, text) for (label, row), text in zip(people, texts, strict=True)]
        if name == ways[-1]:  # of all three, both together, whose parts are checked one by one
            console.print(check(model, tokenizer), style="dim")
        base = model.unload()
    judge = demo_judge(base, tokenizer)
    judgements = judge.judge(question, [text for *_, text in said])
    everybody = [DemoRow(*one, judgement) for one, judgement in zip(said, judgements, strict=True)]
    for name in ways:
        console.print(answers_table([person for person in everybody if person.way == name], TITLES[name]))
    if max_new_tokens >= ENOUGH:
        require_effect(everybody)
    console.print(judge.describe(), style="dim")
    plot(everybody, question, output)
    console.print(f"\nScores drawn in {output}")
    if speed:
        console.print()
        console.print(speed_table(measure(give_personality(base, NEURONS), tokenizer, question)))
    console.print(f"Done in {time.perf_counter() - started:.0f} s")
    return everybody


def check(model: PersonalityModel, tokenizer: Any) -> str:
    """What the quick `PersonalityModel.verify` found, in one line.

    Raises:
        RuntimeError: a check failed.
    """
    started = time.perf_counter()
    found = model.verify(tokenizer=tokenizer, quick=True).require()
    passed = f"{counted(len(found.checks), 'check')} passed in {time.perf_counter() - started:.0f} s"
    return f"{passed}: every trait acts, rows do not mix, None is the bare model, unload is exact (dpg-fast verify)\n"


def require_effect(people: Sequence[DemoRow]) -> None:
    """Raises NoEffectError when somebody who was asked for an end of a trait (5 or -5) says what the base model says."""
    base = next(person.answer for person in people if person.personality is None)
    same = [
        f"{person.label} ({person.way})"
        for person in people
        if isinstance(person.personality, Personality)
        and max(map(abs, person.personality.scores)) == MAX_SCORE
        and person.answer == base
    ]
    if same:
        raise NoEffectError(
            f"no effect: {', '.join(same)} said the same as the base model; `dpg-fast verify` tells what does not act"
        )


def demo_judge(base: Any, tokenizer: Any) -> LikelihoodJudge:
    """The likelihood judge on the bare model, in bfloat16 where the processor multiplies that natively: twice as fast."""
    return LikelihoodJudge(base, tokenizer, autocast=fast_dtype())


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
        "bare model": generation(bare, batch, TIMED),
        f"{rows} personalities, neurons": generation(neurons, batch, TIMED, personality=people),
        f"{rows} personalities, neurons + rank-{RANK} bank": generation(both, batch, TIMED, personality=people),
    }
    try:
        names = [f"row{i}" for i in range(rows)]
        rival = peft_rival(twin(bare), names, RANK, targets)
        ways[f"PEFT, {rows} rank-{RANK} LoRA adapters in one batch"] = generation(
            rival, batch, TIMED, adapter_names=names
        )
    except ImportError:
        pass
    return compare_steps(ways, rounds)


def _cast(texts: Sequence[str]) -> list[tuple[str, RowItem]]:
    """Labels and personalities, the base model first."""
    rows: list[tuple[str, RowItem]] = [("base", None)]
    for text in texts:
        personality = parse_personality(text)
        if personality is not None:
            rows.append((text.strip(), personality))
    return rows
