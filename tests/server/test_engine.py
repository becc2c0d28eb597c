"""Many requests with as many personalities in one running batch: each gets exactly what it gets alone."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch

from dpg_fast import PersonalityModel
from dpg_fast.hypernet.wording import reference_people
from dpg_fast.model.loading import BOTH, wrap
from dpg_fast.personality.row import Row, read_row
from dpg_fast.server.engine import BatchEngine, BatchJob, Busy, EngineLimits
from dpg_fast.server.sampling import Chosen, TokenSampling
from dpg_fast.text.assets import load_questions
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError
from tests.model.test_wrapper import personality_model
from tests.model.tiny import tiny_model

SMALL_LIMITS = EngineLimits(running=64, waiting=8, step_tokens=48, cache_tokens=8192)


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
            [BatchJob(name, prompt, row, new, more.pop("eos", []), self.tokens[name].append, ended, **more)]
        )

    def of(self, name: str) -> list[int]:
        assert self._events[name].wait(120), f"{name} has not ended"
        return [chosen.token for chosen in self.tokens[name]]


def alone(model: PersonalityModel, prompt: list[int], row: Row | None, new: int) -> list[int]:
    """What ``generate`` gives for one request by itself."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)  # or what equals the padding token would be left out
    output = model.generate(
        ids, attention_mask=mask, personality=row, max_new_tokens=new, do_sample=False, eos_token_id=None
    )
    return output[0, len(prompt) :].tolist()


def compare(model: PersonalityModel, prompts: list[list[int]], news: list[int], limits: EngineLimits) -> None:
    """64 jobs at once against each alone."""
    rows: list[Row | None] = [read_row(person) for person in reference_people(64)]
    rows[7] = rows[40] = None
    jobs = list(zip(prompts, rows, news, strict=True))
    expected = [alone(model, *job) for job in jobs]
    assert len({tuple(tokens) for tokens in expected}) > 60
    engine = BatchEngine(model, limits)
    answers = Answers(engine)
    try:
        for number, job in enumerate(jobs):
            answers.send(str(number), *job)
        found = [answers.of(str(number)) for number in range(64)]
        assert engine.failure is None
    finally:
        engine.stop()
    assert found == expected
    assert set(answers.errors.values()) == {None}
    assert len(engine) == 0 and engine.failure is not None


@pytest.mark.parametrize("family", ["llama", pytest.param("phi3", marks=pytest.mark.slow)])
def test_sixty_four_personalities_get_what_each_gets_alone(family: str) -> None:
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, 95, (5 + 7 * n % 90,), generator=generator).tolist() for n in range(64)]
    compare(personality_model(tiny_model(family)), prompts, [3 + n % 10 for n in range(64)], SMALL_LIMITS)


@pytest.mark.slow
def test_sixty_four_personalities_of_smollm2_get_what_each_gets_alone(smollm2: tuple[Any, Any]) -> None:
    base, tokenizer = smollm2
    model = wrap(copy.deepcopy(base), "smollm2", BOTH)
    texts = [question.question for question in load_questions()][:64]
    prompts = [tokenizer(chat_prompt(tokenizer, [{"role": "user", "content": t}]))["input_ids"] for t in texts]
    compare(model, prompts, [8] * 64, EngineLimits(step_tokens=256))


def test_a_full_cache_recomputes_and_changes_nothing() -> None:
    model = personality_model(tiny_model("llama"))
    rows = [read_row(person) for person in reference_people(6)]
    prompts = [list(range(2 + n, 32 + n)) for n in range(6)]
    expected = [alone(model, prompt, row, 60) for prompt, row in zip(prompts, rows, strict=True)]
    engine = BatchEngine(model, EngineLimits(running=6, waiting=0, step_tokens=64, cache_tokens=256))
    answers = Answers(engine)
    try:
        for number in range(6):
            answers.send(str(number), prompts[number], rows[number], 60)
        assert [answers.of(str(number)) for number in range(6)] == expected
        with pytest.raises(DPGError, match="context holds 256 tokens"):
            answers.send("long", prompts[0], None, 227)
    finally:
        engine.stop()


def test_cancelled_jobs_are_told_nothing_and_others_go_on() -> None:
    model = personality_model(tiny_model("llama"))
    row = read_row("E+5 N-2")
    expected = alone(model, [5, 6, 7], row, 40)
    engine = BatchEngine(model, EngineLimits(running=4, waiting=4, step_tokens=64, cache_tokens=1024))
    answers = Answers(engine)
    try:
        for number in range(7):
            answers.send(f"gone {number}", [2, 3, 4 + number], read_row("N+5"), 200)
        answers.send("kept", [5, 6, 7], row, 40)
        with pytest.raises(Busy):
            answers.send("one more", [2], None)
        for number in range(7):
            engine.cancel(f"gone {number}")
        assert answers.of("kept") == expected
        assert set(answers.errors) == {"kept"} and len(engine) == 0
    finally:
        engine.stop()


def test_draws_depend_on_the_own_seed_alone() -> None:
    model = personality_model(tiny_model("llama"))
    engine = BatchEngine(model, SMALL_LIMITS)
    answers = Answers(engine)
    try:
        for turn in range(2):
            for number in range(8 * turn + 1):
                answers.send(
                    f"{turn} {number}", [5, 6, 7], read_row("E+3"), 20, sampling=TokenSampling(1.3, 0.9, seed=number)
                )
        assert answers.of("0 0") == answers.of("1 0") != answers.of("1 1")
    finally:
        engine.stop()
