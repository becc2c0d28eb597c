"""The names of accelerate's hooks are those that the installed version uses."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, CpuOffload, add_hook_to_module
from torch import nn

from dpg_fast.compat import accelerate as compat
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
