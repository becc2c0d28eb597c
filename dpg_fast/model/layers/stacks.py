"""Base weights and the bank's A rows in one buffer, so that the base product also makes the LoRA's inner products.

``[W_1; ...; W_G; A_1; ...; A_G]`` is one matrix; the layers' own weights become views of it, so nothing is held twice, and
``state_dict``, in-place updates and forwards without a personality work as before. Only plain ``nn.Linear`` layers
are stacked; quantised or otherwise foreign ones keep their own product, and the LoRA runs beside it.

Why: docs/decisions.md, "Base weights and the bank's A rows share one buffer".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpg_fast.compat.accelerate import brings_weights, runs_class_forward
from dpg_fast.compat.torch import Held, children_of, has_hooks, still_held, where
from dpg_fast.kernels import linear_product, lora_stacked_add
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.request import ForwardCall


class Stack:
    """One product for G linear layers of the same input.

    Args:
        layers: plain linear layers (see :func:`stackable`).
        holder: the module that calls them itself, where the layers are not changed; they must still be its own.

    Attributes:
        widths: outputs of each layer.
        held: the layers and where their weights lie in the buffer; empty without one.
        B: [K, r, sum(widths)], their banks' B sides next to each other; None until :meth:`fill`.
    """

    def __init__(self, layers: Sequence[nn.Linear], holder: nn.Module | None = None) -> None:
        self.layers = tuple(layers)
        self._holder = holder
        self.widths = tuple(layer.out_features for layer in layers)
        self.B: Tensor | None = None
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self.held: tuple[Held, ...] = ()
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = []

    def fill(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Copy the banks in: A [K, r, d_in] and B [K, r, d_out] of each layer, in the layers' dtype.

        Buffers that still hold the layers' weights are kept, so that captured CUDA graphs stay valid.

        Returns:
            False when the layers cannot be stacked (dtype, device or hooks); the buffers are given up then.
        """
        A = pairs[0][0]
        alike = all(layer.weight.dtype == A.dtype and layer.weight.device == A.device for layer in self.layers)
        if not alike or A.device.type == "meta" or not self._plain():
            self.release()
            return False
        K, r, width = A.shape
        total = sum(self.widths)
        if not self.intact() or self.B is None or self.B.shape[:2] != A.shape[:2]:
            self._build(len(pairs) * K * r, width)
            with lasting():
                self.B = A.new_empty(K, r, total)
        assert self._weight is not None and self.B is not None
        rows = self._weight[total:].view(len(pairs), K, r, width)
        begin = 0
        for index, (A, B) in enumerate(pairs):
            rows[index].copy_(A)
            self.B[..., begin : begin + B.shape[2]].copy_(B)
            begin += B.shape[2]
        return True

    def _plain(self) -> bool:
        """Whether nothing is attached to the layers now, and the holder still calls these."""
        if any(has_hooks(layer) or "parametrizations" in children_of(layer) for layer in self.layers):
            return False
        if self._holder is None:  # the changed layers' own forward comes here, whatever is around it
            return True
        held = list(children_of(self._holder).values())
        return all(
            type(layer) is nn.Linear and layer in held and "forward" not in layer.__dict__ for layer in self.layers
        )

    def update(self, index: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy the changed entries ``index`` (int64) of the banks, after :meth:`fill` with banks of these shapes."""
        assert self._weight is not None and self.B is not None
        A = pairs[0][0]
        rows = self._weight[sum(self.widths) :].view(len(pairs), *A.shape)
        begin = 0
        for number, (A, B) in enumerate(pairs):
            rows[number].index_copy_(0, index, A[index])
            self.B[..., begin : begin + B.shape[2]].index_copy_(0, index, B[index])
            begin += B.shape[2]

    def intact(self) -> bool:
        """Whether the product may still stand for the layers' own.

        So it may as long as their weights are the views made here, and nothing is attached to them. In-place updates
        (training, ``load_state_dict``) write through the views; ``to()``, a cast, ``param.data =`` or a new Parameter give a
        layer memory of its own, and the buffer would go on with the old numbers.
        """
        return self._weight is not None and still_held(self.held)

    def release(self) -> None:
        """Give each layer memory of its own again."""
        with lasting():
            for layer in self.layers if self._weight is not None else ():
                for part, whole in ((layer.weight, self._weight), (layer.bias, self._bias)):
                    if part is not None and whole is not None and _same_storage(part, whole):
                        part.data = part.data.clone()
        self._weight = self._bias = self.B = None
        self.held = ()

    def takes(self, x: Tensor) -> bool:
        """Whether the stacked product may stand for the layers' own (not under autocast, not when gradients are due)."""
        return (
            self._weight is not None
            and x.dtype == self._weight.dtype
            and not x.requires_grad
            and not torch.is_autocast_enabled(x.device.type)
        )

    def product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y [..., sum(widths)] and S [..., G * K * r], views of one result."""
        assert self._weight is not None
        out = linear_product(x, self._weight, self._bias)
        total = sum(self.widths)
        return out[..., :total], out[..., total:]

    def output(self, index: int, x: Tensor, call: ForwardCall, scale: float) -> Tensor:
        """What layer ``index`` gives for ``x``, LoRA included.

        The layers are called one after another on one input: the first call computes for all, the others collect.
        """
        if self._input is not x or self._outputs[index] is None:
            assert self.B is not None and call.lora_slots is not None
            y, S = self.product(x)
            lora_stacked_add(
                y, S, self.B, call.values.codes_a, call.values.codes_b, call.lora_slots, self.widths, scale
            )
            if len(self.widths) == 1:
                return y
            self._outputs = list(y.split(self.widths, -1))
            self._input = x
        result = self._outputs[index]
        assert result is not None
        self._outputs[index] = None
        if not any(part is not None for part in self._outputs):
            self._input = None
        return result

    def _build(self, extra: int, width: int) -> None:
        with lasting():
            self._make_buffers(extra, width)

    def _make_buffers(self, extra: int, width: int) -> None:
        first = self.layers[0].weight
        total = sum(self.widths)
        weight = torch.empty(total + extra, width, dtype=first.dtype, device=first.device)
        biased = any(layer.bias is not None for layer in self.layers)
        bias = torch.zeros(total + extra, dtype=first.dtype, device=first.device) if biased else None
        begin = 0
        for layer in self.layers:
            rows = slice(begin, begin + layer.out_features)
            weight[rows].copy_(layer.weight.data)
            layer.weight.data = weight[rows]
            if bias is not None and layer.bias is not None:
                bias[rows].copy_(layer.bias.data)
                layer.bias.data = bias[rows]
            begin = rows.stop
        self._weight, self._bias = weight, bias
        self.held = tuple(Held(x, where(x.weight), where(x.bias), self._holder) for x in self.layers)


def stackable(layer: nn.Module) -> bool:
    """Whether a layer is a plain linear one: its own weight, used as it is, nothing attached."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and type(layer.weight.data) is Tensor
        and not parametrize.is_parametrized(layer)
        and not brings_weights(layer)
        and runs_class_forward(layer)
    )


def _same_storage(part: Tensor, whole: Tensor) -> bool:
    return part.device == whole.device and part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
