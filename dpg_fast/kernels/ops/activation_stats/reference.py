"""The definition of activation_stats, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from dpg_fast.kernels.ops.steered_gated_act.reference import activation


def activation_stats_reference(
    gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor
) -> None:
    """Counts and histograms of act(gate), added to rows `slots` of the tables; slot -1 and NaN count nowhere.

    gate [T, I], slots [T], edges [bins - 1], positive [S, I], histogram [S, I, bins].
    """
    acc = torch.float64 if gate.dtype == torch.float64 else torch.float32
    v = activation(gate.to(acc), act).to(gate.dtype).float()
    tokens, width = v.shape
    bins = histogram.shape[-1]
    row = slots.clamp(min=0).long()[:, None].expand(tokens, width)
    column = torch.arange(width, device=v.device).expand(tokens, width)
    counted = (slots >= 0)[:, None] & ~torch.isnan(v)
    positive.index_put_((row, column), (counted & (v > 0)).to(positive.dtype), accumulate=True)
    place = torch.bucketize(v, edges).clamp(max=bins - 1)  # NaN would go past the end; it adds 0
    histogram.index_put_((row, column, place), counted.to(histogram.dtype), accumulate=True)
