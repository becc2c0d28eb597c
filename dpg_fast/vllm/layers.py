"""vLLM's layers with personalities: a bank behind linear layers, bank and steering in gated activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearMethodBase

from dpg_fast.serving.slots import SlotPool
from dpg_fast.vllm import ops as _ops  # noqa: F401  (defines torch.ops.dpg_fast_vllm)

__all__ = ["BankMethod", "GatedActivation", "ProductsMethod", "Shared"]

PRIMITIVES = 32  # numbers of tokens that oneDNN keeps a product ready for; as vLLM has it for its own layers


@dataclass(frozen=True)
class Shared:
    """Buffers that all layers read: codes, strengths and slots, which stay where they are."""

    codes_a: Tensor
    codes_b: Tensor
    strengths: Tensor
    slots: Tensor
    live: Tensor
    steered: Tensor

    @classmethod
    def of(cls, pool: SlotPool) -> Shared:
        return cls(*pool.values[:3], pool.slots, pool.live, pool.steered)


class _Method(LinearMethodBase):
    """A layer's own method with something added; everything else that is asked of it goes to its own."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["own"], name)

    def create_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self.own.create_weights(*args, **kwargs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.own.process_weights_after_loading(layer)


class BankMethod(_Method):
    """``y`` with the bank's part added.

    Args:
        own: the layer's method so far.
        layer: gets the tensors as buffers, so that a compiled graph takes them as inputs.
        A: [G * K * r, d_in]; B: [K, r, d_out]; widths: outputs of the G linears; scale: of the bank.
    """

    def __init__(
        self, own: Any, layer: nn.Module, A: Tensor, B: Tensor, widths: list[int], scale: float, shared: Shared
    ) -> None:
        super().__init__(own)
        self.widths, self.scale = widths, scale
        self.handler, packed = _packed(A)
        codes = {"codes_a": shared.codes_a, "codes_b": shared.codes_b}
        _buffers(layer, A=A, packed=packed, B=B, **codes, slots=shared.slots, live=shared.live)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = self.own.apply(layer, x, bias)
        codes, slots = (layer.dpg_codes_a, layer.dpg_codes_b), layer.dpg_slots[: x.shape[0]]
        torch.ops.dpg_fast_vllm.add_bank(
            y, x, layer.dpg_A, layer.dpg_packed, layer.dpg_B, *codes, slots, layer.dpg_live, self.widths, self.scale
        )
        return y


class ProductsMethod(_Method):
    """``[y | x A^T]`` for gate and up: the activation that follows does the rest. A: [2 * K * r, d_in]."""

    def __init__(self, own: Any, layer: nn.Module, A: Tensor, shared: Shared) -> None:
        super().__init__(own)
        self.handler, packed = _packed(A)
        _buffers(layer, A=A, packed=packed, live=shared.live)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = self.own.apply(layer, x, bias)
        out: Tensor = torch.ops.dpg_fast_vllm.append_products(y, x, layer.dpg_A, layer.dpg_packed, layer.dpg_live)
        return out


class GatedActivation(nn.Module):
    """In place of an MLP's gated activation.

    Args:
        act: its name; width: neurons.
        bank: (B_gate, B_up, scale) where the layer before is a `ProductsMethod`'s, or None.
        steering: (clamp_mask, add) of the layer, or None.
    """

    dpg_slots: Tensor
    dpg_steered: Tensor

    def __init__(
        self,
        act: str,
        width: int,
        bank: tuple[Tensor, Tensor, float] | None,
        steering: tuple[Tensor, Tensor] | None,
        shared: Shared,
    ) -> None:
        super().__init__()
        self.act, self.width, self.scale = act, width, 1.0 if bank is None else bank[2]
        B_gate, B_up = (None, None) if bank is None else bank[:2]
        clamp_mask, add = (None, None) if steering is None else steering
        _buffers(self, B_gate=B_gate, B_up=B_up, clamp_mask=clamp_mask, add=add, **vars(shared))

    def forward(self, y: Tensor) -> Tensor:
        """[T, 2 * width + products] to [T, width]."""
        tokens = y.shape[0]
        h: Tensor = torch.ops.dpg_fast_vllm.gated(
            y,
            self.act,
            self.width,
            self.dpg_B_gate,
            self.dpg_B_up,
            self.dpg_codes_a,
            self.dpg_codes_b,
            self.dpg_slots[:tokens],
            self.dpg_live,
            self.scale,
            self.dpg_clamp_mask,
            self.dpg_add,
            self.dpg_strengths,
            self.dpg_steered[:tokens],
        )
        return h


def _packed(A: Tensor) -> tuple[Any, Tensor | None]:
    """(what must live as long as the handle, oneDNN's handle of A); (None, None) where vLLM has no oneDNN for A."""
    if not A.is_cpu or not hasattr(torch.ops._C, "create_onednn_mm_handler"):
        return None, None
    from vllm import _custom_ops

    try:
        handler = _custom_ops.create_onednn_mm(A.t(), PRIMITIVES)
    except RuntimeError:
        return None, None
    return handler, handler.handler_tensor


def _buffers(module: nn.Module, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        module.register_buffer(f"dpg_{name}", tensor, persistent=False)
