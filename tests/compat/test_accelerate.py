"""The names of accelerate and of torch's insides that the package reads."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, CpuOffload, ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from dpg_fast.compat import accelerate as compat
from dpg_fast.compat.torch import all_modules_hooked, children_of, has_hooks
from tests.model.tiny import tiny_model


def hooked(model: Any) -> Any:
    return dispatch_model(model, {"": "cpu"}, force_hooks=True)


def test_hooks_are_found_one_by_one() -> None:
    linear = nn.Linear(3, 2)
    assert not list(compat.hooks_of(linear))
    add_hook_to_module(linear, first := AlignDevicesHook("cpu"))
    assert list(compat.hooks_of(linear)) == [first]
    assert not compat.brings_weights(linear)
    add_hook_to_module(linear, second := AlignDevicesHook("cpu", offload=True), append=True)
    assert list(compat.hooks_of(linear)) == [first, second]
    assert compat.brings_weights(linear)


@pytest.mark.parametrize("way", ["plain", "hooks", "cpu", "disk", "whole model"])
def test_where_a_module_runs_and_what_its_weights_are(way: str, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    expected = {name: parameter.clone() for name, parameter in model.named_parameters(remove_duplicate=False)}
    if way == "hooks":
        hooked(model)
    elif way == "cpu":
        cpu_offload(model)
    elif way == "disk":
        disk_offload(model, str(tmp_path))
    elif way == "whole model":
        add_hook_to_module(model, CpuOffload("cpu"))
    offloaded = way in ("cpu", "disk")
    for name, parameter in model.named_parameters():
        assert (parameter.device.type == "meta") == offloaded
        torch.testing.assert_close(compat.weight_value(model, name), expected[name], rtol=0, atol=0)
    assert compat.execution_device(model, "model.layers.1.mlp.up_proj") == torch.device("cpu")
    assert compat.brings_weights(model.model.layers[1].mlp.up_proj) == offloaded


def test_devices_are_named_as_tensors_name_theirs() -> None:
    model = tiny_model("llama").to("meta")
    assert compat.execution_device(model, "model") == torch.device("meta")
    layer = model.model.layers[0].mlp.up_proj
    layer._hf_hook = types.SimpleNamespace(execution_device=1, offload=True, weights_map=None)
    assert compat.execution_device(model, "model.layers.0.mlp.up_proj").index == 1
    layer._hf_hook.execution_device = "cuda"
    assert compat.execution_device(model, "model.layers.0.mlp.up_proj").index == 0


def test_a_dispatched_model_carries_another_mark() -> None:
    model = tiny_model("llama")
    before = compat.placed_by(model)
    assert compat.placed_by(hooked(model)) != before
    assert getattr(model, compat.DEVICE_MAP) == {"": "cpu"}


def test_a_hook_is_seen_and_its_inside_found() -> None:
    layer = nn.Linear(2, 2)
    assert not list(compat.hooks_of(layer)) and compat.innermost(layer) == "forward"
    add_hook_to_module(layer, ModelHook())
    assert list(compat.hooks_of(layer)) and compat.innermost(layer) == compat.INNER == "_old_forward"
    add_hook_to_module(layer, ModelHook(), append=True)
    assert compat.innermost(layer) == "_old_forward"
    layer.__dict__["_old_forward"] = types.MethodType(lambda self, x: "what the hook calls", layer)
    assert layer(torch.zeros(1, 2)) == "what the hook calls"
    over = layer.forward
    layer.forward = lambda x: over(x)
    assert compat.innermost(layer) == "forward"
    remove_hook_from_module(layer)
    assert not list(compat.hooks_of(layer)) and compat.innermost(layer) == "forward"


def test_forced_hooks_are_such_hooks() -> None:
    model = dispatch_model(nn.Sequential(nn.Linear(2, 2)), {"": "cpu"}, force_hooks=True)
    assert compat.innermost(model[0]) == "_old_forward"


def test_torch_names() -> None:
    layer = nn.Linear(2, 2)
    assert not has_hooks(layer) and not all_modules_hooked()
    for register in (
        layer.register_forward_hook,
        layer.register_forward_pre_hook,
        layer.register_full_backward_hook,
        layer.register_full_backward_pre_hook,
    ):
        handle = register(lambda *args: None)
        assert has_hooks(layer)
        handle.remove()
        assert not has_hooks(layer)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ):
        handle = register(lambda *args: None)
        assert all_modules_hooked()
        handle.remove()
        assert not all_modules_hooked()
    assert children_of(nn.Sequential(layer)) == {"0": layer}
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert "parametrizations" in children_of(parametrized)
