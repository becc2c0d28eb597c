"""Decoder layers that add the residual and normalise in one operation while a call is in progress.

Of an eager Hugging Face layer that is one launch on a GPU in the place of nine, twice a layer. What a layer computes stays the
same, and its parts are called as modules, so hooks on them run. Where something watches a norm or stands in its place, where
autocast mixes dtypes, and where gradients are due, the layer's own additions and norms run.

Why: docs/decisions.md, "Residual and norm in one operation".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import Architecture
from dpg_fast.architecture.residuals import PreNorm, RmsNorm, pre_norm, rms_norm
from dpg_fast.compat import accelerate
from dpg_fast.compat.torch import all_modules_hooked, has_hooks
from dpg_fast.kernels import add_rmsnorm
from dpg_fast.model.layers.changes import Changed
from dpg_fast.model.request import CallState

__all__ = ["RESIDUAL", "residual_patches"]

RESIDUAL = "dpg_residual"


class _Ready(NamedTuple):
    """The norm's output for an input that it will be given next, and that input's version, where it has one."""

    x: Tensor
    out: Tensor
    version: int


class NormAdapter:
    """What a changed norm knows.

    Attributes:
        norm: how it is written.
        ready: what the layer before has made already, or None.
    """

    __slots__ = ("norm", "ready")

    def __init__(self, norm: RmsNorm) -> None:
        self.norm = norm
        self.ready: _Ready | None = None


class LayerAdapter:
    """What a changed decoder layer knows.

    Attributes:
        state: holds the running call.
        layout: how the layer is written.
        after: the norm that its output goes into, of the next layer or of the decoder; None where that is not known.
        following: the next layer, or None.
    """

    __slots__ = ("after", "following", "layout", "state")

    def __init__(self, state: CallState, layout: PreNorm, after: nn.Module | None, following: nn.Module | None) -> None:
        self.state, self.layout, self.after, self.following = state, layout, after, following


class PersonalityNorm(Changed):
    """Mixin put in front of an RMSNorm's class."""

    dpg_residual: NormAdapter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        adapter = getattr(self, RESIDUAL, None)
        if adapter is None:  # a bound method that somebody kept past unload()
            return type(self).forward(self, *args, **kwargs)
        ready = adapter.ready
        if ready is not None:
            adapter.ready = None
            if len(args) == 1 and args[0] is ready.x and _version(ready.x) == ready.version:
                return ready.out
        return super().forward(*args, **kwargs)  # type: ignore[misc]


class PersonalityLayer(Changed):
    """Mixin put in front of a decoder layer's class."""

    keeps_name = True  # FSDP and accelerate look the class up by the name that the model states
    dpg_residual: LayerAdapter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        adapter = getattr(self, RESIDUAL, None)
        if adapter is None:
            return type(self).forward(self, *args, **kwargs)
        layout = adapter.layout
        if adapter.state.call is None or len(args) != 1 or not _serves(self, layout, kwargs):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        (residual,) = args
        x = getattr(self, layout.first)(residual)
        given = {inner: kwargs[name] for name, inner in layout.passed}
        given.update({name: value for name, value in kwargs.items() if name not in layout.named})
        attention = getattr(self, layout.attention)
        y = attention(x, **given)[0] if layout.takes is None else attention(**{layout.takes: x}, **given)[0]
        residual, x = _add_norm(y, residual, getattr(self, layout.second))
        y = getattr(self, layout.mlp)(x)
        after = adapter.after
        if after is None or _watched(self) or (adapter.following is not None and _watched(adapter.following)):
            return residual + y
        fused = _fused(y, residual, after)
        if fused is None:
            return residual + y
        getattr(after, RESIDUAL).ready = _Ready(*fused, _version(fused[0]))
        return fused[0]


def _serves(layer: nn.Module, layout: PreNorm, kwargs: dict[str, Any]) -> bool:
    """Whether the layer is called as it was when its layout was found, and no dropout acts."""
    if any(name not in kwargs for name, _ in layout.passed) or not (layout.others or kwargs.keys() <= layout.named):
        return False
    for name in layout.dropouts:
        dropout: Any = getattr(layer, name)
        if has_hooks(dropout) or (dropout.training and dropout.p > 0):
            return False
    return True


def _watched(layer: nn.Module) -> bool:
    """Whether somebody is handed the layer's input or output, who may write to it in place."""
    return has_hooks(layer) or "forward" in layer.__dict__


def _add_norm(y: Tensor, residual: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    fused = _fused(y, residual, norm)
    if fused is not None:
        return fused
    h = residual + y
    return h, norm(h)


def _fused(y: Tensor, residual: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """``residual + y`` and its norm; None where they have to be made one by one."""
    adapter = getattr(norm, RESIDUAL, None)
    if adapter is None or "forward" in norm.__dict__ or has_hooks(norm) or all_modules_hooked():
        return None
    weight: Any = norm._parameters.get("weight")
    if (
        weight is None
        or not (y.dtype == residual.dtype == weight.dtype)
        or not (y.device == residual.device == weight.device)
        or y.shape != residual.shape
        or (torch.is_grad_enabled() and (y.requires_grad or residual.requires_grad or weight.requires_grad))
        or not (_foldable(y) and _foldable(residual))
    ):
        return None
    eps = getattr(norm, adapter.norm.eps)
    return add_rmsnorm(y, residual, weight, eps, unit_offset=adapter.norm.unit_offset)


def _foldable(t: Tensor) -> bool:
    """Whether [rows, length, d] can be read as [rows * length, d] where it lies."""
    if t.is_contiguous():
        return True
    return t.dim() == 3 and t.stride(2) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))


def _version(t: Tensor) -> int:
    """Counts writes in place; 0 where nobody counts them."""
    return 0 if torch.compiler.is_compiling() or t.is_inference() else t._version


Patch = tuple[str, nn.Module, type[Changed], NormAdapter | LayerAdapter]


def residual_patches(architecture: Architecture, state: CallState) -> Iterator[Patch]:
    """(name, module, mixin, adapter) for the decoder layers that are of the kind, and for the norms around their parts.

    Layers and norms that have a forward of their own on the instance, or serve twice, are left as they are.
    """
    layers = list(architecture.layers)
    uses = Counter(id(layer) for layer in layers)
    layouts = [pre_norm(layer) if uses[id(layer)] == 1 and _plain(layer) else None for layer in layers]
    norms: dict[str, nn.Module] = {}
    before: list[nn.Module | None] = []
    for number, (layer, layout) in enumerate(zip(layers, layouts, strict=True)):
        before.append(None if layout is None else getattr(layer, layout.first))
        for name in () if layout is None else (layout.first, layout.second):
            norms[f"layer {number}: {name}"] = getattr(layer, name)
    last = {name: norm for name, norm in architecture.decoder.named_children() if rms_norm(norm) is not None}
    norms |= last
    before.append(next(iter(last.values())) if len(last) == 1 else None)
    of_norm = Counter(id(norm) for norm in norms.values())
    for name, norm in norms.items():
        written = rms_norm(norm)
        if written is not None and of_norm[id(norm)] == 1 and _plain(norm) and type(norm.weight.data) is Tensor:
            yield name, norm, PersonalityNorm, NormAdapter(written)
    for number, (layer, layout) in enumerate(zip(layers, layouts, strict=True)):
        if layout is not None:
            following = layers[number + 1] if number + 1 < len(layers) else None
            yield f"layer {number}", layer, PersonalityLayer, LayerAdapter(state, layout, before[number + 1], following)


def _plain(module: nn.Module) -> bool:
    return accelerate.runs_class_forward(module) and not accelerate.brings_weights(module)
