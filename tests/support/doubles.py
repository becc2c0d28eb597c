"""Stand-ins for what another release of a library could do: tiny Llamas that name or call things otherwise.

Each is a working model: ``generate`` gives what the plain tiny Llama gives, but where said. Wrapped, such a model has to be
right or to be refused with an error; that it runs on and nothing acts is the fault that these are here to catch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from tests.model.tiny import tiny_model


def _handed(cls: type, renamed: dict[str, str], wrap: Callable[[Any], Any] = lambda value: value) -> type:
    """A subclass whose forward takes ``renamed[name]`` for each ``name``; ``wrap`` is put around each such value."""

    class Renamed(cls):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
            for name, other in renamed.items():
                if name == "input_ids":
                    if other in kwargs:
                        input_ids = kwargs.pop(other)
                elif (value := kwargs.pop(other, None)) is not None:
                    kwargs[name] = value.content if isinstance(value, Box) else value
            return super().forward(input_ids=input_ids, **kwargs)

        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
            inputs = super().prepare_inputs_for_generation(*args, **kwargs)
            for name, other in renamed.items():
                if inputs.get(name) is not None:
                    inputs[other] = wrap(inputs.pop(name))
            return inputs

        def _validate_model_kwargs(self, model_kwargs: Any) -> None:
            """Transformers' own check knows the arguments by their usual names."""

    return Renamed


class Box:
    """Hides a cache: it has none of a cache's methods."""

    def __init__(self, content: Any) -> None:
        self.content = content


class OtherActivationName(LlamaMLP):
    """``act_fn`` under a name that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.nonlinearity(self.gate_proj(x)) * self.up_proj(x))


class OtherGateName(LlamaMLP):
    """``gate_proj`` under a name that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gating(x)) * self.up_proj(x))


class TakesMlpApart(LlamaDecoderLayer):
    """Has an MLP of the usual shape and computes with its parts: the module itself is never called."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        return _layer(self, hidden_states, self._apart, kwargs)

    def _apart(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))


class ReadsMlpWeights(TakesMlpApart):
    """Has an MLP of the usual shape and reads its weights: no module in it is ever called (a fused kernel would do this)."""

    def _apart(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        return F.linear(
            F.silu(F.linear(x, mlp.gate_proj.weight)) * F.linear(x, mlp.up_proj.weight), mlp.down_proj.weight
        )


class SkipsMlp(TakesMlpApart):
    """An MLP that is there and takes no part."""

    def _apart(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _layer(layer: Any, hidden_states: Tensor, mlp: Callable[[Tensor], Tensor], kwargs: dict[str, Any]) -> Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    hidden_states = hidden_states + attended
    return hidden_states + mlp(layer.post_attention_layernorm(hidden_states))


def _renamed_arguments(renamed: dict[str, str], wrap: Callable[[Any], Any] = lambda value: value) -> Callable[[], Any]:
    def build() -> Any:
        model = tiny_model("llama")
        model.__class__ = _handed(LlamaForCausalLM, renamed, wrap)
        return model

    return build


def _renamed_attribute(kind: type, old: str, new: str) -> Callable[[], Any]:
    def build() -> Any:
        model = tiny_model("llama")
        for layer in model.model.layers:
            layer.mlp.__class__ = kind
            module = getattr(layer.mlp, old)
            delattr(layer.mlp, old)
            setattr(layer.mlp, new, module)
        return model

    return build


def _layers_of(kind: type, which: slice = slice(None)) -> Callable[[], Any]:
    def build() -> Any:
        model = tiny_model("llama")
        for layer in model.model.layers[which]:
            layer.__class__ = kind
        return model

    return build


@dataclass(frozen=True)
class Double:
    """One stand-in.

    Attributes:
        build: makes the model, in eval mode; the same weights each time.
        expected: "right": the wrapped model gives what the wrapped plain Llama gives. "safe": it does, or wrapping it or its
            first call with a personality raises.
        same: the bare double's own output is the plain Llama's.
    """

    build: Callable[[], Any]
    expected: Literal["right", "safe"]
    same: bool = True


DOUBLES: dict[str, Double] = {
    "cache under another name": Double(_renamed_arguments({"cache": "kv_store"}), "right"),
    "mask under another name": Double(_renamed_arguments({"attention_mask": "token_mask"}), "right"),
    "cache and mask under other names": Double(
        _renamed_arguments({"cache": "kv_store", "attention_mask": "token_mask"}), "right"
    ),
    "cache of an unknown kind": Double(_renamed_arguments({"cache": "kv_store"}, Box), "right"),
    "cache of an unknown kind under its own name": Double(_renamed_arguments({"cache": "cache"}, Box), "safe"),
    "cache of an unknown kind, mask under another name": Double(
        _renamed_arguments({"cache": "kv_store", "attention_mask": "token_mask"}, Box), "safe"
    ),
    "ids under another name": Double(_renamed_arguments({"input_ids": "tokens"}), "safe"),
    "activation under another name": Double(_renamed_attribute(OtherActivationName, "act_fn", "nonlinearity"), "safe"),
    "gate under another name": Double(_renamed_attribute(OtherGateName, "gate_proj", "gating"), "safe"),
    "layers that take the MLP apart": Double(_layers_of(TakesMlpApart), "safe"),
    "one layer that takes the MLP apart": Double(_layers_of(TakesMlpApart, slice(1, 2)), "safe"),
    "layers that read the MLP's weights": Double(_layers_of(ReadsMlpWeights), "safe"),
    "layers that skip the MLP": Double(_layers_of(SkipsMlp), "safe", same=False),
}
