"""A real tokenizer and a real model's answers to a few items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dpg_fast.questionnaire.administer import administer, encode_with_options
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import AdministrationSettings, Respondent


def test_a_small_chat_model_answers_with_an_option(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    for prefill in ("", "My answer is"):
        ids, before, options = encode_with_options(tokenizer, "<|im_start|>assistant\n", prefill, "ABCDE")
        assert before == 4 and (len(ids) > before) == bool(prefill)
        assert tokenizer.decode(options).replace(" ", "") == "ABCDE"
    inventory = replace(bundled_inventory(), items=bundled_inventory().items[:4])
    people = [Respondent("base"), Respondent("told", system="You are a cheerful person who loves company.")]
    forms = make_forms(inventory, 2)
    session = administer(model, tokenizer, inventory, people, forms)
    assert min(answer.mass for answer in session.answers.values() if answer.mass is not None) > 0.3
    alone = administer(model, tokenizer, inventory, people, forms, AdministrationSettings(batch_size=1))
    assert np.allclose(session.ratings(), alone.ratings(), atol=1e-3)
    assert np.abs(session.ratings()[0] - session.ratings()[1]).max() > 0.01  # the system text counts
