"""Choose the neurons of a trait's two poles from their activation statistics (NPTI, arXiv 2410.12327).

``diff = prob(pole) - prob(opposite)``; all neurons of the model sorted by diff, descending; the first ``minimum`` are kept
unconditionally, then every further one with ``diff >= threshold``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpg_fast.neurons.statistics import PoleStatistics

FIELDS = ("layer", "neuron", "diff", "prob", "p95")


@dataclass(frozen=True)
class PoleNeurons:
    """The neurons of one pole, by descending ``diff``; five tensors of one length n.

    Attributes:
        layer: int32, decoder layer.
        neuron: int32, column of the layer's activation.
        diff: float32, probability under the pole's persona minus that under the opposite one.
        prob: float32, probability of being above zero under the pole's persona.
        p95: float32, lower bin edge of the 95th percentile of the activation under the pole's persona.
    """

    layer: Tensor
    neuron: Tensor
    diff: Tensor
    prob: Tensor
    p95: Tensor

    def __post_init__(self) -> None:
        lengths = {name: tuple(getattr(self, name).shape) for name in FIELDS}
        if len(set(lengths.values())) != 1 or self.layer.dim() != 1:
            raise ValueError(f"a pole's neurons are five tensors of one length, got shapes {lengths}")

    def __len__(self) -> int:
        return self.layer.numel()

    def keep(self, mask: Tensor) -> PoleNeurons:
        """Those for which the bool tensor ``mask`` [n] is set, in the same order."""
        return PoleNeurons(*(getattr(self, name)[mask] for name in FIELDS))


def select_neurons(
    pole: PoleStatistics,
    opposite: PoleStatistics,
    *,
    minimum: int = 2000,
    threshold: float = 0.1,
    finite_only: bool = True,
) -> PoleNeurons:
    """The neurons of ``pole``, by NPTI's rule.

    Args:
        pole: statistics under the pole's own persona prompts.
        opposite: statistics under the opposite pole's persona prompts.
        minimum: neurons kept whatever their difference; 2,000 in NPTI.
        threshold: smallest difference of every further neuron; 0.1 in NPTI.
        finite_only: drop chosen neurons whose p95 is -inf (they fire on under 5% of the tokens, and adding it would destroy
            the output; the released code keeps them).

    Raises:
        ValueError: the two statistics have different shapes.
    """
    if pole.positive.shape != opposite.positive.shape:
        raise ValueError(
            f"statistics of shapes {tuple(pole.positive.shape)} and {tuple(opposite.positive.shape)} do not match"
        )
    probability = pole.probability
    diff = (probability - opposite.probability).flatten()
    order = diff.argsort(descending=True, stable=True)
    wanted = torch.arange(order.numel()) < minimum
    order = order[wanted | (diff[order] >= threshold)]
    width = pole.positive.shape[1]
    chosen = PoleNeurons(
        layer=(order // width).to(torch.int32),
        neuron=(order % width).to(torch.int32),
        diff=diff[order].float(),
        prob=probability.flatten()[order].float(),
        p95=pole.p95.flatten()[order],
    )
    return chosen.keep(torch.isfinite(chosen.p95)) if finite_only else chosen
