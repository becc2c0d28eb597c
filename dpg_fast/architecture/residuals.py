"""Decoder layers whose residual additions and RMSNorms can run as one operation, found by structure and proved by value.

The layer's own forward is run with recorders in the place of its parts; one whose parts are put together in another way
(post-norms, multipliers, parallel attention) is not of this kind.

Why: docs/decisions.md, "Residual and norm in one operation".
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.kernels import add_rmsnorm_reference

__all__ = ["PreNorm", "RmsNorm", "pre_norm", "rms_norm"]

_WIDTH = 16


@dataclass(frozen=True)
class RmsNorm:
    """How an RMSNorm module is written.

    Attributes:
        eps: name of the attribute that holds its epsilon.
        unit_offset: it multiplies by 1 + weight.
    """

    eps: str
    unit_offset: bool


@dataclass(frozen=True)
class PreNorm:
    """A layer that computes ``h = x + attention(first(x), ...)[0]`` and returns ``h + mlp(second(h))``.

    Attributes:
        first, attention, second, mlp: attributes of the layer.
        takes: the keyword under which the attention gets its input; None where it is positional.
        passed: keywords of the layer's forward, each with that under which the attention gets it.
        named: keywords of the layer's forward, passed on or not.
        others: whether keywords that its forward does not name are passed on.
        dropouts: attributes of dropouts on the way to the additions.
    """

    first: str
    attention: str
    second: str
    mlp: str
    takes: str | None
    passed: tuple[tuple[str, str], ...]
    named: frozenset[str]
    others: bool
    dropouts: tuple[str, ...]


def rms_norm(module: nn.Module) -> RmsNorm | None:
    """How ``module`` is written if it is an RMSNorm that `add_rmsnorm` computes, roundings included; else None."""
    own = module._parameters.get("weight")
    if own is None or own.dim() != 1 or len(module._parameters) != 1 or module._modules or module._buffers:
        return None
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(_WIDTH, generator=g).bfloat16()
    x = torch.randn(32, _WIDTH, generator=g) * torch.logspace(-4, 2, 32)[:, None]  # epsilon counts in the first rows
    x = x.bfloat16()
    probe = copy.copy(module)
    probe.__dict__["_parameters"] = {"weight": nn.Parameter(weight, requires_grad=False)}
    try:
        with torch.no_grad():
            found = type(module).forward(probe, x)
    except Exception:  # whatever it needs, it is not a norm of one input
        return None
    for name, value in vars(module).items():
        for offset in (False, True) if isinstance(value, float) and value > 0 else ():
            expected = add_rmsnorm_reference(torch.zeros_like(x), x, weight, value, unit_offset=offset)[1]
            if isinstance(found, Tensor) and found.dtype == x.dtype and torch.equal(found, expected):
                return RmsNorm(name, offset)
    return None


class _Recorder(nn.Module):
    """Stands for a part of a layer and says what it is called with."""

    def __init__(self, called: Callable[..., Any]) -> None:
        super().__init__()
        self.called = called

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.called(args, kwargs)


def pre_norm(layer: nn.Module) -> PreNorm | None:
    """How ``layer`` is written if it computes what `PreNorm` says and nothing else; None otherwise."""
    parts = dict(layer.named_children())
    dropouts = tuple(name for name, part in parts.items() if isinstance(part, nn.Dropout))
    norms = [name for name, part in parts.items() if rms_norm(part) is not None]
    if len(parts) - len(dropouts) != 4 or len(norms) != 2 or layer._parameters or layer._buffers:
        return None
    parameters = list(inspect.signature(type(layer).forward).parameters.values())[2:]  # without self and the input
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    others = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    marks: dict[str, object] = {p.name: object() for p in parameters if p.kind != p.VAR_KEYWORD}
    named = frozenset(marks)
    extra = "dpg_other" if others else None
    if extra is not None:
        marks[extra] = object()
    x, *given = torch.randn(5, 1, 3, _WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def recorder(name: str) -> nn.Module:
        def called(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            calls.append((name, args, kwargs))
            value = given[len(calls) - 1]
            return value if len(calls) != 2 else (value, None)

        return _Recorder(called)

    probe = copy.copy(layer)
    probe.__dict__["_modules"] = {name: nn.Identity() if name in dropouts else recorder(name) for name in parts}
    probe.__dict__["training"] = False
    try:
        output = type(layer).forward(probe, x, **marks)
    except Exception:  # it does more with its arguments or its parts than hand them on
        return None
    order = [name for name, _, _ in calls]
    if len(set(order)) != 4 or len(order) != 4 or {order[0], order[2]} != set(norms):
        return None
    _, attention, _, mlp = given
    first, into, second, last = (_input(args, kwargs, marks) for _, args, kwargs in calls)
    inner = x + attention
    right = (
        isinstance(output, Tensor)
        and torch.equal(output, inner + mlp)
        and first is x
        and into is given[0]
        and isinstance(second, Tensor)
        and torch.equal(second, inner)
        and last is given[2]
        and all(len(args) == 1 and not kwargs for _, args, kwargs in (calls[0], calls[2], calls[3]))
    )
    handed = {mark: name for name, mark in marks.items()}
    _, args, kwargs = calls[1]
    takes = None if args else next(name for name, value in kwargs.items() if value is into)
    rest = {name: value for name, value in kwargs.items() if name != takes}
    if not right or any(value not in handed for value in rest.values()):
        return None
    passed = tuple((handed[value], name) for name, value in rest.items())
    if (extra is not None) and (extra, extra) not in passed:
        return None
    passed = tuple(pair for pair in passed if pair[0] != extra)
    return PreNorm(order[0], order[1], order[2], order[3], takes, passed, named, others, dropouts)


def _input(args: tuple[Any, ...], kwargs: dict[str, Any], marks: dict[str, object]) -> Any:
    """The one tensor that a part was given."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return tensors[0] if len(tensors) == 1 and len(args) <= 1 else None
