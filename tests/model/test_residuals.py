"""Decoder layers that add the residual and normalise in one operation, and those that must not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.utils.dataclasses import get_module_class_from_name
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from dpg_fast import HypernetConfig, PersonalityModel
from dpg_fast.architecture.residuals import pre_norm, rms_norm
from dpg_fast.model.layers import residuals
from tests.model.test_wrapper import random_table
from tests.model.tiny import prompts, tiny_model

PEOPLE = ["E+5 N-2", None, "O-4"]
IDS = prompts(3, 7)
#: families that multiply the sums, or normalise what the parts give, and one whose norms are no RMSNorms
OTHERS = {
    "granite": {"residual_multiplier": 0.7},
    "gemma2": {},
    "gemma3_text": {},
    "olmo2": {},
    "olmo": {},
    "cohere": {},
}
FUSED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "granite")


def wrapped(base: Any, table: bool = True) -> PersonalityModel:
    steering = random_table(3, 72) if table else None
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=2), steering=steering)
    model.hypernet.randomize_(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(IDS, personality=PEOPLE)  # watched
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the op by a layer: its tokens."""
    found: list[int] = []

    def counted(y: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(y.shape[0] * y.shape[1])
        return op(y, *args, **kwargs)

    op = residuals.add_rmsnorm
    monkeypatch.setattr(residuals, "add_rmsnorm", counted)
    return found


def one_by_one(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> Any:
    """What ``call`` gives when no layer fuses anything."""
    with monkeypatch.context() as patch:
        patch.setattr(residuals, "_fused", lambda *args: None)
        return call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FUSED)
def test_two_operations_a_layer_and_the_same_logits(
    family: str, dtype: torch.dtype, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wrapped(tiny_model(family, dtype=dtype))
    calls.clear()

    @torch.no_grad()
    def logits() -> Tensor:
        return model(IDS, personality=PEOPLE).logits  # type: ignore[no-any-return]

    found = logits()
    assert calls == [21] * 6
    error = (found - one_by_one(monkeypatch, logits)).double().norm() / found.double().norm()
    assert error < (2e-6 if dtype == torch.float32 else 2e-2)
    calls.clear()
    with torch.no_grad():
        model(IDS)
        model.base(IDS)
    assert not calls


@pytest.mark.parametrize("family", OTHERS)
def test_other_layers_are_left_as_they_are(family: str) -> None:
    base = tiny_model(family, **OTHERS[family])
    layers = base.get_decoder().layers
    before = [(type(part), set(vars(part))) for layer in layers for part in (layer, layer.mlp)]
    assert pre_norm(layers[0]) is None
    model = wrapped(base)
    assert [type(layer) for layer in layers] == [kind for kind, _ in before[::2]]
    model.unload()
    assert [(type(part), set(vars(part))) for layer in layers for part in (layer, layer.mlp)] == before


class NormTwice(LlamaDecoderLayer):
    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return self.post_attention_layernorm(super().forward(hidden_states, **kwargs))


class Halved(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) / 2  # type: ignore[no-any-return]


class RoundedOnce(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight.float() * x).to(hidden_states.dtype)


def test_recognition_is_by_value() -> None:
    layer = tiny_model("llama").model.layers[0]
    assert pre_norm(layer) is not None and rms_norm(layer.input_layernorm) is not None
    for other in (Halved, RoundedOnce):
        changed = copy.deepcopy(layer)
        changed.post_attention_layernorm.__class__ = other
        assert rms_norm(changed.post_attention_layernorm) is None and pre_norm(changed) is None
    changed = copy.deepcopy(layer)
    changed.__class__ = NormTwice
    assert pre_norm(changed) is None
    changed = copy.deepcopy(layer)
    changed.gate = nn.Parameter(torch.ones(()))
    assert pre_norm(changed) is None


def add_in_place(module: nn.Module, args: Any, output: Tensor) -> None:
    output.data.add_(1.0)


WATCHERS: dict[str, Callable[[Any], Any]] = {
    "layer's output, in place": lambda base: base.model.layers[0].register_forward_hook(add_in_place),
    "layer's input": lambda base: base.model.layers[1].register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
    "norm": lambda base: base.model.layers[1].post_attention_layernorm.register_forward_hook(lambda m, a, y: y * 3),
    "next norm": lambda base: base.model.layers[1].input_layernorm.register_forward_hook(lambda m, a, y: y * 3),
    "last norm": lambda base: base.model.norm.register_forward_hook(lambda m, a, y: y * 3),
    "attention": lambda base: base.model.layers[1].self_attn.register_forward_hook(lambda m, a, y: (y[0] * 2, y[1])),
    "mlp": lambda base: base.model.layers[1].mlp.register_forward_hook(lambda m, a, y: y * 2),
    "every module": lambda base: nn.modules.module.register_module_forward_hook(
        lambda m, a, y: y * 1.1 if isinstance(m, LlamaRMSNorm) else None
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("watcher", WATCHERS)
def test_hooks_act_as_without_fusion(watcher: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped(tiny_model("llama"))

    def logits() -> Tensor:
        with mode():
            return model(IDS, personality=PEOPLE).logits.clone()  # type: ignore[no-any-return]

    plain = logits()
    handle = WATCHERS[watcher](model.base)
    try:
        found, wanted = logits(), one_by_one(monkeypatch, logits)
    finally:
        handle.remove()
    torch.testing.assert_close(found, wanted)
    assert (found - plain).abs().max() > 1e-2
    torch.testing.assert_close(logits(), plain, rtol=0, atol=0)


def test_replaced_norms_and_weights_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped(tiny_model("llama"))

    @torch.no_grad()
    def logits() -> Tensor:
        return model(IDS, personality=PEOPLE).logits  # type: ignore[no-any-return]

    layer: Any = model.base.model.layers[1]  # type: ignore[union-attr]
    plain = logits()
    layer.post_attention_layernorm.weight.data = torch.full((48,), 3.0)
    changed = logits()
    assert (changed - plain).abs().max() > 1e-2
    torch.testing.assert_close(changed, one_by_one(monkeypatch, logits))
    layer.input_layernorm.forward = lambda x: x * 0.5
    torch.testing.assert_close(logits(), one_by_one(monkeypatch, logits))
    del layer.input_layernorm.forward
    layer.input_layernorm = LlamaRMSNorm(48)
    torch.testing.assert_close(logits(), one_by_one(monkeypatch, logits))
    layer.input_layernorm.weight.data.fill_(2.0)
    torch.testing.assert_close(logits(), one_by_one(monkeypatch, logits))


def test_a_norm_made_in_advance_is_for_its_input_alone() -> None:
    model = wrapped(tiny_model("llama"))
    norm: Any = model.base.model.layers[1].input_layernorm  # type: ignore[union-attr]
    x, made = torch.randn(1, 2, 48), torch.zeros(1, 2, 48)
    wanted = LlamaRMSNorm(48)(x)

    def with_ready(given: Tensor, change: Callable[[], object] = lambda: None) -> Tensor:
        norm.dpg_residual.ready = residuals._Ready(x, made, residuals._version(x))
        change()
        return norm(given)  # type: ignore[no-any-return]

    with torch.no_grad():
        assert with_ready(x) is made
        assert norm.dpg_residual.ready is None
        torch.testing.assert_close(with_ready(x.clone()), wanted)
        torch.testing.assert_close(with_ready(x, lambda: x.mul_(2)), LlamaRMSNorm(48)(x))


def test_hidden_states_are_those_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped(tiny_model("llama"))

    @torch.no_grad()
    def states() -> tuple[Tensor, ...]:
        output = model(IDS, personality=PEOPLE, output_hidden_states=True)
        return tuple(state.clone() for state in output.hidden_states)

    torch.testing.assert_close(states(), one_by_one(monkeypatch, states))


def test_no_fusion_under_autocast_with_gradients_or_dropout(calls: list[int]) -> None:
    model = wrapped(tiny_model("phi3", resid_pdrop=0.5))
    calls.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(IDS, personality=PEOPLE)
    assert not calls
    model(IDS, personality=PEOPLE, labels=IDS).loss.backward()
    assert not calls
    model.base.train()
    with torch.no_grad():
        first, second = (model(IDS, personality=PEOPLE).logits for _ in range(2))
    assert not calls and not torch.equal(first, second)
    model.base.eval()
    with torch.no_grad():
        model(IDS, personality=PEOPLE)
    assert len(calls) == 6


def test_inputs_that_do_not_lie_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped(tiny_model("llama"))
    embeds: Any = torch.randn(3, 48, 7, generator=torch.Generator().manual_seed(0)).transpose(1, 2)

    @torch.no_grad()
    def logits(given: Tensor = embeds) -> Tensor:
        return model(inputs_embeds=given, personality=PEOPLE).logits  # type: ignore[no-any-return]

    torch.testing.assert_close(logits(), one_by_one(monkeypatch, logits))
    torch.testing.assert_close(logits(), logits(embeds.contiguous()))


def test_the_layers_class_is_found_by_its_name() -> None:
    model = wrapped(tiny_model("llama"))
    kind = get_module_class_from_name(model.base, "LlamaDecoderLayer")
    layers = model.base.model.layers  # type: ignore[union-attr]
    assert kind is not None and all(isinstance(layer, kind) for layer in layers)
    model.unload()
    assert all(type(layer) is LlamaDecoderLayer for layer in layers)


def test_compiled_layers_fuse_in_one_graph() -> None:
    torch._dynamo.reset()
    base = tiny_model("llama")
    model = wrapped(copy.deepcopy(base))
    with torch.no_grad():
        wanted = model(IDS, personality=PEOPLE).logits
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(sum("add_rmsnorm" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    model.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, personality=PEOPLE).logits, wanted)
        torch.testing.assert_close(model(IDS, personality=PEOPLE[::-1]).logits.shape, wanted.shape)
    assert graphs == [6]
