"""Numbers that describe a set of neuron lists: where they lie, how much they share, how their values are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpg_fast.neurons.selection import PoleNeurons
from dpg_fast.neurons.table import SteeringTable
from dpg_fast.personality.scores import POLES, Pole

#: what is reported of each distribution of values
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def overlap_counts(neurons: Mapping[Pole, PoleNeurons], num_layers: int, intermediate: int) -> Tensor:
    """int64 [10, 10]: neurons that two poles share, in the order of ``POLES``; a pole's own number on the diagonal.

    Args:
        neurons: lists of some or all poles.
        num_layers: L.
        intermediate: I, neurons per layer.
    """
    result = torch.zeros(len(POLES), len(POLES), dtype=torch.int64)
    for pole, own in neurons.items():
        listed = torch.zeros(num_layers, intermediate, dtype=torch.bool)
        listed[own.layer.long(), own.neuron.long()] = True
        for other, theirs in neurons.items():
            result[pole.index, other.index] = listed[theirs.layer.long(), theirs.neuron.long()].sum()
    return result


def jaccard(counts: Tensor) -> Tensor:
    """float64 [n, n]: shared neurons divided by those in either list; 0 where both are empty.

    Args:
        counts: int64 [n, n], as :func:`overlap_counts` gives it.
    """
    own = counts.diagonal().double()
    either = own[:, None] + own[None] - counts
    return torch.where(either > 0, counts / either.clamp_min(1), 0.0)


def value_quantiles(found: PoleNeurons) -> dict[str, list[float]]:
    """The ``QUANTILES`` (linear interpolation) of diff, prob, p95 and of what is added at strength 1; [] for no neurons."""
    values = {"diff": found.diff, "prob": found.prob, "p95": found.p95, "add": found.addition}
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    return {name: torch.quantile(v.double(), at).tolist() if len(found) else [] for name, v in values.items()}


def summarise(table: SteeringTable) -> dict[str, Any]:
    """Everything above in a JSON-ready form: counts by layer and pole, overlap, values, and how the lists were made."""
    counts = overlap_counts(table.neurons, table.num_layers, table.intermediate)
    return {
        "num_layers": table.num_layers,
        "intermediate": table.intermediate,
        "neurons": {str(pole): len(table.neurons[pole]) for pole in table.poles},
        "per_layer": {str(pole): n.tolist() for pole, n in table.counts_per_layer().items()},
        "values": {str(pole): value_quantiles(table.neurons[pole]) for pole in table.poles},
        "overlap": counts.tolist(),
        "jaccard": [[round(x, 6) for x in row] for row in jaccard(counts).tolist()],
        "origin": table.origin,
    }
