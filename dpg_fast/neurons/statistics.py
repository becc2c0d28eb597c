"""How often, and how strongly, each MLP neuron fires while a model answers in one pole's persona.

A neuron is column ``i`` of ``act(gate(x))`` before the product with ``up(x)``. Source: NPTI (arXiv 2410.12327) and its
released scripts: 301 histogram bins with edges -inf, 0, 0.01, ..., 2.99, +inf, a value ``v`` falling where lower < v <= upper.
Counters are 64-bit integers (the released float32 counters stop growing at 2**24).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpg_fast.files import write_atomically

BINS = 301
BIN_WIDTH = 0.01
#: upper edges of bins 0..299; bin 300 is open above
EDGES = torch.arange(BINS - 1, dtype=torch.float64).mul(BIN_WIDTH).float()


@dataclass(frozen=True)
class PoleStatistics:
    """What selection needs of one pole's run.

    Attributes:
        tokens: decode tokens counted.
        positive: int64 [L, I], tokens on which the neuron was above zero.
        p95: float32 [L, I], lower edge of the histogram bin that holds the 95th percentile; -inf where it is not above zero.
    """

    tokens: int
    positive: Tensor
    p95: Tensor

    @property
    def probability(self) -> Tensor:
        """float64 [L, I]: share of the decode tokens on which the neuron was above zero."""
        return self.positive.double() / self.tokens

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {"positive": self.positive.contiguous(), "p95": self.p95.contiguous()}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, {"tokens": str(self.tokens)}))

    @classmethod
    def load(cls, path: Path) -> PoleStatistics:
        with safe_open(path, framework="pt") as file:
            tokens = int(file.metadata()["tokens"])
            return cls(tokens, file.get_tensor("positive"), file.get_tensor("p95"))


class ActivationCounter:
    """Accumulates counts and histograms over decode tokens, in memory fixed at the start.

    Args:
        num_layers: L.
        intermediate: I, neurons per layer.

    The histogram takes ``L * I * 301 * 8`` bytes.
    """

    def __init__(self, num_layers: int, intermediate: int) -> None:
        self.positive = torch.zeros(num_layers, intermediate, dtype=torch.int64)
        self.histogram = torch.zeros(num_layers, intermediate, BINS, dtype=torch.int64)
        self.tokens = torch.zeros(num_layers, dtype=torch.int64)
        self._offsets = torch.arange(intermediate, dtype=torch.int64) * BINS

    def update(self, layer: int, activations: Tensor) -> None:
        """Add the activations [T, I] of T decode tokens of one layer.

        Raises:
            ValueError: a value is NaN.
        """
        values = activations.detach().float().cpu()
        if torch.isnan(values).any():
            raise ValueError(f"layer {layer} produced NaN activations")
        bins = torch.bucketize(values, EDGES)
        index = (bins + self._offsets).flatten()
        self.histogram[layer].view(-1).scatter_add_(0, index, torch.ones(1, dtype=torch.int64).expand_as(index))
        self.positive[layer] += (values > 0).sum(0)
        self.tokens[layer] += values.shape[0]

    def finish(self) -> PoleStatistics:
        """Statistics of everything counted.

        Raises:
            ValueError: no token was counted, or layers saw different numbers of tokens.
        """
        tokens = self.tokens.unique().tolist()
        if len(tokens) != 1 or tokens[0] == 0:
            raise ValueError(f"layers counted {tokens} decode tokens; expected one positive number for all")
        return PoleStatistics(tokens[0], self.positive.clone(), percentile_lower_edge(self.histogram, 0.95))


def percentile_lower_edge(histogram: Tensor, share: float) -> Tensor:
    """float32 [...]: lower edge of the first bin at which the cumulative count reaches ``share`` of the total.

    Args:
        histogram: int64 [..., 301].
        share: in (0, 1].
    """
    cumulative = histogram.cumsum(-1)
    reached = cumulative.double() >= share * cumulative[..., -1:].double()
    first = reached.to(torch.int8).argmax(-1)
    lower = torch.cat([torch.tensor([-torch.inf]), EDGES])
    return lower[first]
