"""Find personality neurons: let a model answer as people of all poles and count what fires while it writes.

The prompts follow NPTI (arXiv 2410.12327): for each question one persona of the pole drawn at random, chat template, greedy
decoding with a repetition penalty, statistics on decode tokens only. Unlike there, all poles are answered in one pass, both
poles of a trait mixed in every batch; their tokens count in different rows of one table.

Why: docs/decisions.md, "What the search counted once too often".
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.accelerate import input_device
from dpg_fast.neurons.checkpoint import Checkpoint, identity
from dpg_fast.neurons.selection import SelectionRule, select_all
from dpg_fast.neurons.statistics import ActivationCounter, PoleStatistics, table_bytes
from dpg_fast.neurons.table import SteeringTable
from dpg_fast.neurons.tap import DecodeTap, steps_together
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.answers import write_tokens
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import NotedProgress

PERSONA_PROMPT = (
    "{description}\n\nAnswer as this person would, in the first person. Let the views, the mood and the tone be theirs. "
    "Keep it to a few sentences."
)


@dataclass(frozen=True)
class SearchSettings:
    """How answers are generated and neurons chosen.

    NPTI used batches of 32, at most 500 new tokens and a repetition penalty of 1.1.

    Args:
        batch_size: answers generated side by side.
        max_new_tokens: length of each answer.
        repetition_penalty: of ``generate``.
        seed: draws the persona of each question.
        means: collect the mean activation of each answer, for effect sizes; costs another 3% of the time on a CPU.
        selection: which neurons are chosen; may differ between runs that share a checkpoint.
        dense_only: accept a mixture of experts, and search the neurons of its shared experts alone.
    """

    batch_size: int = 32
    max_new_tokens: int = 64
    repetition_penalty: float = 1.1
    seed: int = 0
    means: bool = False
    selection: SelectionRule = field(default_factory=SelectionRule)
    dense_only: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise DPGError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.selection.criterion == "effect" and not self.means:
            raise DPGError("the effect criterion needs means=True")

    def generation(self) -> dict[str, Any]:
        """The settings that the statistics depend on."""
        return {name: value for name, value in asdict(self).items() if name not in ("selection", "dense_only")}


@dataclass(frozen=True)
class Job:
    """One answer to be generated: in whose persona, and the finished prompt."""

    pole: Pole
    prompt: str


def search_memory(
    num_layers: int, intermediate: int, answers: Mapping[Pole, int], settings: SearchSettings, dtype: torch.dtype
) -> int:
    """Bytes that a search takes besides the model: tables, the gates that wait, the running sums of one batch's answers.

    Args:
        num_layers: L.
        intermediate: I, neurons per layer.
        answers: how many will be given as each pole.
        settings: of the search.
        dtype: of the model.
    """
    most = max(answers.values()) * settings.max_new_tokens
    tables = table_bytes(num_layers, intermediate, len(answers), most, settings.means)
    batch = num_layers * intermediate * settings.batch_size
    window = steps_together(num_layers, intermediate, settings.batch_size, settings.max_new_tokens, dtype)
    return tables + batch * window * dtype.itemsize + (batch * 4 if settings.means else 0)


def collect_statistics(
    model: Any,
    tokenizer: Any,
    questions: Mapping[Trait, Sequence[str]],
    descriptions: Mapping[Pole, Sequence[str]],
    settings: SearchSettings | None = None,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 16,
    progress: NotedProgress | None = None,
) -> dict[Pole, PoleStatistics]:
    """Generate persona-prompted answers for both poles of every trait in ``questions`` and count activations.

    Args:
        model: a supported Hugging Face causal LM, bare.
        tokenizer: its tokenizer, with a chat template.
        questions: for each trait, asked under both poles.
        descriptions: persona paragraphs for both poles of each of these traits; one is drawn for each question.
        settings: generation settings.
        checkpoint: a directory that a killed run continues from, and that keeps the statistics of a finished one. Made for
            one model, one set of texts and generation settings: a different search there is refused.
        checkpoint_every: batches between two writes there.
        progress: called before the first batch and after each; the note has the decode tokens a second.

    Raises:
        ValueError: texts are missing, or the checkpoint belongs to another search.
    """
    settings = settings or SearchSettings()
    poles = [pole for pole in POLES if pole.trait in questions]
    _require_texts(poles, questions, descriptions)
    store = None
    if checkpoint is not None:
        store = Checkpoint(checkpoint, identity(model, questions, descriptions, settings.generation()))
        finished = store.finished(poles)
        if finished is not None:
            return finished
    jobs = make_jobs(tokenizer, poles, questions, descriptions, settings)
    architecture = find_architecture(model, dense_only=settings.dense_only)
    counter = ActivationCounter(
        architecture.num_layers,
        architecture.intermediate,
        len(poles),
        act=architecture.act or "identity",
        max_tokens=max(len(questions[pole.trait]) for pole in poles) * settings.max_new_tokens,
        means=settings.means,
        device=input_device(model),
    )
    done = 0 if store is None else store.resume(counter)
    before, started = int(counter.tokens.sum()), time.perf_counter()

    def report() -> None:
        if progress is not None:
            rate = (int(counter.tokens.sum()) - before) / (time.perf_counter() - started)
            progress("answers", done, len(jobs), f"{rate:,.0f} tokens/s" if rate else "")

    report()
    sizes = (architecture.num_layers, architecture.intermediate, settings.batch_size, settings.max_new_tokens)
    tap = DecodeTap(
        model,
        architecture,
        counter,
        end_tokens(model, tokenizer),
        steps_together(*sizes, next(iter(model.parameters())).dtype),
    )
    batches = 0
    while done < len(jobs):
        batch = jobs[done : done + settings.batch_size]
        slots = torch.tensor([poles.index(job.pole) for job in batch], dtype=torch.int32)
        write_tokens(
            model,
            tokenizer,
            [job.prompt for job in batch],
            watch=partial(tap.watch, slots=slots.to(input_device(model))),
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
        )
        done += len(batch)
        batches += 1
        if store is not None and batches % checkpoint_every == 0 and done < len(jobs):
            store.save(counter, done)
        report()
    statistics = {pole: counter.finish(slot) for slot, pole in enumerate(poles)}
    if store is not None:
        store.finish(statistics)
    return statistics


def search_neurons(
    model: Any,
    tokenizer: Any,
    questions: Mapping[Trait, Sequence[str]],
    descriptions: Mapping[Pole, Sequence[str]],
    settings: SearchSettings | None = None,
    **options: Any,
) -> SteeringTable:
    """Search the neurons of every trait in ``questions`` and build the steering table.

    Arguments and errors: as :func:`collect_statistics` and :func:`dpg_fast.neurons.selection.select_all`.
    """
    settings = settings or SearchSettings()
    statistics = collect_statistics(model, tokenizer, questions, descriptions, settings, **options)
    layers, width = next(iter(statistics.values())).positive.shape
    origin: dict[str, Any] = {
        "made_by": "search",
        "settings": asdict(settings),
        "questions": {trait.value: len(questions[trait]) for trait in questions},
        "decode_tokens": {str(pole): found.tokens for pole, found in statistics.items()},
    }
    if settings.dense_only:
        origin["dense_only"] = True
    return SteeringTable(select_all(statistics, settings.selection), layers, width, origin)


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    configured = model.generation_config.eos_token_id
    tokens = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return {token for token in tokens if token is not None}


def _require_texts(
    poles: Sequence[Pole], questions: Mapping[Trait, Sequence[str]], descriptions: Mapping[Pole, Sequence[str]]
) -> None:
    if not poles or not all(questions[pole.trait] for pole in poles):
        raise DPGError("a search needs at least one trait, and at least one question for each")
    missing = [str(pole) for pole in poles if not descriptions.get(pole)]
    if missing:
        raise DPGError(f"descriptions are missing for {', '.join(missing)}")


def make_jobs(
    tokenizer: Any,
    poles: Sequence[Pole],
    questions: Mapping[Trait, Sequence[str]],
    descriptions: Mapping[Pole, Sequence[str]],
    settings: SearchSettings,
) -> list[Job]:
    """Every question under every pole, trait by trait; prompts of like length are side by side, the longest first.

    A batch holds few poles on purpose: the tables of two stay in a CPU's cache for longer than those of ten.
    """
    # Trait first, then length across both of its poles: a batch mixes the two, has little padding, and counts in two tables.
    jobs = []
    for pole in poles:
        draw = random.Random(settings.seed * 10 + pole.index)
        for question in questions[pole.trait]:
            persona = PERSONA_PROMPT.format(description=draw.choice(list(descriptions[pole])))
            jobs.append(Job(pole, chat_prompt(tokenizer, [{"role": "user", "content": question}], system=persona)))
    return sorted(jobs, key=lambda job: (job.pole.trait.position, -len(job.prompt)))
