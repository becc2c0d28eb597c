"""The names of transformers are those that the installed version uses; an unknown one is never taken for "nothing there"."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache, TrainingArguments

from dpg_fast import PersonalityModel
from dpg_fast.compat import transformers as compat
from tests.model.test_wrapper import random_table
from tests.model.tiny import FAMILIES, prompts, tiny_model


def steered(model: Any) -> PersonalityModel:
    return PersonalityModel.from_model(model, steering=random_table(3, 72))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_take_and_return_their_cache_under_known_names(family: str) -> None:
    model = tiny_model(family)
    name = compat.cache_name(model)
    assert name in inspect.signature(type(model).forward).parameters
    ids = prompts(2, 6)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :4], use_cache=True)
        cache = compat.output_cache(first)
        assert compat.cached_tokens(cache) == 4
        rest = model(input_ids=ids[:, 4:], use_cache=True, **{name: cache}).logits
    torch.testing.assert_close(rest, whole[:, 4:], rtol=1e-4, atol=1e-4)


def test_the_library_names_its_cache_as_one_of_ours() -> None:
    assert compat._library_cache_name() == compat.cache_name(tiny_model("llama"))


def test_a_mask_argument_of_the_known_name_is_taken_by_models() -> None:
    assert compat.MASK_NAME in inspect.signature(type(tiny_model("llama")).forward).parameters


@pytest.mark.parametrize("name", [*compat.CACHE_NAMES, "some_new_name"])
def test_a_cache_is_found_by_any_name_and_by_type(name: str) -> None:
    cache = DynamicCache()
    assert compat.cache_of((), {"attention_mask": torch.ones(1, 3), name: cache}) is cache
    assert compat.cache_of((torch.zeros(1, 3), cache), {}) is cache


def test_what_cannot_say_its_length_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"past_key_values= is a tuple.*give a transformers Cache"):
        compat.cache_of((), {"past_key_values": ((torch.zeros(1, 1, 3, 4),) * 2,)})


def test_tokens_before_follow_from_the_cache_or_the_mask() -> None:
    model = tiny_model("llama")
    static = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        model(input_ids=prompts(2, 5), use_cache=True, **{compat.cache_name(model): static})
    assert int(compat.tokens_before((), {"anything": static}, 1) or 0) == 5
    assert compat.tokens_before((), {"attention_mask": torch.ones(2, 9)}, 1) == 8
    assert compat.tokens_before((), {"attention_mask": torch.ones(2, 1, 1, 16)}, 1) is None
    assert compat.tokens_before((), {}, 5) is None


def renamed(model: Any, names: dict[str, str]) -> Any:
    """The model with arguments of forward that ``generate`` prepares under other names."""
    cls = type(model)
    back = {new: old for old, new in names.items()}

    class Renamed(cls):  # type: ignore[misc,valid-type]
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            made = super().prepare_inputs_for_generation(*args, **kwargs)
            return {names.get(key, key): value for key, value in made.items()}

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **{back.get(key, key): value for key, value in kwargs.items()})

    model.__class__ = Renamed
    return model


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_a_cache_of_an_unknown_name_steers_all_the_same(static: bool) -> None:
    kwargs: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    if static:
        kwargs["cache_implementation"] = "static"
    ids = prompts(2, 6)
    torch.manual_seed(0)
    want = steered(tiny_model("llama")).generate(ids, personality=["E+5", "E-5"], **kwargs)
    torch.manual_seed(0)
    model = steered(renamed(tiny_model("llama"), {compat.cache_name(tiny_model("llama")): "kv_store"}))
    assert torch.equal(model.generate(ids, personality=["E+5", "E-5"], **kwargs), want)
    assert not torch.equal(model.generate(ids, personality=None, **kwargs), want)


class Opaque:
    """A cache that says nothing of its length."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache


def test_decoding_at_an_unknown_position_is_refused() -> None:
    base = tiny_model("llama")
    name = compat.cache_name(base)
    cls = type(base)

    class Hiding(cls):  # type: ignore[misc,valid-type]
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            made = super().prepare_inputs_for_generation(*args, **kwargs)
            made["store"] = Opaque(made.pop(name))
            made["seen"] = made.pop(compat.MASK_NAME, None)
            return made  # type: ignore[no-any-return]

        def forward(self, *args: Any, store: Any = None, seen: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs, **{name: store.cache, compat.MASK_NAME: seen})

    base.__class__ = Hiding
    model = steered(base)
    ids = prompts(2, 6)
    with pytest.raises(RuntimeError, match=r"1 of 6 prompt tokens and neither a cache nor an attention mask"):
        model.generate(ids, personality=["E+5", "E-5"], max_new_tokens=3, do_sample=False)
    model.generate(ids, personality=["E+5", "E-5"], max_new_tokens=3, do_sample=False, steer_tokens="all")


def test_checkpointing_is_switched_on_under_the_name_that_models_have() -> None:
    model = tiny_model("llama").train()
    assert not compat.checkpoints(model)
    compat.enable_checkpointing(model, {"use_reentrant": False})
    assert compat.checkpoints(model)
    with pytest.raises(RuntimeError, match="Linear cannot checkpoint its layers"):
        compat.enable_checkpointing(torch.nn.Linear(1, 1), {})


@pytest.mark.parametrize("given", compat.CHECKPOINTING_NAMES)
def test_checkpointing_is_chosen_by_either_name(given: str, tmp_path: Path) -> None:
    chosen = {given: True, f"{given}_kwargs": {"use_reentrant": False}, "seed": 3}
    arguments = TrainingArguments(str(tmp_path), **compat.with_checkpointing_names(TrainingArguments, chosen))
    own = next(name for name in compat.CHECKPOINTING_NAMES if hasattr(arguments, name))
    assert getattr(arguments, own) is True and getattr(arguments, f"{own}_kwargs") == {"use_reentrant": False}
    assert arguments.seed == 3


def test_checkpointing_by_both_names_is_refused() -> None:
    with pytest.raises(ValueError, match="one field"):
        compat.with_checkpointing_names(TrainingArguments, dict.fromkeys(compat.CHECKPOINTING_NAMES, True))
