"""Answers read from the likelihood of whole texts: equal to plain forward passes, one text at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Personality
from dpg_fast.questionnaire.administer import administer
from dpg_fast.questionnaire.analysis import analyse
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import WHOLE_TEXTS, AdministrationSettings, Respondent
from dpg_fast.questionnaire.whole_texts import BLANK, FRAMES, option_question
from dpg_fast.text.prompting import chat_prompt

INVENTORY = replace(bundled_inventory(), items=bundled_inventory().items[:5])
FORMS = make_forms(INVENTORY, 2, seed=4)
PEOPLE = [Respondent("base"), Respondent("E+5", Personality("E+5")), Respondent("told", system="You like rain.")]


@pytest.fixture
def model(tiny_llama: Any) -> PersonalityModel:
    wrapped = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(wrapped.hypernet, HyperNetwork)
    wrapped.hypernet.randomize_(torch.Generator().manual_seed(0))
    return wrapped.eval()


class Plain:
    """Log-likelihood of a text after a prompt, by one unbatched forward pass."""

    def __init__(self, model: Any, tokenizer: Any, person: Respondent) -> None:
        self.model, self.tokenizer, self.person = model, tokenizer, person

    def __call__(self, asked: str, text: str) -> float:
        prompt = chat_prompt(self.tokenizer, [{"role": "user", "content": asked}], system=self.person.system)
        whole = self.tokenizer(prompt + text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        size = len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logp = self.model(whole, personality=self.person.personality).logits[0].double().log_softmax(1)
        return float(logp[size - 1 : -1].gather(1, whole[0, size:, None]).sum())


@pytest.mark.parametrize("method", WHOLE_TEXTS)
def test_ratings_are_those_of_single_texts(model: PersonalityModel, byte_tokenizer: Any, method: Any) -> None:
    settings = AdministrationSettings(method=method, batch_size=7)
    session = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, settings)
    assert len(session.answers) == session.total == 3 * 2 * 5
    form, item, options = FORMS[1], INVENTORY.items[3], INVENTORY.options
    statement = INVENTORY.statement(item)
    for person in PEOPLE:
        said, answer = Plain(model, byte_tokenizer, person), session.answers[person.label, 1, item.id]
        if method in ("text", "pmi"):
            asked = option_question(INVENTORY, form, statement)
            found = np.array([said(asked, option) for option in options])
            if method == "pmi":
                values = found - [said(option_question(INVENTORY, form, BLANK), option) for option in options]
            else:
                values = found / [len(option.encode()) for option in options]
            share = np.exp(values) / np.exp(values).sum()
            assert answer.distribution == pytest.approx(share, rel=1e-3)
            assert answer.rating == pytest.approx(share @ np.arange(1, 6), rel=1e-3)
            assert answer.mass == pytest.approx(np.exp(found).sum(), rel=1e-2, abs=1e-12)
        else:
            true, untrue = FRAMES[1]
            gap = said(true, statement)
            if method == "statement":
                gap -= said(untrue, statement)
            else:
                gap = (gap - Plain(model, byte_tokenizer, Respondent(""))(true, statement)) / len(statement.encode())
            assert answer.rating == pytest.approx(1 + 4 / (1 + math.exp(-gap)), rel=1e-3)
            assert answer.distribution is None
    ratings = session.ratings()
    assert np.abs(ratings[0] - ratings[1]).max() > 1e-4 and np.abs(ratings[0] - ratings[2]).max() > 1e-4
    if method == "shift":
        assert ratings[0] == pytest.approx(np.full((2, 5), 3.0), abs=1e-4)  # the bare model beside itself
    quality = analyse(session, resamples=20)["quality"]
    assert not quality["labels"] and all((value is None) == (distribution_free(method)) for value in quality["places"])


def distribution_free(method: str) -> bool:
    return method in ("statement", "shift")


def test_only_the_text_is_steered_if_asked(model: PersonalityModel, byte_tokenizer: Any) -> None:
    from tests.model.test_wrapper import random_table

    wrapped = PersonalityModel.from_model(model.unload(), steering=random_table(2, 72)).eval()
    people = [Respondent("base"), Respondent("E+5", Personality("E+5"))]
    found = {}
    for steer in ("all", "answer"):
        for size in (1, 16):
            settings = AdministrationSettings(method="text", steer=steer, batch_size=size)
            found[steer, size] = administer(wrapped, byte_tokenizer, INVENTORY, people, FORMS, settings).ratings()
    assert found["answer", 1] == pytest.approx(found["answer", 16], abs=1e-3)
    assert np.abs(found["all", 16][1] - found["answer", 16][1]).max() > 1e-4
    assert found["all", 16][0] == pytest.approx(found["answer", 16][0], abs=1e-3)


def test_a_killed_run_goes_on(model: PersonalityModel, byte_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    settings = AdministrationSettings(method="pmi", batch_size=5)
    whole = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, settings, checkpoint=file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:9]) + "\n")
    seen: list[tuple[int, int]] = []
    again = administer(
        model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, settings, checkpoint=file, progress=lambda *n: seen.append(n)
    )
    assert seen[0] == (8, 30) and seen[-1] == (30, 30)
    assert np.allclose(again.ratings(), whole.ratings(), atol=1e-4)


def test_settings_that_do_not_go_with_it() -> None:
    with pytest.raises(ValueError, match="context and prefill do not go with it"):
        AdministrationSettings(method="text", context=2)
    with pytest.raises(ValueError, match="method is one of logprobs, generate, text"):
        AdministrationSettings(method="guess")  # type: ignore[arg-type]
