"""The package's kernels as three ops that vLLM's compiled graphs hold.

On a CPU they return at once when no token of a step has a personality; on a GPU nothing is asked of the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels import GatedLora, Steering, lora_combine, lora_stacked_add, steered_gated_act
from dpg_fast.kernels.product import linear_product

__all__ = ["NAMESPACE"]

NAMESPACE = "dpg_fast_vllm"
library = torch.library.Library(NAMESPACE, "DEF")


def _nobody(x: Tensor, live: Tensor) -> bool:
    return x.is_cpu and live.item() == 0


def _products(x: Tensor, A: Tensor, packed: Tensor | None) -> Tensor:
    """x A^T."""
    if packed is None:
        return linear_product(x, A)
    out = x.new_empty(x.shape[0], A.shape[0])
    torch.ops._C.onednn_mm(out, x, None, packed)
    return out


def add_bank(
    y: Tensor,
    x: Tensor,
    A: Tensor,
    packed: Tensor | None,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    live: Tensor,
    widths: list[int],
    scale: float,
) -> None:
    """The bank's part of the linears that a merged layer holds, in place.

    Args:
        y: [T, sum(widths)].
        x: [T, d_in].
        A: [G * K * r, d_in]; packed: oneDNN's handle of it, whose products take a third of the time, or None.
        B: [K, r, sum(widths)].
        codes_a, codes_b: float32 [S, K].
        slots: int32 [T].
        live: `SlotPool.live`.
        widths: outputs of each of the G linears.
        scale: of the bank.
    """
    if not _nobody(x, live):
        lora_stacked_add(y, _products(x, A, packed), B, codes_a, codes_b, slots, tuple(widths), scale)


def append_products(y: Tensor, x: Tensor, A: Tensor, packed: Tensor | None, live: Tensor) -> Tensor:
    """``y`` with ``x A^T`` in further columns, [T, d_out + A's rows]; undefined there when no token has a slot."""
    width = y.shape[-1]
    out = y.new_empty(y.shape[0], width + A.shape[0])
    out[:, :width] = y
    if not _nobody(x, live):
        out[:, width:] = _products(x, A, packed)
    return out


def gated(
    y: Tensor,
    act: str,
    width: int,
    B_gate: Tensor | None,
    B_up: Tensor | None,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    live: Tensor,
    scale: float,
    clamp_mask: Tensor | None,
    add: Tensor | None,
    strengths: Tensor,
    steered: Tensor,
) -> Tensor:
    """steer(act(gate + delta)) * (up + delta), [T, width].

    Args:
        y: [T, 2 * width], gate and up; with B, what `append_products` gives for both.
        act: as in `steered_gated_act`.
        width: neurons, I.
        B_gate, B_up: [K, r, I], or None.
        codes_a, codes_b, slots, live, scale: as in `add_bank`.
        clamp_mask, add: int16 [I] and float32 [10, I], or None.
        strengths: float32 [S, 10].
        steered: int32 [T], the slots for steering.
    """
    gate, up = y[:, :width], y[:, width : 2 * width]
    lora, steering = None, None
    if _nobody(y, live):
        return steered_gated_act(gate, up, act)
    if B_gate is not None and B_up is not None:
        u = lora_combine(y[:, 2 * width :], codes_a, slots, 2)
        lora = GatedLora(u, B_gate, None, B_up, codes_b, slots, scale)
    if clamp_mask is not None and add is not None:
        steering = Steering(clamp_mask, add, strengths, steered)
    return steered_gated_act(gate, up, act, lora=lora, steering=steering)


library.define(
    "add_bank(Tensor(a!) y, Tensor x, Tensor A, Tensor? packed, Tensor B, Tensor codes_a, Tensor codes_b, Tensor slots, "
    "Tensor live, int[] widths, float scale) -> ()"
)
library.define("append_products(Tensor y, Tensor x, Tensor A, Tensor? packed, Tensor live) -> Tensor")
library.define(
    "gated(Tensor y, str act, int width, Tensor? B_gate, Tensor? B_up, Tensor codes_a, Tensor codes_b, Tensor slots, "
    "Tensor live, float scale, Tensor? clamp_mask, Tensor? add, Tensor strengths, Tensor steered) -> Tensor"
)
for _op in (add_bank, append_products, gated):
    library.impl(_op.__name__, _op, "CompositeExplicitAutograd")


@torch.library.register_fake(f"{NAMESPACE}::add_bank", lib=library)
def _add_bank(y: Tensor, *rest: object) -> None:
    return None


@torch.library.register_fake(f"{NAMESPACE}::append_products", lib=library)
def _append_products(y: Tensor, x: Tensor, A: Tensor, *rest: object) -> Tensor:
    return y.new_empty(y.shape[0], y.shape[-1] + A.shape[0])


@torch.library.register_fake(f"{NAMESPACE}::gated", lib=library)
def _gated(y: Tensor, act: str, width: int, *rest: object) -> Tensor:
    return y.new_empty(y.shape[0], width)
