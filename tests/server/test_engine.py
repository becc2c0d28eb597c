"""Many requests with as many personalities in one running batch: each gets exactly what it gets alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from dpg_fast import PersonalityModel
from dpg_fast.hypernet.wording import reference_people
from dpg_fast.personality.row import Row, read_row
from dpg_fast.server.engine import BatchEngine, Job, Limits
from dpg_fast.server.sampling import Chosen
from tests.model.test_wrapper import personality_model
from tests.model.tiny import tiny_model

SMALL_LIMITS = Limits(running=64, waiting=8, step_tokens=48, cache_tokens=8192)


class Answers:
    """Sends jobs and waits for their answers."""

    def __init__(self, engine: BatchEngine) -> None:
        self.engine = engine
        self.tokens: dict[str, list[Chosen]] = {}
        self.errors: dict[str, str | None] = {}
        self._events: dict[str, threading.Event] = {}

    def send(self, name: str, prompt: list[int], row: Row | None, new: int = 12, **more: Any) -> None:
        self.tokens[name], self._events[name] = [], threading.Event()

        def ended(error: str | None) -> None:
            self.errors[name] = error
            self._events[name].set()

        self.engine.submit_all(
            [Job(name, prompt, row, new, more.pop("eos", []), self.tokens[name].append, ended, **more)]
        )

    def of(self, name: str) -> list[int]:
        assert self._events[name].wait(120), f"{name} has not ended"
        return [chosen.token for chosen in self.tokens[name]]


def alone(model: PersonalityModel, prompt: list[int], row: Row | None, new: int) -> list[int]:
    """What ``generate`` gives for one request by itself."""
    ids = torch.tensor([prompt])
    output = model.generate(ids, personality=row, max_new_tokens=new, do_sample=False, eos_token_id=None)
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_sixty_four_personalities_get_what_each_gets_alone(family: str) -> None:
    model = personality_model(tiny_model(family))
    rows: list[Row | None] = [read_row(person) for person in reference_people(64)]
    rows[7] = rows[40] = None
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, 95, (5 + 7 * number % 90,), generator=generator).tolist() for number in range(64)]
    news = [3 + number % 14 for number in range(64)]
    expected = [alone(model, *job) for job in zip(prompts, rows, news, strict=True)]
    assert len({tuple(e) for e in expected}) > 60
    engine = BatchEngine(model, SMALL_LIMITS)
    answers = Answers(engine)
    try:
        for number, job in enumerate(zip(prompts, rows, news, strict=True)):
            answers.send(str(number), *job)
        found = [answers.of(str(number)) for number in range(64)]
    finally:
        engine.stop()
    assert found == expected
    assert set(answers.errors.values()) == {None}
    assert len(engine) == 0
