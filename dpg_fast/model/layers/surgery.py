"""Give a model's linear layers and gated MLPs a personality-aware forward, and take it back.

Modules keep their place, their parameters and their names: only their class changes, to a subclass made on the fly, so
``state_dict`` keys, tied weights, quantised layers and device placement are untouched, and undoing it is exact.
Without a call in progress the subclass runs the original forward, nothing else.

Why: docs/decisions.md, "Modules change class, they are not replaced".
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Set

import torch
from torch import Tensor, nn

from dpg_fast.architecture.finder import fuses
from dpg_fast.architecture.layers import SHARED_INPUT, Architecture
from dpg_fast.compat.torch import Held
from dpg_fast.model.layers.adapters import (
    ADAPTER,
    LinearAdapter,
    MlpAdapter,
    PersonalityActivation,
    PersonalityLinear,
    PersonalityMlp,
    mlp_bank,
)
from dpg_fast.model.layers.changes import Change, Changed
from dpg_fast.model.layers.places import Places
from dpg_fast.model.layers.residuals import RESIDUAL, residual_patches
from dpg_fast.model.layers.stacks import Stack, stackable
from dpg_fast.model.request import CallMirror, CallState
from dpg_fast.neurons import SteeringTable


class Surgery:
    """The changes made to one model.

    Args:
        architecture: of the model.
        places: where its layers run.
        state: read by the changed layers.
        sites: names of the linear layers that have a bank entry.
        scale: of the bank.
        steered: whether the MLPs steer neurons.

    Raises:
        UnsupportedArchitectureError: an MLP does not compute what its structure suggests, or has a forward of its own on the
            instance; nothing is changed then.
    """

    def __init__(
        self,
        architecture: Architecture,
        places: Places,
        state: CallState,
        sites: Set[str],
        scale: float,
        steered: bool,
    ) -> None:
        self.architecture = architecture
        self._state = state
        #: layers whose weights lie in stacks in use, which must stay as they are for these to be right
        self.held: list[Held] = []
        self.linear_adapters: dict[str, LinearAdapter] = {}
        self.mlp_adapters: dict[int, MlpAdapter] = {}
        self.changes: list[Change] = []
        #: layers and norms whose change makes them faster and nothing else, so that it need not be reached
        self.fused: list[Change] = []
        self._stacks: list[tuple[Stack, tuple[str, ...], MlpAdapter | None]] = []
        self._tied = _tied_weights(architecture)
        inside: set[str] = set()
        patches: list[tuple[str, nn.Module, type[Changed], LinearAdapter | MlpAdapter]] = []
        for mlp in architecture.mlps:
            names = {n: f"{mlp.name}.{n}" for n in mlp.layout.linears if n != mlp.layout.down}
            adapted = {n: full for n, full in names.items() if full in sites}
            if not (adapted or steered):
                continue
            if not fuses(mlp):
                if steered:
                    adapter = MlpAdapter(state, mlp, scale, False, fused=False)
                    self.mlp_adapters[mlp.layer] = adapter
                    assert mlp.act_module is not None
                    patches.append((adapter.name, mlp.act_module, PersonalityActivation, adapter))
                continue
            inside.update(names.values())
            adapter = MlpAdapter(state, mlp, scale, has_bank=len(adapted) == len(names))
            if adapted and not adapter.has_bank:
                adapter.partial = {n: LinearAdapter(state, scale, full) for n, full in adapted.items()}
                self.linear_adapters.update({adapted[n]: a for n, a in adapter.partial.items()})
            self.mlp_adapters[mlp.layer] = adapter
            patches.append((mlp.name, mlp.module, PersonalityMlp, adapter))
        for name in sorted(sites):
            if name in inside:
                continue
            linear_adapter = LinearAdapter(state, scale, name)
            self.linear_adapters[name] = linear_adapter
            patches.append((name, architecture.linears[name], PersonalityLinear, linear_adapter))
        self.place(places)
        self._plan_stacks(sites - inside)
        try:
            for name, module, mixin, part in patches:
                change = Change(name, module, mixin, ADAPTER, part, serves=mixin is PersonalityLinear)
                self.changes.append(change)
                if isinstance(part, LinearAdapter):
                    part.own = change.own
            for name, module, mixin, written in residual_patches(architecture, state) if self.changes else ():
                self.fused.append(Change(name, module, mixin, RESIDUAL, written))
        except BaseException:
            self.undo()
            raise

    def _plan_stacks(self, outside: Set[str]) -> None:
        """Group the plain linear layers that share an input; their buffers are made with the first bank."""
        linears = self.architecture.linears
        plans: list[tuple[tuple[str, ...], MlpAdapter | None]] = []
        for mlp in self.mlp_adapters.values():
            if mlp.has_bank:
                layout = mlp.mlp.layout
                first = tuple(f"{mlp.mlp.name}.{n}" for n in layout.linears if n != layout.down)
                plans.append((first, mlp))
        of_input: dict[str, list[str]] = {}
        for name in linears:  # in the order of the model's own calls: q, k, v
            if name in outside:
                parent, _, attribute = name.rpartition(".")
                shared = attribute in SHARED_INPUT
                of_input.setdefault(parent if shared else name, []).append(name)
        plans += [(tuple(names), None) for names in of_input.values()]
        for names, adapter in plans:
            layers = [linears[name] for name in names]
            if all(stackable(layer) and id(layer.weight) not in self._tied for layer in layers):
                holder = adapter.mlp.module if adapter is not None else None
                self._stacks.append((Stack(layers, holder), names, adapter))  # type: ignore[arg-type]

    def undo(self) -> None:
        """Give every module its own class and its weights their own memory back."""
        for stack, _, _ in self._stacks:
            stack.release()
        for change in (*self.changes, *self.fused):
            change.undo()
        self.changes.clear()
        self.fused.clear()

    def place(self, places: Places) -> None:
        """Let each layer read the running call on the device where it runs."""
        states: dict[torch.device, CallState | CallMirror] = {places.first: self._state}
        self._state.mirrors = tuple(CallMirror(device, self._state) for device in places.others)
        states |= {mirror.device: mirror for mirror in self._state.mirrors}
        for name, linear in self.linear_adapters.items():
            linear.state = states[places.of[name]]
        for mlp in self.mlp_adapters.values():
            device = places.of[mlp.mlp.first]
            mlp.state, mlp.device = states[device], device if places.others else None

    def set_bank(self, pair: Callable[[str], tuple[Tensor, Tensor]], stacked: bool) -> None:
        """Hand out the bank: ``pair(site name)`` gives A [K, r, d_in] and B [K, r, d_out] in compute dtype and on the layer's
        device.

        ``stacked`` puts copies of it below the base weights where that is possible; gradients do not reach copies.
        """
        pairs = functools.cache(pair)
        for name, linear in self.linear_adapters.items():
            linear.A, linear.B = pairs(name)
            linear.stack = None
        for adapter in self.mlp_adapters.values():
            adapter.stack = None
            self._set_mlp_bank(adapter, pairs)
        for stack, names, mlp in self._stacks if stacked else ():
            if not stack.fill([pairs(name) for name in names]):
                continue
            if mlp is not None:
                mlp.stack = stack
                continue
            for index, name in enumerate(names):
                linear = self.linear_adapters[name]
                linear.stack, linear.index = stack, index
        self.held = [layer for stack in self._used() for layer in stack.held]

    def _used(self) -> list[Stack]:
        """The stacks whose products stand for layers now."""
        found = [adapter.stack for adapter in self.linear_adapters.values()]
        found += [adapter.stack for adapter in self.mlp_adapters.values()]
        return [stack for stack in dict.fromkeys(found) if stack is not None]

    def update_bank(self, index: Tensor, pair: Callable[[str], tuple[Tensor, Tensor]]) -> None:
        """Copies of the bank take over its changed entries ``index`` (int64); `pair` gives the tensors of :meth:`set_bank`."""
        for adapter in self.mlp_adapters.values():
            if adapter.has_bank and adapter.A is not None:
                rows = mlp_bank(adapter.mlp, lambda name: _rows(pair(name), index))[0]
                adapter.A.index_copy_(1, index.to(rows.device), rows)
        used = self._used()
        for stack, names, _ in self._stacks:
            if stack in used:
                pairs = [pair(name) for name in names]
                stack.update(index.to(pairs[0][0].device), pairs)

    @property
    def changed(self) -> list[nn.Module]:
        """The modules through which a personality acts, which have another class until :meth:`undo`."""
        return [change.module for change in self.changes]

    def _set_mlp_bank(self, adapter: MlpAdapter, pair: Callable[[str], tuple[Tensor, Tensor]]) -> None:
        if adapter.has_bank:
            adapter.A, adapter.B_gate, adapter.B_up = mlp_bank(adapter.mlp, pair)

    def set_steering(self, table: SteeringTable, places: Places) -> None:
        """Put the rows of each layer on its device."""
        for layer, adapter in self.mlp_adapters.items():
            device = places.of[adapter.mlp.first]
            adapter.clamp_mask, adapter.add = table.clamp_mask[layer].to(device), table.add[layer].to(device)


def _rows(pair: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    here = index.to(pair[0].device)
    return pair[0][here], pair[1][here]


def _tied_weights(architecture: Architecture) -> set[int]:
    """Ids of weights that several of the layers share."""
    count = Counter(id(weight) for layer in architecture.linears.values() for weight in layer.parameters())
    return {weight for weight, uses in count.items() if uses > 1}
