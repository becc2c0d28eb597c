"""Choose the neurons of a trait's two poles from their activation statistics.

Two criteria. "probability" is NPTI's rule (arXiv 2410.12327): ``diff = prob(pole) - prob(opposite)``; all neurons of the model
sorted by diff, descending; the first ``minimum`` are kept unconditionally, then every further one with ``diff >= threshold``.
"effect" is DPN-LE's (arXiv 2604.27929): the difference of the mean activations above a quantile of its size over all neurons,
and Cohen's d above a limit. Limits by layer and in number apply to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dpg_fast.neurons.statistics import PoleStatistics
from dpg_fast.personality.scores import Pole
from dpg_fast.util.errors import DPGError

FIELDS = ("layer", "neuron", "diff", "prob", "p95")

Criterion = Literal["probability", "effect"]
Overlap = Literal["keep", "strongest", "drop"]


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
            raise DPGError(f"a pole's neurons are five tensors of one length, got shapes {lengths}")

    def __len__(self) -> int:
        return self.layer.numel()

    @property
    def addition(self) -> Tensor:
        """float32 [n]: what steering at strength 1 adds, ``p95 * sigmoid(10 * (diff - 0.15))``."""
        return self.p95 * torch.sigmoid(10 * (self.diff - 0.15))

    def keep(self, mask: Tensor) -> PoleNeurons:
        """Those for which the bool tensor ``mask`` [n] is set, in the same order."""
        return PoleNeurons(*(getattr(self, name)[mask] for name in FIELDS))


@dataclass(frozen=True)
class SelectionRule:
    """Which neurons a pole gets. The defaults are NPTI's rule.

    A number per layer is a count when it is an int and a share of the layer's neurons when it is a float.

    Args:
        criterion: "probability" or "effect"; the former's floor and threshold do not apply to the latter.
        minimum: neurons kept whatever their difference; 2,000 in NPTI.
        threshold: smallest difference in probability of every further neuron; 0.1 in NPTI.
        quantile: of the absolute differences in mean activation over all neurons of the allowed layers, that a neuron's
            has to exceed; 0.995 in DPN-LE.
        cohens_d: what the effect size has to exceed; 0.8 in DPN-LE.
        layers: first and last layer that may be chosen from; all if None (DPN-LE: 12 to 31 of 32).
        top_k: most neurons of a pole.
        min_per_layer: best neurons of each allowed layer kept whatever the criterion says, as long as they speak for the
            pole at all (difference above zero).
        max_per_layer: most neurons of one layer; the criterion then goes on with what is left.
        overlap: neurons that poles of different traits share stay in all of them ("keep"), in the one with the largest
            difference ("strongest", the earlier pole where these are equal), or in none ("drop").
        finite_only: drop chosen neurons whose p95 is -inf, which fire on under 5% of the tokens. They are dropped last, as
            adding -inf would destroy the output; the released code keeps them.

    Raises:
        ValueError: a value is out of range, or the limits contradict each other.
    """

    criterion: Criterion = "probability"
    minimum: int = 2000
    threshold: float = 0.1
    quantile: float = 0.995
    cohens_d: float = 0.8
    layers: tuple[int, int] | None = None
    top_k: int | None = None
    min_per_layer: int | float = 0
    max_per_layer: int | float | None = None
    overlap: Overlap = "keep"
    finite_only: bool = True

    def __post_init__(self) -> None:
        for name, accepted in (("criterion", get_args(Criterion)), ("overlap", get_args(Overlap))):
            if getattr(self, name) not in accepted:
                raise DPGError(f"{name} is {getattr(self, name)!r}; accepted: {', '.join(accepted)}")
        if self.minimum < 0 or (self.top_k is not None and self.top_k < 1):
            raise DPGError(f"minimum must be at least 0 and top_k at least 1, got {self.minimum} and {self.top_k}")
        if not 0 <= self.quantile < 1 or not math.isfinite(self.threshold) or not math.isfinite(self.cohens_d):
            raise DPGError(
                f"quantile must lie in [0, 1), threshold and cohens_d must be finite; got {self.quantile}, "
                f"{self.threshold}, {self.cohens_d}"
            )
        for name in ("min_per_layer", "max_per_layer"):
            value = getattr(self, name)
            if value is not None and (value < 0 or (isinstance(value, float) and value > 1)):
                raise DPGError(f"{name} is a count (int) or a share from 0.0 to 1.0 (float), got {value!r}")
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise DPGError(f"layers are a first and a last one, counted from 0; got {self.layers}")

    def layer_limits(self, width: int) -> tuple[int, int]:
        """Fewest and most neurons of a layer of ``width``.

        Raises:
            ValueError: the fewest are more than the most.
        """
        low, high = (
            round(value * width) if isinstance(value, float) else min(value, width)
            for value in (self.min_per_layer, width if self.max_per_layer is None else self.max_per_layer)
        )
        if low > high:
            raise DPGError(f"min_per_layer ({low} of {width}) is larger than max_per_layer ({high})")
        return low, high


def select_neurons(pole: PoleStatistics, opposite: PoleStatistics, rule: SelectionRule | None = None) -> PoleNeurons:
    """The neurons of ``pole``; ``rule.overlap`` is not applied here (see :func:`resolve_overlap`).

    Args:
        pole: statistics under the pole's own persona prompts.
        opposite: statistics under the opposite pole's persona prompts.
        rule: NPTI's by default.

    Raises:
        ValueError: the two statistics have different shapes, hold no means where effect sizes are asked for, or the rule
            cannot be met by a model of this shape.
    """
    rule = rule or SelectionRule()
    if pole.positive.shape != opposite.positive.shape:
        raise DPGError(
            f"statistics of shapes {tuple(pole.positive.shape)} and {tuple(opposite.positive.shape)} do not match"
        )
    layers, width = pole.positive.shape
    first, last = rule.layers or (0, layers - 1)
    if last >= layers:
        raise DPGError(f"layers {first} to {last} were asked for; the model has layers 0 to {layers - 1}")
    low, high = rule.layer_limits(width)
    probability = pole.probability
    diff = (probability - opposite.probability).flatten()
    layer_of = torch.arange(layers).repeat_interleave(width)
    allowed = (layer_of >= first) & (layer_of <= last)
    if rule.criterion == "effect":
        score, passes = _effect(pole, opposite, rule, allowed)
    else:
        score, passes = diff, diff >= rule.threshold

    order = score.argsort(descending=True, stable=True)
    order = order[allowed[order]]
    rank = _rank_within(layer_of[order])
    forced = (rank < low) & (score[order] > 0)
    limited = rank < high
    wanted = passes[order]
    if rule.criterion == "probability":
        wanted = wanted | (limited.cumsum(0) <= rule.minimum)
    chosen = forced | (wanted & limited)
    if rule.top_k is not None:
        if int(forced.sum()) > rule.top_k:
            raise DPGError(f"min_per_layer asks for {int(forced.sum())} neurons, top_k allows {rule.top_k}")
        others = chosen & ~forced
        chosen = forced | (others & (others.cumsum(0) <= rule.top_k - forced.sum()))
    order = order[chosen]
    order = order[diff[order].argsort(descending=True, stable=True)]
    found = PoleNeurons(
        layer=(order // width).to(torch.int32),
        neuron=(order % width).to(torch.int32),
        diff=diff[order].float(),
        prob=probability.flatten()[order].float(),
        p95=pole.p95.flatten()[order],
    )
    return found.keep(torch.isfinite(found.p95)) if rule.finite_only else found


def select_all(statistics: Mapping[Pole, PoleStatistics], rule: SelectionRule | None = None) -> dict[Pole, PoleNeurons]:
    """The neurons of every pole in ``statistics``, which holds both poles of each of its traits.

    Raises:
        ValueError: as :func:`select_neurons`.
    """
    rule = rule or SelectionRule()
    found = {pole: select_neurons(own, statistics[pole.opposite], rule) for pole, own in statistics.items()}
    return resolve_overlap(found, rule.overlap)


def resolve_overlap(neurons: Mapping[Pole, PoleNeurons], how: Overlap) -> dict[Pole, PoleNeurons]:
    """``neurons`` without those that poles of different traits share, as ``SelectionRule.overlap`` describes."""
    if how == "keep" or not neurons:
        return dict(neurons)
    poles = sorted(neurons, key=lambda pole: pole.index)
    width = 1 + max((int(n.neuron.max()) for n in neurons.values() if len(n)), default=0)
    keys = {pole: neurons[pole].layer.long() * width + neurons[pole].neuron.long() for pole in poles}
    size = 1 + max((int(key.max()) for key in keys.values() if len(key)), default=0)
    traits = torch.zeros(size, dtype=torch.int16)
    best = torch.full((size,), -torch.inf)
    owner = torch.full((size,), -1, dtype=torch.int16)
    for trait in dict.fromkeys(pole.trait for pole in poles):
        inside = torch.cat([keys[pole] for pole in poles if pole.trait is trait]).unique()
        traits[inside] += 1
    for pole in poles:
        key, diff = keys[pole], neurons[pole].diff
        wins = diff > best[key]
        best[key[wins]], owner[key[wins]] = diff[wins], pole.index
    result = {}
    for pole in neurons:
        key = keys[pole]
        alone = traits[key] == 1
        result[pole] = neurons[pole].keep(alone if how == "drop" else alone | (owner[key] == pole.index))
    return result


def _effect(
    pole: PoleStatistics, opposite: PoleStatistics, rule: SelectionRule, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """Cohen's d of every neuron, float64 [L * I], and whether it and the shift of the mean are large enough."""
    shift, d = effect_sizes(pole, opposite)
    shift, d = shift.flatten(), d.flatten()
    sizes = shift[allowed].abs().sort().values
    # quantile with linear interpolation; torch.quantile refuses more than 2**24 values
    place = rule.quantile * (sizes.numel() - 1)
    low = math.floor(place)
    limit = sizes[low] + (sizes[min(low + 1, sizes.numel() - 1)] - sizes[low]) * (place - low)
    return d, (shift > limit) & (d > rule.cohens_d)


def effect_sizes(pole: PoleStatistics, opposite: PoleStatistics) -> tuple[Tensor, Tensor]:
    """Difference of the mean activations, and Cohen's d (pooled standard deviation over answers); float64 [L, I] each.

    A neuron without any spread over answers has d = 0.

    Raises:
        ValueError: the statistics hold no means, or those of fewer than two answers.
    """
    if pole.mean is None or opposite.mean is None or pole.variance is None or opposite.variance is None:
        raise DPGError("these statistics hold no mean activations of answers; search again with effect_sizes=True")
    n, m = pole.answers, opposite.answers
    if min(n, m) < 2:
        raise DPGError(f"effect sizes need at least two answers of each pole, got {n} and {m}")
    shift = pole.mean.double() - opposite.mean.double()
    pooled = ((n - 1) * pole.variance.double() + (m - 1) * opposite.variance.double()) / (n + m - 2)
    return shift, torch.where(pooled > 0, shift / pooled.clamp_min(1e-300).sqrt(), 0.0)


def _rank_within(groups: Tensor) -> Tensor:
    """For each entry, how many entries before it belong to the same group."""
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(groups.numel()) - starts[groups[order]]
    return rank
