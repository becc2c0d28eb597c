"""The shipped neurons on the real model, with questions that they were not searched on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast import Personality, PersonalityModel, Trait
from dpg_fast.cli.demo import SYSTEM, adapter_directory, hypernet_directory
from dpg_fast.judges.choice import fast_dtype
from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.text.assets import load_questions
from dpg_fast.text.prompting import chat_prompt, encode_prompts
from dpg_fast.util.stats import bootstrap

PEOPLE = [Personality("E+5"), None, Personality("N+4 A-3"), Personality("C-5"), None, Personality("O5C3E1A-1N-5")]


@pytest.fixture(scope="module")
def model(smollm2: tuple[Any, Any]) -> Iterator[PersonalityModel]:
    wrapped = PersonalityModel.load(copy.deepcopy(smollm2[0]), adapter_directory())
    yield wrapped
    wrapped.unload()


def batch(tokenizer: Any, rows: int) -> Any:
    asked = [question.question for question in load_questions(split="holdout")][:: 60 // rows][:rows]
    prompts = [chat_prompt(tokenizer, [{"role": "user", "content": text}], system=SYSTEM) for text in asked]
    return encode_prompts(tokenizer, prompts)


@pytest.mark.slow
def test_greedy_tokens_in_a_mixed_batch(model: PersonalityModel, smollm2: tuple[Any, Any]) -> None:
    bare, tokenizer = smollm2
    inputs = batch(tokenizer, len(PEOPLE))
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 24}
    expected = bare.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch.equal(model.generate(**inputs, **options, personality=None), expected)
    mixed = model.generate(**inputs, **options, personality=PEOPLE)
    length = inputs["input_ids"].shape[1]
    for row, person in enumerate(PEOPLE):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        single = model.generate(**alone, **options, personality=person)[0]
        end = length + int((mixed[row, length:] != tokenizer.pad_token_id).sum())
        assert torch.equal(single[:end], mixed[row, :end]), f"row {row} depends on its neighbours"
        if person is None:
            assert torch.equal(mixed[row], expected[row])
        else:
            assert not torch.equal(mixed[row], expected[row]), f"{person} changes nothing"


def test_the_shipped_hypernetwork_makes_opposite_people_prefer_their_own_words(smollm2: tuple[Any, Any]) -> None:
    wrapped = PersonalityModel.load(copy.deepcopy(smollm2[0]), hypernet_directory())
    tokenizer = smollm2[1]
    asked = [{"role": "user", "content": "Friends ask you to a loud party tonight. What do you say?"}]
    prompt = chat_prompt(tokenizer, asked, system=SYSTEM)
    answers = [
        "I would love to come, I can't wait to dance with everybody!",
        "I would rather stay at home alone with a book.",
    ]
    start = len(tokenizer(prompt)["input_ids"])

    def log_probability(answer: str, person: str) -> float:
        ids = tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = wrapped(input_ids=ids, personality=person).logits[0, start - 1 : -1].log_softmax(-1)
        return float(logits.gather(1, ids[0, start:, None]).sum())

    lively, shy = ([log_probability(answer, person) for answer in answers] for person in ("E+5", "E-5"))
    assert lively[0] - lively[1] > shy[0] - shy[1] + 5


@pytest.mark.slow
def test_both_poles_of_every_trait_move_the_judge(model: PersonalityModel, smollm2: tuple[Any, Any]) -> None:
    """On held-back questions; intervals are printed (pytest -s) and must exclude zero where they did when measured."""
    bare, tokenizer = smollm2
    judge = LikelihoodJudge(bare, tokenizer, autocast=fast_dtype())
    for trait in Trait:
        asked = [q.question for q in load_questions(trait, "holdout")] * 2
        people = [Personality({trait.value: level}) for level in (5, -5) for _ in asked[::2]]
        options = {"max_new_tokens": 48, "do_sample": False, "repetition_penalty": 1.1}
        texts = model.chat(asked, personality=people, tokenizer=tokenizer, system=SYSTEM, **options)
        judged = judge.judge_all(list(zip(asked, texts, strict=True)), traits=[trait])
        high, low = np.array([j.scores.get(trait, np.nan) for j in judged]).reshape(2, -1)
        scored = (high - low)[~np.isnan(high - low)]  # an empty answer has no score
        difference = bootstrap(lambda rows, scored=scored: scored[rows].mean(), len(scored))
        print(f"{trait.value}: {np.nanmean(high):+.2f} against {np.nanmean(low):+.2f}, difference {difference}")
        assert difference.low > 0
