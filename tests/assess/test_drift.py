"""Drift: a scripted chat judged turn by turn."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dpg_fast.assess.drift import USER_TURNS, measure_drift, slopes
from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.model import PersonalityModel
from dpg_fast.personality import Personality, Trait


@dataclass
class Found:
    scores: dict[Trait, float]
    reason: str | None = None


class LengthJudge:
    """Reads extraversion off the answer's length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def judge_all(self, pairs: Sequence[tuple[str, str]], *, traits: Any = None, progress: Any = None) -> list[Found]:
        self.pairs = list(pairs)
        return [Found({Trait.EXTRAVERSION: len(answer) % 10 - 5.0}) for _, answer in pairs]

    def judge(self, question: str, answers: Sequence[str], *, traits: Any = None) -> list[Found]:
        return self.judge_all([(question, answer) for answer in answers])

    def describe(self) -> str:
        return "a stand-in"


def test_every_turn_is_answered_in_the_conversation_and_judged(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch_generator())
    judge = LengthJudge()
    turns = ("Hi?", "And then?", "So?")
    people = [("base", None), ("loud", Personality("E+5")), ("text", "E-5")]
    found = measure_drift(model, byte_tokenizer, judge, people, turns=turns, max_new_tokens=6, resamples=50)
    assert judge.pairs == [(turn, found.answers[p][t]) for p in range(3) for t, turn in enumerate(turns)]
    assert found.scores.shape == (3, 3, 5) and np.isnan(found.scores[:, :, 0]).all()
    assert set(found.slopes) == {Trait.EXTRAVERSION}
    # the third answer of the second person, generated alone from the conversation so far
    said = found.answers[1]
    chat = [
        {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": said[0]},
        {"role": "user", "content": "And then?"}, {"role": "assistant", "content": said[1]},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    alone = model.chat(
        chat, personality="E+5", tokenizer=byte_tokenizer, max_new_tokens=6, do_sample=False, repetition_penalty=1.1
    )
    assert alone == said[2]
    gaps = np.abs(found.scores[1:, :, 2] - np.array([[5], [-5]])).mean(axis=0)
    assert found.distances == pytest.approx(gaps)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["scores"][0][0][0] is None
    text = io.StringIO()
    Console(file=text, width=120).print(found.table())
    assert "extraversion" in text.getvalue()


def torch_generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def test_slopes_find_a_trend_and_its_uncertainty() -> None:
    rng = np.random.default_rng(0)
    scores = np.full((6, 10, 5), math.nan)
    scores[:, :, 0] = 0.3 * np.arange(10) - 1
    scores[:, :, 4] = rng.normal(size=(6, 10))
    scores[2, 3, 0] = math.nan
    found = slopes(scores, resamples=200)
    assert set(found) == {Trait.OPENNESS, Trait.NEUROTICISM}
    assert found[Trait.OPENNESS].estimate == pytest.approx(0.3) == pytest.approx(found[Trait.OPENNESS].low)
    assert found[Trait.NEUROTICISM].low < found[Trait.NEUROTICISM].estimate < found[Trait.NEUROTICISM].high
    single = slopes(scores[:1], resamples=200)[Trait.NEUROTICISM]
    assert (
        single.estimate == pytest.approx(np.polyfit(np.arange(10), scores[0, :, 4], 1)[0]) and single.low < single.high
    )


def test_drift_needs_people_and_turns(tiny_llama: Any, byte_tokenizer: Any) -> None:
    assert len(USER_TURNS) == len(set(USER_TURNS)) >= 10
    model = PersonalityModel.from_model(tiny_llama)
    with pytest.raises(ValueError, match="two turns"):
        measure_drift(model, byte_tokenizer, LengthJudge(), [("a", None)], turns=["Hi"])
