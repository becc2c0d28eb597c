"""Find the gated MLPs and attention projections of a causal LM by structure.

A model is supported when every decoder layer holds exactly one gated MLP, ``down(act(gate(x)) * up(x))``, written with one
of the attribute names in :data:`MLP_LAYOUTS`. That covers Llama, Mistral, Qwen2, Qwen3, the Gemma family, Phi-3 and others
that share their shape. Nothing is assumed from the model's name: the activation is recognised by its values, and
:func:`verify_gated_mlp` compares the formula with the module's own output before anything is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpg_fast.hypernet.config import SHARED_INPUTS, Site

ActName = Literal["silu", "gelu_tanh", "gelu"]

ACTIVATIONS: dict[ActName, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
}


class UnsupportedArchitectureError(ValueError):
    """The model does not have the structure that personality control needs."""


@dataclass(frozen=True)
class MlpLayout:
    """Attribute names of one way to write a gated MLP; ``merged`` holds gate and up (in this order) in one product."""

    gate: str | None
    up: str | None
    merged: str | None
    down: str
    act: str

    @property
    def linears(self) -> tuple[str, ...]:
        return tuple(name for name in (self.gate, self.up, self.merged, self.down) if name is not None)


MLP_LAYOUTS = (
    MlpLayout(gate="gate_proj", up="up_proj", merged=None, down="down_proj", act="act_fn"),
    MlpLayout(gate=None, up=None, merged="gate_up_proj", down="down_proj", act="activation_fn"),
)

ATTENTION_LAYOUTS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("qkv_proj", "o_proj"),
)

#: attention projections that are given the same input
SHARED_INPUT = SHARED_INPUTS[0]


@dataclass(frozen=True)
class GatedMlp:
    """One decoder layer's MLP: where it is, how it is written, and its activation."""

    layer: int
    name: str
    module: nn.Module
    layout: MlpLayout
    act: ActName
    intermediate: int

    @property
    def first(self) -> str:
        """Name of the linear layer that is given the MLP's input first."""
        return f"{self.name}.{self.layout.linears[0]}"

    @property
    def act_module(self) -> nn.Module:
        module = getattr(self.module, self.layout.act)
        assert isinstance(module, nn.Module)
        return module


@dataclass(frozen=True)
class Architecture:
    """What personality control needs to know of a model: its MLPs in layer order and its adaptable linear layers by name."""

    mlps: tuple[GatedMlp, ...]
    linears: dict[str, nn.Module]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The adaptable linear layers with their sizes."""
        return tuple(Site(name, *linear_shape(module)) for name, module in self.linears.items())

    @property
    def num_layers(self) -> int:
        return len(self.mlps)

    @property
    def intermediate(self) -> int:
        """Neurons per layer, I; the same in all layers."""
        return self.mlps[0].intermediate


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer, quantised ones included.

    Raises:
        UnsupportedArchitectureError: the module does not state them.
    """
    try:
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        raise UnsupportedArchitectureError(
            f"{type(module).__name__} has no in_features/out_features: it is not a linear layer that can be adapted"
        ) from None


def recognise_activation(module: nn.Module) -> ActName:
    """The name of an activation module, found by its values on a grid (float64).

    Raises:
        UnsupportedArchitectureError: it is none of :data:`ACTIVATIONS`.
    """
    grid = torch.linspace(-8.0, 8.0, 257, dtype=torch.float64)
    with torch.no_grad():
        values = module(grid)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(values, function(grid), rtol=1e-9, atol=1e-9):
            return name
    raise UnsupportedArchitectureError(
        f"activation {type(module).__name__} is not supported; accepted: {', '.join(ACTIVATIONS)}"
    )


def find_architecture(model: nn.Module) -> Architecture:
    """Find every gated MLP and adaptable linear layer of ``model``'s text decoder.

    Args:
        model: a Hugging Face causal LM (anything with ``get_decoder()`` and a ``layers`` list in it).

    Raises:
        UnsupportedArchitectureError: names what is missing and what is accepted.
    """
    kind = type(model).__name__
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(decoder, nn.Module) or not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise UnsupportedArchitectureError(f"{kind} has no decoder layers to adapt; {_accepted()}")
    prefixes = {id(module): name for name, module in model.named_modules()}
    mlps: list[GatedMlp] = []
    linears: dict[str, nn.Module] = {}
    for index, layer in enumerate(layers):
        found = list(_gated_mlps(layer))
        if len(found) != 1:
            what = "no gated MLP" if not found else f"{len(found)} gated MLPs (a mixture of experts?)"
            raise UnsupportedArchitectureError(f"layer {index} of {kind} has {what}; {_accepted()}")
        module, layout = found[0]
        down = getattr(module, layout.down)
        intermediate, _ = linear_shape(down)
        gate_out = [linear_shape(getattr(module, n))[1] for n in layout.linears if n != layout.down]
        if sum(gate_out) != 2 * intermediate:
            raise UnsupportedArchitectureError(
                f"{prefixes[id(module)]}: gate and up give {sum(gate_out)} values, expected {2 * intermediate}"
            )
        act = getattr(module, layout.act)
        mlps.append(GatedMlp(index, prefixes[id(module)], module, layout, recognise_activation(act), intermediate))
        for submodule in layer.modules():
            names = _attention_linears(submodule)
            if submodule is module:
                names = layout.linears
            for attribute in names:
                linear = getattr(submodule, attribute)
                linear_shape(linear)
                linears[prefixes[id(linear)]] = linear
    if len({mlp.intermediate for mlp in mlps}) != 1:
        sizes = sorted({mlp.intermediate for mlp in mlps})
        raise UnsupportedArchitectureError(f"{kind} has layers of different MLP sizes {sizes}; one size is accepted")
    if len({id(mlp.act_module) for mlp in mlps}) != len(mlps):
        raise UnsupportedArchitectureError(f"{kind} shares one activation module between layers")
    return Architecture(tuple(mlps), linears)


def split_gate_up(mlp: GatedMlp, x: Tensor) -> tuple[Tensor, Tensor]:
    """The base products gate(x) and up(x), each [..., I]; views of one tensor where the model merges them."""
    module, layout = mlp.module, mlp.layout
    if layout.merged is not None:
        merged = getattr(module, layout.merged)(x)
        return merged[..., : mlp.intermediate], merged[..., mlp.intermediate :]
    assert layout.gate is not None and layout.up is not None
    return getattr(module, layout.gate)(x), getattr(module, layout.up)(x)


def verify_gated_mlp(mlp: GatedMlp, device: torch.device | None = None) -> None:
    """Check on random input that the module computes ``down(act(gate(x)) * up(x))`` and nothing else.

    Args:
        mlp: of a model.
        device: where it runs, if that is not where its weights lie (offloaded ones). On the meta device nothing is checked.

    Raises:
        UnsupportedArchitectureError: its output differs (extra sparsity, clamping, scaling ...).
    """
    first = getattr(mlp.module, mlp.layout.linears[0])
    weight = next(iter(first.parameters()), None)
    if weight is None:
        return
    if (device := device or weight.device).type == "meta":
        return
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, linear_shape(first)[0], generator=generator).to(device, dtype)
    with torch.no_grad():
        gate, up = split_gate_up(mlp, x)
        ours = getattr(mlp.module, mlp.layout.down)(ACTIVATIONS[mlp.act](gate) * up).double()
        theirs = mlp.module(x).double()
    error = (ours - theirs).norm() / theirs.norm().clamp_min(1e-30)
    if not error < 5 * torch.finfo(dtype).eps:
        raise UnsupportedArchitectureError(
            f"{type(mlp.module).__name__} does not compute down(act(gate(x)) * up(x)): its output differs by "
            f"{float(error):.1e} (relative); {_accepted()}"
        )


def _gated_mlps(layer: nn.Module) -> Iterator[tuple[nn.Module, MlpLayout]]:
    for module in layer.modules():
        for layout in MLP_LAYOUTS:
            if all(isinstance(getattr(module, name, None), nn.Module) for name in (*layout.linears, layout.act)):
                yield module, layout


def _attention_linears(module: nn.Module) -> tuple[str, ...]:
    for names in ATTENTION_LAYOUTS:
        if all(isinstance(getattr(module, name, None), nn.Module) for name in names):
            return names
    return ()


def _accepted() -> str:
    layouts = " or ".join("{" + ", ".join((*layout.linears, layout.act)) + "}" for layout in MLP_LAYOUTS)
    return (
        f"accepted are causal LMs whose every layer has one gated MLP with {layouts} "
        "(Llama, Mistral, Qwen2, Qwen3, Gemma, Phi-3 and models of their shape)"
    )
