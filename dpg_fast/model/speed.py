"""Time one decode step of several ways to run a model, in turn, in one process.

Machines drift, so ways are timed alternately and compared round by round; the ratio is what to quote.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

#: one timed ``generate`` call; it must pass the criteria on
Generate = Callable[[StoppingCriteriaList], object]


class StepClock(StoppingCriteria):
    """Notes the time after every generated token; never stops anything."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def steps(self) -> list[float]:
        """Seconds of each decode step; the prompt's own step is left out."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


@dataclass(frozen=True)
class StepTiming:
    """Median seconds of one decode step, and the median over rounds of its ratio to the first way's, with the range."""

    seconds: float
    ratio: float
    lowest: float
    highest: float


def compare_steps(ways: Mapping[str, Generate], rounds: int) -> dict[str, StepTiming]:
    """Time each way once a round, in an order that alternates between forward and backward; one warm-up round.

    Args:
        ways: name -> generate call; the first is the baseline. All should generate the same number of tokens (at least 3).
        rounds: counted rounds.
    """
    names = list(ways)
    medians: dict[str, list[float]] = {name: [] for name in names}
    everything: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names if turn % 2 == 0 else reversed(names):
            clock = StepClock()
            ways[name](StoppingCriteriaList([clock]))
            if turn:
                everything[name] += clock.steps()
                medians[name].append(statistics.median(clock.steps()))
    result = {}
    for name in names:
        ratios = [own / first for own, first in zip(medians[name], medians[names[0]], strict=True)]
        result[name] = StepTiming(
            statistics.median(everything[name]), statistics.median(ratios), min(ratios), max(ratios)
        )
    return result


def generation(model: Any, inputs: Mapping[str, Tensor], new_tokens: int, **kwargs: Any) -> Generate:
    """A greedy ``generate`` call of exactly ``new_tokens`` tokens."""

    def run(criteria: StoppingCriteriaList) -> object:
        return model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            stopping_criteria=criteria,
            **kwargs,
        )

    return run


def twin(model: Any) -> Any:
    """Another module tree on the same weights.

    Copies of the weights are not fair rivals of each other: where they lie in memory changed the time of a decode step by up
    to 14%, in favour of now one and now the other.
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def peft_rival(model: Any, adapters: Sequence[str], rank: int, targets: Sequence[str], seed: int = 0) -> Any:
    """``model`` wrapped by PEFT with random LoRA ``adapters`` of ``rank`` on the modules called ``targets``.

    The adapters have the model's dtype; PEFT itself would keep those of a half-precision model in float32.

    Raises:
        ImportError: PEFT is not installed.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), init_lora_weights=False)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads an attribute that transformers is renaming
        wrapped = get_peft_model(model, config, adapter_name=adapters[0])
    for name in adapters[1:]:
        wrapped.add_adapter(name, config)
    return wrapped.to(model.dtype).eval()
