"""Modules that a personality does not reach are named; those that need not run are not; afterwards nothing is watched."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers.reach import WATCHED, NoEffectError
from dpg_fast.personality.scores import POLES
from tests.model.test_verify import past_is
from tests.model.test_wrapper import PEOPLE, personality_model
from tests.model.tiny import prompts, tiny_model

IDS = prompts(4, 7)
SHORT: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}


def wrapped(base: Any, **parts: Any) -> Any:
    return personality_model(base, **parts)


def own_forward(module: nn.Module) -> None:
    """What Liger's patch of a model and kernelize() do."""
    original: Any = next(c for c in type(module).__mro__ if not c.__module__.startswith("dpg_fast"))
    function = types.FunctionType(original.forward.__code__, original.forward.__globals__)  # the class's own is served
    module.forward = types.MethodType(function, module)


def other_class(module: nn.Module) -> None:
    module.__class__ = next(c for c in type(module).__mro__ if not c.__module__.startswith("dpg_fast"))


def put(parent: nn.Module, name: str) -> None:
    bare = copy.copy(getattr(parent, name))
    other_class(bare)
    setattr(parent, name, bare)


def copied(parent: nn.Module, name: str) -> None:
    """As `put`, with weights of its own."""
    old = getattr(parent, name)
    new = nn.Linear(old.in_features, old.out_features, bias=False)
    new.load_state_dict({"weight": old.weight.detach().clone()})
    setattr(parent, name, new)


FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "own forward of an MLP": (lambda layer: own_forward(layer.mlp), "mlp", "transformers.models.llama"),
    "own forward of a linear layer": (
        lambda layer: own_forward(layer.self_attn.q_proj),
        "self_attn.q_proj",
        "torch.nn",
    ),
    "another class": (lambda layer: other_class(layer.self_attn.v_proj), "self_attn.v_proj", "set to Linear"),
    "another module": (lambda layer: put(layer, "mlp"), "mlp", "in its place"),
    "another module and other weights": (
        lambda layer: copied(layer.self_attn, "o_proj"),
        "self_attn.o_proj",
        "in its place",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["forward", "generate", "gradient"])
def test_a_module_that_is_not_reached_is_named_each_time(fault: str, way: str) -> None:
    model = wrapped(tiny_model("llama"))
    plant, name, cause = FAULTS[fault]
    plant(model.base.model.layers[1])

    def call() -> Any:
        if way == "generate":
            return model.generate(IDS, personality=PEOPLE, **SHORT)
        if way == "forward":
            with torch.no_grad():
                return model(IDS, personality=PEOPLE)
        return model(IDS, personality=PEOPLE).loss

    for _ in range(2):
        with pytest.raises(NoEffectError, match=cause) as caught:
            call()
        assert f"model.layers.1.{name}" in str(caught.value)
        assert "model.layers.0" not in str(caught.value) and "model.layers.2" not in str(caught.value)
    model(IDS)  # nobody asked for a personality


def test_a_replaced_forward_of_the_model() -> None:
    model = wrapped(tiny_model("llama"))
    model(IDS, personality=PEOPLE)
    model.base.forward = types.MethodType(type(model.base).forward, model.base)
    for call in (model, model.generate):
        with pytest.raises(NoEffectError, match="forward was replaced"):
            call(IDS, personality=PEOPLE)


def test_hooks_that_call_the_changed_forward_are_served() -> None:
    model = wrapped(tiny_model("llama"))
    wanted = wrapped(tiny_model("llama"))(IDS, personality=PEOPLE).logits
    for module in model.base.model.layers.modules():
        add_hook_to_module(module, ModelHook())
    assert torch.allclose(model(IDS, personality=PEOPLE).logits, wanted, atol=1e-5)
    assert reached(model)


def reached(model: Any) -> bool:
    return model._runtime.reach.complete


def forward(model: Any, **kwargs: Any) -> Any:
    return model(IDS, personality=PEOPLE, **kwargs)


COMPLETE: dict[str, Callable[[Any], Any]] = {
    "forward": forward,
    "generate": lambda model: model.generate(IDS, personality=PEOPLE, **SHORT),
    "one token": lambda model: model.generate(IDS, personality=PEOPLE, max_new_tokens=1),
    "last logits": lambda model: forward(model, logits_to_keep=1),
    "packed": lambda model: model(
        IDS[:1], personality=PEOPLE[:2], segments=torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    ),
    "embeddings": lambda model: model(inputs_embeds=model.base.get_input_embeddings()(IDS), personality=PEOPLE),
    "checkpointing": lambda model: (
        model.train(), model.activation_checkpointing_enable(), forward(model, labels=IDS).loss.backward()
    ),
    "autocast": lambda model: torch.autocast("cpu", torch.bfloat16)(forward)(model),
    "inference mode": lambda model: torch.inference_mode()(forward)(model),
    "beams": lambda model: model.generate(IDS, personality=PEOPLE, num_beams=2, **SHORT),
}  # fmt: skip


@pytest.mark.parametrize("way", COMPLETE)
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_one_call_reaches_all_and_nothing_is_watched_afterwards(family: str, way: str) -> None:
    model = wrapped(tiny_model(family))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model(IDS)
        assert not reached(model)
        COMPLETE[way](model)
    assert reached(model)
    assert not any(module._forward_pre_hooks for module in model.base.modules())
    assert model._runtime.state.reached is None


def test_the_watched_forward_is_the_same() -> None:
    model = wrapped(tiny_model("llama"))
    assert torch.equal(forward(model).logits, forward(model).logits)


def test_the_first_call_on_the_meta_device() -> None:
    model = wrapped(tiny_model("llama").to("meta"), lora=False)
    assert model(IDS.to("meta"), personality=PEOPLE).logits.device.type == "meta"
    assert reached(model)


def test_a_forward_that_raises_half_way_says_nothing_of_modules() -> None:
    model = wrapped(tiny_model("llama"))

    def fail(*_: Any) -> None:
        raise KeyError("half-way")

    handle = model.base.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="half-way"):
        forward(model)
    handle.remove()
    forward(model)
    assert reached(model)


def test_skipped_layers_are_waited_for() -> None:
    model = wrapped(tiny_model("llama"))
    model.base.config.num_hidden_layers = 1  # what a draft with early exit sets
    forward(model)
    assert not reached(model)
    model.base.config.num_hidden_layers = 3
    forward(model)
    assert reached(model)


def test_drafts_with_early_exit() -> None:
    model = wrapped(tiny_model("llama"))
    ids = IDS[:1]
    wanted = wrapped(tiny_model("llama")).generate(ids, personality=PEOPLE[:1], **SHORT)
    found = model.generate(ids, personality=PEOPLE[:1], assistant_early_exit=1, **SHORT)
    assert torch.equal(found, wanted) and reached(model)


def test_layers_that_never_run_are_named_in_a_warning_once() -> None:
    model = wrapped(tiny_model("llama"))
    model.base.config.num_hidden_layers = 2
    for _ in range(WATCHED - 1):
        forward(model)
    with pytest.warns(UserWarning, match=r"no part in model\.layers\.2\.mlp"):
        forward(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        forward(model)


@pytest.mark.slow
def test_compiled_forwards_are_watched_before_they_are_compiled() -> None:
    torch._dynamo.reset()
    model = wrapped(tiny_model("llama"))
    model.compile(fullgraph=True, backend="aot_eager")
    own_forward(model.base.model.layers[1].mlp)
    with pytest.raises(NoEffectError, match=r"model\.layers\.1\.mlp"):
        model(IDS, personality=PEOPLE)
    base = tiny_model("llama")
    base.forward = torch.compile(base.forward, backend="aot_eager", fullgraph=True)
    model = wrapped(base)
    with torch.no_grad():
        first, second = forward(model).logits, forward(model).logits
    assert reached(model) and (first - second).norm() <= 1e-6 * first.norm()
    torch._dynamo.reset()


# ---------------------------------------------------------------- neurons of a generation


@pytest.fixture
def all_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward is taken for the prompt's, as when a cache is overlooked."""
    past_is(monkeypatch, lambda _: 0)


@pytest.mark.usefixtures("all_prompt")
def test_a_generation_that_steers_no_token() -> None:
    model = wrapped(tiny_model("llama"), lora=False)
    for options in ({}, {"cache_implementation": "static"}, {"num_beams": 2}):
        with pytest.raises(NoEffectError, match="6 generated tokens none was steered"):
            model.generate(IDS, personality=PEOPLE, **SHORT, **options)
    embeddings = model.base.get_input_embeddings()(IDS)
    with pytest.raises(NoEffectError, match="6 generated tokens none was steered"):
        model.generate(inputs_embeds=embeddings, personality=PEOPLE, **SHORT)


@pytest.mark.usefixtures("all_prompt")
def test_generations_that_have_nothing_to_steer() -> None:
    model = wrapped(tiny_model("llama"), lora=False)
    model.generate(IDS, personality=PEOPLE, max_new_tokens=1)  # the prompt's forward gives it
    model.generate(IDS, personality=None, **SHORT)
    model.generate(IDS, personality=["neutral", None, None, None], **SHORT)
    model.generate(IDS, personality=PEOPLE, steer_tokens="all", **SHORT)
    first = model.generate(IDS[:1], personality=PEOPLE[:1], max_new_tokens=1)[0, -1]
    model.generate(IDS[:1], personality=PEOPLE[:1], max_new_tokens=6, do_sample=False, eos_token_id=int(first))
    model.calibration = Calibration(dict.fromkeys(POLES, 0.0))
    model.generate(IDS, personality=PEOPLE, **SHORT)


def test_slots_that_only_the_device_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped(tiny_model("llama"), lora=False)
    model.generate(IDS, personality=PEOPLE, cache_implementation="static", **SHORT)
    past_is(monkeypatch, lambda _: torch.tensor(0))
    with pytest.raises(NoEffectError, match="none was steered"):
        model.generate(IDS, personality=PEOPLE, **SHORT)
