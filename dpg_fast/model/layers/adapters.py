"""What a changed layer does in a call: the bank's part of linear layers, and bank and steering of MLPs.

Without a call in progress a changed layer runs its original forward, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.mlps import Mlp, split_gate_up
from dpg_fast.compat.torch import all_modules_hooked, children_of, has_hooks
from dpg_fast.kernels import GatedLora, Steering, lora_add, lora_combine, lora_shrink, steered, steered_gated_act
from dpg_fast.kernels.ops.steered_gated_act.reference import steered_gated_act_reference
from dpg_fast.model.layers.changes import Changed
from dpg_fast.model.layers.stacks import Stack
from dpg_fast.model.request import CallMirror, CallState, ForwardCall

ADAPTER = "dpg_adapter"


class LinearAdapter:
    """The bank's part of one linear layer.

    Attributes:
        state: where it finds the running call, on its own device.
        name: of the layer.
        A, B: [K, r, d_in] and [K, r, d_out], in the layer's compute dtype.
        stack, index: the product that also makes this layer's, and its place there; ``stack`` is None where the layer
            keeps its own product.
        own: a forward that the layer has on the instance, to be run in place of the class's; None without one.
    """

    __slots__ = ("A", "B", "index", "name", "own", "scale", "stack", "state")

    def __init__(self, state: CallState, scale: float, name: str) -> None:
        self.state: CallState | CallMirror = state
        self.name = name
        self.scale = scale
        self.A: Tensor | None = None
        self.B: Tensor | None = None
        self.stack: Stack | None = None
        self.index = 0
        self.own: Callable[..., Tensor] | None = None

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` with this layer's low-rank delta for ``x`` added in place; untouched when no bank takes part in the call."""
        call = self.state.call
        if call is None or call.lora_slots is None:
            return y
        if call.several is not None:
            call = call.seen_by(self.name, x)
        slots = call.lora_slots
        assert slots is not None
        A, B = (self.A, self.B) if call.values.pairs is None else call.values.pairs[self.name]
        assert A is not None and B is not None
        if y.dtype != A.dtype or x.dtype != A.dtype:  # under autocast the product's dtype is not the weights'
            x, A, B = x.to(y.dtype), A.to(y.dtype), B.to(y.dtype)
        return lora_add(y, x, A, B, call.values.codes_a, call.values.codes_b, slots, self.scale)


class MlpAdapter:
    """Bank and steering of one MLP.

    Attributes:
        state: where it finds the running call, on its own device.
        device: where it runs, in a model that runs on several; None where there is one.
        fused: the MLP's own forward is replaced; otherwise its layers and its activation are changed one by one.
        name: of the changed module: the MLP, or its activation.
        has_bank: gate and up both have a bank entry, so their expands ride along in the activation.
        partial: the bank's part when only one of them has.
        A: [G, K, r, d_in], both A sides of gate and up (G = 2), or that of their merged product (G = 1).
        B_gate, B_up: [K, r, I].
        clamp_mask, add: this layer's rows of the steering table, or None.
        stack: the product of gate, up and their A rows, or None where they keep their own products.
    """

    __slots__ = (
        *("A", "B_gate", "B_up", "act_module", "add", "clamp_mask", "device", "fused", "has_bank", "mlp"),
        *("name", "partial", "scale", "stack", "state"),
    )

    def __init__(self, state: CallState, mlp: Mlp, scale: float, has_bank: bool, fused: bool = True) -> None:
        self.state: CallState | CallMirror = state
        self.device: torch.device | None = None
        self.fused = fused
        self.name = mlp.name if fused else f"{mlp.name}.{mlp.layout.act}"
        self.mlp = mlp
        self.act_module = mlp.act_module
        self.scale = scale
        self.has_bank = has_bank
        self.partial: dict[str, LinearAdapter] = {}
        self.A: Tensor | None = None
        self.B_gate: Tensor | None = None
        self.B_up: Tensor | None = None
        self.clamp_mask: Tensor | None = None
        self.add: Tensor | None = None
        self.stack: Stack | None = None

    def activate(self, x: Tensor) -> Tensor:
        """``steer(act(gate)) * up`` for the MLP's input ``x`` [..., d_in], [..., I]."""
        call = self.state.call
        assert call is not None
        if call.several is not None:
            call = call.seen_by(self.mlp.name, x)
        if self.device is not None:
            x = x.to(self.device)
        lora = None
        if self.stack is not None and _bank_alone(call) and self.stack.takes(x):
            assert call.lora_slots is not None
            y, S = self.stack.product(x)
            gate, up = self.mlp.halves(y)
            u = lora_combine(S, call.values.codes_a, call.lora_slots, len(self.stack.widths))
            lora = self._expands(call, u, self.B_gate, self.B_up)
        else:
            gate, up = split_gate_up(self.mlp, x)
        if call.lora_slots is not None and lora is None:
            if self.has_bank:
                lora = self._ride_along(call, x, gate)
            for name, adapter in self.partial.items():
                if name == self.mlp.layout.gate:
                    gate = adapter.add_to(gate, x)
                else:
                    up = adapter.add_to(up, x)
        steering = self._steering(call)
        act = self._watched_activation()
        if act is not None:
            return _through(act, gate, up, lora, steering)
        assert self.mlp.act is not None
        return steered_gated_act(gate, up, self.mlp.act, lora=lora, steering=steering)

    def steer(self, v: Tensor) -> Tensor:
        """``steer(v)`` for the activation's output ``v`` [..., I] of an MLP that keeps its own forward."""
        call = self.state.call
        if call is None:
            return v
        if call.several is not None:
            call = call.seen_by(self.name, v)
        steering = self._steering(call)
        return v if steering is None else steered(v, steering)

    def _steering(self, call: ForwardCall) -> Steering | None:
        if call.steer_slots is None or self.clamp_mask is None:
            return None
        assert self.add is not None
        add = self.add if call.mask is None else call.mask.apply(self.add, self.mlp.layer)
        return Steering(self.clamp_mask, add, call.values.strengths, call.steer_slots)

    def _watched_activation(self) -> nn.Module | None:
        """The activation module where it has to be called itself: it has hooks, or is not what it was when it was recognised."""
        if self.mlp.layout.act is None:
            return None
        act: nn.Module = children_of(self.mlp.module)[self.mlp.layout.act]
        plain = act is self.act_module and "forward" not in act.__dict__ and not has_hooks(act)
        return None if plain and not all_modules_hooked() else act

    def _ride_along(self, call: ForwardCall, x: Tensor, gate: Tensor) -> GatedLora:
        assert call.lora_slots is not None
        A, B_gate, B_up = self.A, self.B_gate, self.B_up
        if call.values.pairs is not None:
            A, B_gate, B_up = mlp_bank(self.mlp, call.values.pairs.__getitem__)
        assert A is not None and B_gate is not None and B_up is not None
        if gate.dtype != A.dtype or x.dtype != A.dtype:
            x, A, B_gate, B_up = (t.to(gate.dtype) for t in (x, A, B_gate, B_up))
        return self._expands(call, lora_shrink(x, A, call.values.codes_a, call.lora_slots), B_gate, B_up)

    def _expands(self, call: ForwardCall, u: Tensor, B_gate: Tensor | None, B_up: Tensor | None) -> GatedLora:
        """``u`` [2, T, r], or [1, T, r] where gate and up are one layer."""
        assert call.lora_slots is not None and B_gate is not None and B_up is not None
        first, second = (u, None) if len(u) == 2 else (u[0], u[0])
        return GatedLora(first, B_gate, second, B_up, call.values.codes_b, call.lora_slots, self.scale)


class PersonalityLinear(Changed):
    """Mixin put in front of a linear layer's class."""

    dpg_adapter: LinearAdapter

    def forward(self, x: Tensor) -> Tensor:
        adapter = getattr(self, ADAPTER, None)
        if adapter is None:  # a bound method that somebody kept past unload()
            return type(self).forward(self, x)
        call, stack = adapter.state.call, adapter.stack
        if adapter.state.reached is not None:
            adapter.state.reached.add(adapter)
        if stack is not None and call is not None and _bank_alone(call) and stack.takes(x):
            if call.several is not None:
                call = call.seen_by(adapter.name, x)
            return stack.output(adapter.index, x, call, adapter.scale)
        y = super().forward(x) if adapter.own is None else adapter.own(x)  # type: ignore[misc]
        return adapter.add_to(y, x)


class PersonalityMlp(Changed):
    """Mixin put in front of a gated MLP's class."""

    dpg_adapter: MlpAdapter

    def forward(self, x: Tensor) -> Tensor:
        adapter = getattr(self, ADAPTER, None)
        if adapter is None:
            return type(self).forward(self, x)
        if adapter.state.call is None:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        if adapter.state.reached is not None:
            adapter.state.reached.add(adapter)
        return getattr(self, adapter.mlp.layout.down)(adapter.activate(x))  # type: ignore[no-any-return]


class PersonalityActivation(Changed):
    """Mixin put in front of the class of an activation, where the MLP keeps its own forward."""

    dpg_adapter: MlpAdapter

    def forward(self, x: Tensor) -> Tensor:
        adapter = getattr(self, ADAPTER, None)
        if adapter is None:
            return type(self).forward(self, x)
        if adapter.state.reached is not None:
            adapter.state.reached.add(adapter)
        return adapter.steer(super().forward(x))  # type: ignore[misc]


def _bank_alone(call: ForwardCall) -> bool:
    """Whether a bank takes part, and the call brings no weights of its own."""
    return call.lora_slots is not None and call.values.pairs is None


def mlp_bank(mlp: Mlp, pair: Callable[[str], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """A [G, K, r, d_in], B_gate and B_up [K, r, I] of an MLP whose gate and up both have a bank entry."""
    layout = mlp.layout
    if layout.merged is not None:
        A, B = pair(f"{mlp.name}.{layout.merged}")
        return (A[None], *mlp.halves(B))
    A_gate, B_gate = pair(f"{mlp.name}.{layout.gate}")
    A_up, B_up = pair(f"{mlp.name}.{layout.up}")
    return torch.stack([A_gate, A_up]), B_gate, B_up


def _through(act: nn.Module, gate: Tensor, up: Tensor, lora: GatedLora | None, steering: Steering | None) -> Tensor:
    """``steer(act(gate)) * up`` with the activation module called: its hooks see, and may change, the steered values."""

    def steer(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if steering is None else steered(output, steering)

    def activation(rows: Tensor) -> Tensor:
        return act(rows.view(gate.shape)).reshape(rows.shape)  # type: ignore[no-any-return]

    first = act.register_forward_hook(steer, prepend=True)
    try:
        rows = (gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1]))
        return steered_gated_act_reference(*rows, activation, lora=lora).view(gate.shape)
    finally:
        first.remove()
