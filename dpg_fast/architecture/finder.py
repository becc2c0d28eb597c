"""Find a decoder layer's MLP by its structure, and prove what it computes by running it on three rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dpg_fast.architecture.mlps import (
    ACTIVATIONS,
    NAMED_LAYOUTS,
    ActName,
    Mlp,
    MlpLayout,
    UnsupportedArchitectureError,
    gate_and_up,
    is_linear,
    linear_children,
    linear_shape,
    split_gate_up,
)
from dpg_fast.compat.accelerate import runs_on

FORMULA = "down(act(gate(x)) * up(x))"


def is_activation(module: nn.Module) -> bool:
    """Whether a module is a function of each number on its own, and changes it."""
    if is_linear(module) or isinstance(module, (nn.Dropout, nn.Identity)):
        return False
    own = next(module.parameters(), None)
    if own is not None and (own.device.type == "meta" or own.dim() > 1):
        return False
    grid = torch.linspace(-8.0, 8.0, 257)
    if own is not None:
        grid = grid.to(own.device, own.dtype)
    try:
        with torch.no_grad():
            values, some = module(grid), module(grid[:100])
    except Exception:  # whatever it needs, it is not a function of numbers
        return False
    if not isinstance(values, Tensor) or values.shape != grid.shape or some.shape != grid[:100].shape:
        return False
    return torch.equal(values[:100], some) and not torch.equal(values, grid)


def recognise_activation(module: nn.Module) -> ActName | None:
    """The name of an activation module, found by its values on a grid (float64); None when it is not in :data:`ACTIVATIONS`."""
    if next(module.parameters(), None) is not None:
        return None
    grid = torch.linspace(-8.0, 8.0, 257, dtype=torch.float64)
    with torch.no_grad():
        values = module(grid)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(values, function(grid), rtol=1e-9, atol=1e-9):
            return name
    return None


class MlpFinder:
    """Finds MLPs in decoder layers; what was learnt of one module is used for all that are written alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], MlpLayout | None] = {}

    def layout(self, module: nn.Module) -> MlpLayout | None:
        """How ``module`` is written, if its direct children are those of an MLP."""
        linears = linear_children(module)
        shape = _shape_layout(linears)
        if shape is None:
            return None
        sizes = tuple((name, linear_shape(linear)) for name, linear in linears.items())
        key = (type(module), tuple(name for name, _ in module.named_children()), sizes)
        if key not in self._known:
            self._known[key] = _settle(module, linears, shape)
        return self._known[key]


def _shape_layout(linears: Mapping[str, nn.Module]) -> MlpLayout | None:
    """A layout whose sizes fit, parts named where the names say it; which of two equal layers is the gate is open."""
    named = next((layout for layout in NAMED_LAYOUTS if all(name in linears for name in layout.linears)), None)
    shapes = {name: linear_shape(linear) for name, linear in linears.items()}
    if named is not None:
        inner = shapes[named.down][0]
        given = sum(shapes[name][1] for name in named.linears if name != named.down)
        return named if given == 2 * inner else None
    names = list(shapes)
    for down in names:
        inner, outer = shapes[down]
        firsts = [name for name in names if name != down]
        if len(names) == 3 and all(shapes[name] == (outer, inner) for name in firsts):
            return MlpLayout(firsts[0], firsts[1], None, down, None)
        if len(names) == 2 and shapes[firsts[0]] == (outer, 2 * inner):
            return MlpLayout(None, None, firsts[0], down, None)
        if len(names) == 2 and shapes[firsts[0]] == (outer, inner):
            first, last = (firsts[0], down) if names.index(firsts[0]) < names.index(down) else (down, firsts[0])
            if shapes[first][0] == shapes[last][1]:
                return MlpLayout(first, None, None, last, None)
    return None


@dataclass(frozen=True)
class _Seen:
    """One run of a module on x [3, d].

    Attributes:
        io: what each watched layer was given and gave, as rows; empty unless each was called once.
        rowwise: whether the module keeps rows apart.
    """

    x: Tensor
    io: dict[str, tuple[Tensor, Tensor]]
    rowwise: bool


def _watch(module: nn.Module, names: Iterable[str]) -> _Seen | None:
    """Run ``module`` on three random rows in evaluation mode and watch the layers ``names`` in it.

    None when it needs more than one tensor, or cannot run here.
    """
    watched = {name: module.get_submodule(name) for name in names}
    linears = [layer for layer in watched.values() if is_linear(layer)]
    weight = next(linears[0].parameters(), None)
    if weight is None or (device := runs_on(linears[0], module)).type == "meta":
        return None
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.bfloat16
    for width in dict.fromkeys(linear_shape(linear)[0] for linear in linears):
        x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in watched}
        handles = [layer.register_forward_hook(_recorder(calls[name])) for name, layer in watched.items()]
        try:
            with torch.no_grad(), evaluating(module):
                y = module(x)
                for handle in handles:
                    handle.remove()
                some = [2, 0]  # neither neighbours before nor after are there
                rowwise = isinstance(y, Tensor) and _close(module(x[:, some]), y[:, some], 1000)
        except Exception:  # an attention or a convolution asks for more, or for another size
            continue
        finally:
            for handle in handles:
                handle.remove()
        once = all(len(found) == 1 for found in calls.values())
        return _Seen(x[0], {name: found[0] for name, found in calls.items()} if once else {}, rowwise)
    return None


def _recorder(found: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((args[0].detach().clone().flatten(0, -2), output.detach().clone().flatten(0, -2)))

    return record


def _settle(module: nn.Module, linears: Mapping[str, nn.Module], layout: MlpLayout) -> MlpLayout | None:
    """``layout`` with its parts and its activation; None when ``module`` turns out not to be an MLP."""
    acts = [name for name, child in module.named_children() if is_activation(child)]
    act = acts[0] if len(acts) == 1 else None
    named = any(layout.linears == known.linears for known in NAMED_LAYOUTS)
    if named and act is not None:
        return replace(layout, act=act)
    seen = _watch(module, [*linears, *(acts if act is not None else ())])
    if seen is not None and not seen.io and act is not None and layout.gated:
        act, seen = None, _watch(module, linears)  # the module is there, and a function is used
    if seen is not None:
        return _roles(seen, layout, act) if seen.io else None
    # A decoder layer that holds the MLP's layers among others cannot be run alone (OPT); use proves the rest.
    return replace(layout, act=act) if act is not None and not layout.gated else None


def _roles(seen: _Seen, layout: MlpLayout, act: str | None) -> MlpLayout | None:
    """Which layer is gate, up and down, and which half is which; None when it is not an MLP's computation."""
    if not layout.gated and act is not None:
        # From one layer through the activation into the other, whatever else the module does (OPT has no module for its MLP).
        for one, other in (layout.linears, layout.linears[::-1]):
            if torch.equal(seen.io[act][0], seen.io[one][1]) and torch.equal(seen.io[act][1], seen.io[other][0]):
                return MlpLayout(one, None, None, other, act)
    given = [name for name in layout.linears if torch.equal(seen.io[name][0], seen.x)]
    last = [name for name in layout.linears if name not in given]
    if len(last) != 1 or not seen.rowwise:
        return None
    down = last[0]
    if act is not None and seen.io[act][1].shape[-1] != seen.io[down][0].shape[-1]:
        return None
    if not layout.gated:
        return MlpLayout(given[0], None, None, down, act) if act is not None else None
    if layout.merged is not None:
        orders = [replace(layout, act=act), replace(layout, act=act, up_first=True)]
    else:
        orders = [MlpLayout(one, two, None, down, act) for one, two in (given, given[::-1])]
    for order in orders:
        if _function(seen, order) is not None:
            return order
    return orders[0] if act is not None else None


def _function(seen: _Seen, layout: MlpLayout) -> ActName | None:
    """The activation with which a gated MLP of this layout computes what went into its last layer."""
    hidden = seen.io[layout.down][0]
    gate, up = gate_and_up(layout, hidden.shape[-1], lambda name: seen.io[name][1])
    return next((name for name, function in ACTIVATIONS.items() if _close(function(gate) * up, hidden)), None)


def activation_of(module: nn.Module, layout: MlpLayout) -> ActName | None:
    """The name of an MLP's activation, be it a module or a function; None for those that the kernels do not know."""
    if layout.act is not None:
        return recognise_activation(module.get_submodule(layout.act))
    seen = _watch(module, layout.linears)
    return _function(seen, layout) if seen is not None and seen.io else None


def fuses(mlp: Mlp) -> bool:
    """Whether the module computes ``down(act(gate(x)) * up(x))``, with an activation that the kernels know, and nothing else.

    Others keep their own forward, and their neurons are steered behind the activation module.

    Raises:
        UnsupportedArchitectureError: it does not, and neither does it call an activation module once on I values. (Of a module
            that cannot be run with one input, such as Zamba 2's, use has to show it.)
    """
    layout = mlp.layout
    weight = next(mlp.module.get_submodule(layout.source).parameters(), None)
    unseen = weight is None or runs_on(mlp.module.get_submodule(layout.source), mlp.module).type == "meta"
    if layout.gated and mlp.act is not None and (unseen or _same_output(mlp)):
        return True
    if layout.act is None:
        raise UnsupportedArchitectureError(
            f"{mlp.name} ({type(mlp.module).__name__}) does not compute {FORMULA}, and it applies its activation as a "
            "function, where its neurons cannot be reached"
        )
    if unseen or not layout.gated:
        return False
    seen = _watch(mlp.module, [*layout.linears, layout.act])
    if seen is not None and (not seen.io or seen.io[layout.act][1].shape[-1] != mlp.intermediate):
        raise UnsupportedArchitectureError(
            f"{mlp.name} ({type(mlp.module).__name__}) does not compute {FORMULA}, and does not call each of "
            f"{', '.join((*layout.linears, layout.act))} once"
        )
    return False


def _same_output(mlp: Mlp) -> bool:
    """The formula beside the module's own output."""
    if any(isinstance(inner, nn.Dropout) and inner.p > 0 for inner in mlp.module.modules()):
        return False
    source = mlp.module.get_submodule(mlp.layout.source)
    weight = next(source.parameters())
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.bfloat16
    width = linear_shape(source)[0]
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).to(runs_on(source, mlp.module), dtype)
    assert mlp.act is not None
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in mlp.layout.linears}
    handles = [mlp.module.get_submodule(name).register_forward_hook(_recorder(calls[name])) for name in calls]
    with torch.no_grad():
        try:
            y = mlp.module(x)
        except Exception:  # it needs more than its input (Zamba 2: the layer's number)
            return False
        finally:
            for handle in handles:
                handle.remove()
        if all(len(found) == 1 for found in calls.values()):  # each weight is read once, which is what this costs
            hidden, output = calls[mlp.layout.down][0]
            gate, up = gate_and_up(mlp.layout, mlp.intermediate, lambda name: calls[name][0][1])
            same = all(torch.equal(calls[name][0][0], x) for name in calls if name != mlp.layout.down)
            return same and _close(ACTIVATIONS[mlp.act](gate) * up, hidden) and _close(output, y)
        gate, up = split_gate_up(mlp, x)
        return _close(mlp.module.get_submodule(mlp.layout.down)(ACTIVATIONS[mlp.act](gate) * up), y)


def _close(found: Tensor, expected: Tensor, roundings: int = 5) -> bool:
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    return bool(error < roundings * torch.finfo(expected.dtype).eps)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` and all below it in evaluation mode."""
    training = [inner for inner in module.modules() if inner.training]
    for inner in training:
        inner.training = False
    try:
        yield
    finally:
        for inner in training:
            inner.training = True
