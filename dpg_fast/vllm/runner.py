"""The V1 model runner: before each step the slots of its tokens are written."""

from __future__ import annotations

import functools
from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from dpg_fast.personality.row import Row
from dpg_fast.serving.admission import read_request
from dpg_fast.serving.slots import SlotPool, StepPart
from dpg_fast.vllm.front import KEY

__all__ = ["State", "patch_runner", "state_of"]

ATTRIBUTE = "dpg_fast"  # of a model


class State:
    """What a model with personalities is given for each step.

    Args:
        pool: slots.
        steer_prompt: whether the tokens of prompts are steered, too.
    """

    def __init__(self, pool: SlotPool, steer_prompt: bool) -> None:
        self.pool, self._steer_prompt = pool, steer_prompt
        self._rows: dict[str, Row | None] = {}

    def step(self, runner: Any, tokens: Any) -> None:
        """Write the slots of a step; ``tokens`` int32 [requests], in the order of the runner's batch."""
        batch, known = runner.input_batch, self._rows
        rows: dict[str, Row | None] = {}
        parts: list[StepPart] = []
        for index, request in enumerate(batch.req_ids):
            row = known[request] if request in known else self._read(runner.requests[request])
            rows[request] = row
            count = int(tokens[index])
            left = 0
            if row is not None and not self._steer_prompt:
                left = int(batch.num_prompt_tokens[index]) - int(batch.num_computed_tokens_cpu[index])
            parts.append(StepPart(row, count, min(max(left, 0), count)))
        self._rows = rows
        self.pool.place(parts)

    @staticmethod
    def _read(request: Any) -> Row | None:
        params = request.sampling_params
        extra = None if params is None else params.extra_args
        return read_request(extra[KEY]) if extra and extra.get(KEY) is not None else None


def state_of(model: Any) -> State | None:
    """The state of a model that the plugin's loader has loaded; None of any other."""
    return getattr(model, ATTRIBUTE, None)


def patch_runner() -> None:
    """Wrap the method that runs once before each step's forward, when the order of its requests is settled."""
    prepare = GPUModelRunner._prepare_inputs

    @functools.wraps(prepare)
    def _prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        state = state_of(self.get_model())
        if state is not None:
            state.step(self, num_scheduled_tokens)
        return prepare(self, scheduler_output, num_scheduled_tokens)

    GPUModelRunner._prepare_inputs = _prepare_inputs
