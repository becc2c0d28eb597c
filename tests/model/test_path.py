"""How many of the package's functions stand between `generate` and the first decoder layer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dpg_fast
from dpg_fast import HypernetConfig, Personality, PersonalityModel
from tests.model.test_wrapper import random_table
from tests.model.tiny import prompts, tiny_model

PACKAGE = str(Path(dpg_fast.__file__).parent)


def calls_before_the_first_layer(model: PersonalityModel, call: Callable[[], Any]) -> list[str]:
    """Every call of a function of the package after `generate` was entered, in order, until the first decoder layer runs.

    A comprehension or generator expression, which Python 3.11 runs in a frame of its own, belongs to its function.
    """
    found: list[str] = []
    reached: list[bool] = []
    layer: Any = model.base.model.layers[0]  # type: ignore[union-attr]
    hook = layer.register_forward_pre_hook(lambda *_: reached.append(True))

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        inside = event == "call" and not reached and code.co_filename.startswith(PACKAGE)
        if inside and not code.co_name.startswith("<"):
            found.append(f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_qualname}")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        hook.remove()
    assert reached and found[0].endswith("PersonalityModel.generate")
    return found[1:]


def model_of(layers: int) -> PersonalityModel:
    base = tiny_model("llama", num_hidden_layers=layers)
    return PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=2), steering=random_table(layers, 72))


@pytest.mark.parametrize("people", [["E+5", None], [Personality("E+5"), None], [None, None], "E+5"])
@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("equal_ones", [True, False])
def test_functions_of_a_call_with_known_personalities(people: Any, positional: bool, equal_ones: bool) -> None:
    """At most 14 different functions, each once for the whole batch, however many layers; dictionaries hash and compare rows."""
    counts = []
    for layers in (2, 5):
        model, ids = model_of(layers), prompts(2, 5)
        if equal_ones:  # remembered values are then compared, not only found
            model.generate(ids, personality=[Personality("E+5"), None], max_new_tokens=2, do_sample=False)
        given = ((ids,), {}) if positional else ((), {"input_ids": ids})

        def generate(model: PersonalityModel = model, given: Any = given) -> None:
            model.generate(*given[0], **given[1], personality=people, max_new_tokens=2, do_sample=False)

        generate()  # watched: whether the personality reaches every layer
        found = calls_before_the_first_layer(model, generate)
        once = [name for name in found if not name.endswith(("__hash__", "__eq__"))]
        assert len(once) <= 14, "\n".join(found)
        assert len(once) == len(set(once)), "\n".join(found)
        counts.append(len(found))
    assert counts[0] == counts[1]


def test_functions_of_a_call_with_new_personalities() -> None:
    """Reading, checking and encoding two people, whose slots are written: the calls grow neither with layers nor with sites."""
    counts = []
    for layers in (2, 5):
        model, ids = model_of(layers), prompts(2, 5)
        model.generate(ids, personality="E+1", max_new_tokens=2, do_sample=False)
        people = [f"E+4.{layers}37 N-1.{layers}291", None]  # values that no other test has made known
        found = calls_before_the_first_layer(
            model,
            lambda model=model, ids=ids, people=people: model.generate(ids, personality=people, max_new_tokens=2),  # type: ignore[misc]
        )
        assert len(set(found)) <= 60, "\n".join(found)
        counts.append(len(found))
    assert counts[0] == counts[1]
