"""Argument groups of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch

#: Activations of the gated MLP, in the order of the compiled kernels.
ACTIVATIONS: tuple[str, ...] = ("silu", "gelu_tanh", "gelu")

#: Rows of a steering table: five traits, two poles each.
POLES = 10


class RideAlong(NamedTuple):
    """The LoRA expand of one linear layer, riding along with an operation on its output (see `lora_expand_add`)."""

    u: torch.Tensor  # float32 [T, r]
    B: torch.Tensor  # [K, r, d], dtype of the output
    codes: torch.Tensor  # float32 [S, K]
    slots: torch.Tensor  # int32 [T], -1: no expand for that token
    scale: float = 1.0


class GatedLora(NamedTuple):
    """LoRA expands that ride along with the gated activation (see `lora_expand_add`).

    Either `u_gate` and `u_up` are two tensors [T, r], or `u_gate` holds both as [2, T, r] (what
    `lora_shrink` returns for a bank [2, K, r, d_in]) and `u_up` is None.
    """

    u_gate: torch.Tensor  # float32 [T, r] or [2, T, r]
    B_gate: torch.Tensor  # [K, r, I], dtype of gate
    u_up: torch.Tensor | None  # float32 [T, r]
    B_up: torch.Tensor  # [K, r, I], dtype of gate
    codes: torch.Tensor  # float32 [S, K]
    slots: torch.Tensor  # int32 [T], -1: no expand for that token
    scale: float = 1.0


class Steering(NamedTuple):
    """NPTI steering of MLP neurons (arXiv 2410.12327).

    Pole p is active for a token when its strength is positive. Neurons whose mask has the bit of an active
    pole are first capped at zero; then every active pole adds `strength * add[p]`.
    """

    clamp_mask: torch.Tensor  # int16 [I], bit p: pole p clamps this neuron
    add: torch.Tensor  # float32 [10, I]
    strengths: torch.Tensor  # float32 [S, 10]
    slots: torch.Tensor  # int32 [T], -1: no steering for that token
