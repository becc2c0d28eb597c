"""The MLP of a decoder layer, found by what it holds and computes, not by the name of its class.

Two kinds: *gated*, ``down(act(gate(x)) * up(x))``, with gate and up as two linear layers or as the halves of one; and *plain*,
``down(act(first(x)))``. Where names do not say which layer has which part, the module is run on three random rows and its
layers are watched (:mod:`dpg_fast.architecture.finder`). A neuron is column i of the activation's output: what steering
changes, gated or not.

Why: docs/decisions.md, "Architectures are found by structure and then checked by value".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dpg_fast.compat.transformers_models import conv1d_shape
from dpg_fast.util.errors import DPGError

ActName = Literal["silu", "gelu_tanh", "gelu"]

ACTIVATIONS: dict[ActName, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
}


class UnsupportedArchitectureError(DPGError):
    """The model does not have the structure that personality control needs."""


@dataclass(frozen=True)
class MlpLayout:
    """Attribute names of the parts of one MLP.

    Attributes:
        gate, up: linear layers of a gated MLP; a plain one has no ``up``, and its first layer is ``gate``.
        merged: the one linear layer that gives both halves, gate and up; None where they are two.
        down: the last linear layer.
        act: the activation; None where it is a function and no module.
        up_first: ``merged`` gives up, then gate.
    """

    gate: str | None
    up: str | None
    merged: str | None
    down: str
    act: str | None
    up_first: bool = False

    @property
    def gated(self) -> bool:
        return self.up is not None or self.merged is not None

    @property
    def linears(self) -> tuple[str, ...]:
        return tuple(name for name in (self.gate, self.up, self.merged, self.down) if name is not None)

    @property
    def source(self) -> str:
        """The linear layer whose output, or a half of it, goes into the activation."""
        name = self.merged or self.gate
        assert name is not None
        return name

    def halves(self, merged: Tensor, intermediate: int) -> tuple[Tensor, Tensor]:
        """(gate, up): the halves of the last dimension of what belongs to the merged layer."""
        first, second = merged[..., :intermediate], merged[..., intermediate:]
        return (second, first) if self.up_first else (first, second)


@dataclass(frozen=True)
class Mlp:
    """One MLP: where it is, how it is written, and its activation.

    Attributes:
        layer: its number among the model's MLPs, which is the decoder layer's where each layer has one.
        name: dotted path of ``module``.
        module: holds the layers; the decoder layer itself where there is no module between (OPT).
        act: name of the activation; None for those that the kernels do not know.
        intermediate: neurons, I.
    """

    layer: int
    name: str
    module: nn.Module
    layout: MlpLayout
    act: ActName | None
    intermediate: int

    @property
    def act_module(self) -> nn.Module | None:
        return None if self.layout.act is None else self.module.get_submodule(self.layout.act)

    @property
    def first(self) -> str:
        """Name in the model of the linear layer whose output goes into the activation."""
        return f"{self.name}.{self.layout.source}"

    def halves(self, merged: Tensor) -> tuple[Tensor, Tensor]:
        """(gate, up): the halves of the last dimension of what belongs to the merged layer."""
        return self.layout.halves(merged, self.intermediate)


# Names that say which layer has which part; the activation is the module's own, whatever its name.
NAMED_LAYOUTS = (
    MlpLayout(gate="gate_proj", up="up_proj", merged=None, down="down_proj", act=None),
    MlpLayout(gate=None, up=None, merged="gate_up_proj", down="down_proj", act=None),
)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer, quantised ones included.

    Raises:
        UnsupportedArchitectureError: the module does not state them.
    """
    shape = _shape(module)
    if shape is None:
        raise UnsupportedArchitectureError(
            f"{type(module).__name__} has no in_features/out_features: it is not a linear layer that can be adapted"
        )
    return shape


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer that :func:`linear_shape` can read."""
    return _shape(module) is not None


def _shape(module: nn.Module) -> tuple[int, int] | None:
    try:
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        return conv1d_shape(module)


def linear_children(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers directly in ``module``."""
    return {name: child for name, child in module.named_children() if is_linear(child)}


def walk(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(relative path, module) of ``module`` and all below it, except what lies inside a linear layer."""
    yield "", module
    for name, child in module.named_children():
        if is_linear(child):
            continue
        for path, inner in walk(child):
            yield f"{name}.{path}" if path else name, inner


def gate_and_up(layout: MlpLayout, intermediate: int, output: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
    """gate(x) and up(x) [..., I] of a gated MLP, given the output of each of its linear layers by attribute."""
    if layout.merged is not None:
        return layout.halves(output(layout.merged), intermediate)
    assert layout.gate is not None and layout.up is not None
    return output(layout.gate), output(layout.up)


def split_gate_up(mlp: Mlp, x: Tensor) -> tuple[Tensor, Tensor]:
    """The base products gate(x) and up(x), each [..., I]; views of one tensor where the model merges them."""
    return gate_and_up(mlp.layout, mlp.intermediate, lambda name: mlp.module.get_submodule(name)(x))
