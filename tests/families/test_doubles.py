"""Names that another release might change: the wrapped model is right, or an error says why not."""

from __future__ import annotations

import pytest
import torch

from dpg_fast.architecture.layers import UnsupportedArchitectureError
from tests.model.test_wrapper import PEOPLE, greedy, personality_model
from tests.model.tiny import prompts, tiny_model
from tests.support.doubles import DOUBLES


@pytest.mark.parametrize("parts", ["lora", "steer"])
@pytest.mark.parametrize("name", list(DOUBLES))
def test_another_name_is_right_or_an_error(name: str, parts: str) -> None:
    lora, steer = parts != "steer", parts != "lora"
    double, ids = DOUBLES[name], prompts(4, 7)
    base = double.build()
    assert torch.equal(greedy(base, ids), greedy(tiny_model("llama"), ids)) == double.same
    wanted = greedy(personality_model(tiny_model("llama"), lora=lora, steer=steer), ids, personality=PEOPLE)
    try:
        found = greedy(personality_model(base, lora=lora, steer=steer), ids, personality=PEOPLE)
    except (UnsupportedArchitectureError, RuntimeError, ValueError) as error:
        assert double.expected == "safe", error
        assert len(str(error)) > 40, "an error has to say what was wrong"
        return
    assert torch.equal(found, wanted)
