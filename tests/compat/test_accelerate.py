"""The names of accelerate and of torch's insides that the package reads."""

from __future__ import annotations

import types

import torch
from accelerate import dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn

from dpg_fast.compat import accelerate
from dpg_fast.compat.torch import all_modules_hooked, children_of, has_hooks


def test_a_hook_is_seen_and_its_inside_found() -> None:
    layer = nn.Linear(2, 2)
    assert not accelerate.is_hooked(layer) and accelerate.innermost(layer) == "forward"
    add_hook_to_module(layer, ModelHook())
    assert accelerate.is_hooked(layer) and accelerate.innermost(layer) == accelerate.INNER == "_old_forward"
    add_hook_to_module(layer, ModelHook(), append=True)
    assert accelerate.innermost(layer) == "_old_forward"
    layer.__dict__["_old_forward"] = types.MethodType(lambda self, x: "what the hook calls", layer)
    assert layer(torch.zeros(1, 2)) == "what the hook calls"
    over = layer.forward
    layer.forward = lambda x: over(x)
    assert accelerate.innermost(layer) == "forward"
    remove_hook_from_module(layer)
    assert not accelerate.is_hooked(layer) and accelerate.innermost(layer) == "forward"


def test_forced_hooks_are_such_hooks() -> None:
    model = dispatch_model(nn.Sequential(nn.Linear(2, 2)), {"": "cpu"}, force_hooks=True)
    assert accelerate.innermost(model[0]) == "_old_forward"


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
