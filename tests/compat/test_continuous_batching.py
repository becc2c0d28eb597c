"""What is used of transformers' continuous batching beyond its documented methods is there; run it at both ends of the range."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.generation.continuous_batching import continuous_api, input_outputs, model_runner, requests

from dpg_fast.compat.continuous_batching import ContinuousBatching, PromptPart
from tests.model.tiny import tiny_model


def test_names_that_are_replaced_or_read_are_there() -> None:
    parameters = inspect.signature(input_outputs.ContinuousBatchingIOs.prepare_batch_tensors).parameters
    assert list(parameters)[:2] == ["self", "requests_in_batch"]
    assert list(inspect.signature(model_runner.ModelRunner._sample).parameters) == ["self", "scores", "output_ids"]
    assert list(inspect.signature(continuous_api.ContinuousBatchProcessor._generation_step).parameters) == [
        "self",
        "model",
    ]
    assert {"request_id", "position_offset"} <= set(requests.RequestState.__dataclass_fields__)
    assert {"state", "query_length", "has_new_token"} <= set(requests.FutureRequestState.__slots__)


def test_steps_are_told_whole_and_in_order() -> None:
    steps: list[list[PromptPart]] = []
    over, ended = threading.Event(), {}

    def around(parts: Sequence[PromptPart]) -> Any:
        steps.append(list(parts))
        return nullcontext()

    def sample(ids: Sequence[str], logits: Tensor) -> Tensor:
        assert ids == [part.request for part in steps[-1] if part.samples] and len(logits) == len(ids)
        return logits.argmax(-1)

    def end(request: str, error: str | None) -> None:
        ended[request] = error
        if len(ended) == 2:
            over.set()

    model = tiny_model("llama")
    loop = ContinuousBatching(
        model, requests=4, step_tokens=8, cache_tokens=256, around=around, sample=sample, ended=end
    )
    assert loop.failure == "it was not started, or stopped"
    loop.start()
    assert loop.add("a", list(range(2, 22)), 3, []) and loop.add("b", [5, 6], 4, [])
    assert over.wait(60)
    assert loop._manager.batch_processor.inputs_and_outputs.attention_mask is None  # of all tokens with all keys
    loop.stop(finish=True, timeout=30)
    assert model.config._attn_implementation == "sdpa"
    assert ended == {"a": None, "b": None} and not loop.add("c", [1], 1, [])
    for request, prompt, new in (("a", 20, 3), ("b", 2, 4)):
        parts = [part for step in steps for part in step if part.request == request]
        assert [part.before for part in parts] == [sum(p.tokens for p in parts[:n]) for n in range(len(parts))]
        assert sum(part.tokens for part in parts) == prompt + new - 1 and sum(part.samples for part in parts) == new
    assert max(sum(part.tokens for part in step) for step in steps) <= 8


def test_a_fault_in_a_step_ends_the_loop_and_says_so() -> None:
    over, ended = threading.Event(), {}

    def around(parts: Sequence[PromptPart]) -> Any:
        raise ZeroDivisionError("on purpose")

    def end(request: str, error: str | None) -> None:
        ended[request] = error
        over.set()

    loop = ContinuousBatching(
        tiny_model("llama"),
        requests=4,
        step_tokens=8,
        cache_tokens=256,
        around=around,
        sample=lambda ids, logits: torch.zeros(len(ids), dtype=torch.long),
        ended=end,
    )
    loop.start()
    loop.add("a", [2, 3], 3, [])
    assert over.wait(60) and "on purpose" in str(ended["a"])
    loop.stop(finish=False, timeout=30)
    assert loop.failure == "ZeroDivisionError: on purpose"
