"""How often, and how strongly, each MLP neuron fires while a model answers in the personas of several poles.

A neuron is column ``i`` of ``act(gate(x))`` before the product with ``up(x)``. Source: NPTI (arXiv 2410.12327) and its
released scripts: 301 histogram bins with edges -inf, 0, 0.01, ..., 2.99, +inf, a value ``v`` falling where lower < v <= upper.
Counters are integers that cannot overflow (the released float32 counters stop growing at 2**24). Means over answers, which
NPTI does not use, are kept for effect sizes.

Why: docs/decisions.md, "Counting neurons while generating".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dpg_fast.kernels import activation_stats
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_tensors
from dpg_fast.util.reading import checked, open_tensors, take

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
        answers: answers with at least one decode token.
        mean: float32 [L, I], mean over answers of the answer's mean activation; None where it was not collected.
        variance: float32 [L, I], variance over answers of the same (n - 1 denominator; 0 for one answer).
    """

    tokens: int
    positive: Tensor
    p95: Tensor
    answers: int = 0
    mean: Tensor | None = None
    variance: Tensor | None = None

    @property
    def probability(self) -> Tensor:
        """float64 [L, I]: share of the decode tokens on which the neuron was above zero."""
        return self.positive.double() / self.tokens

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {"positive": self.positive.contiguous(), "p95": self.p95.contiguous()}
        if self.mean is not None and self.variance is not None:
            tensors |= {"mean": self.mean.contiguous(), "variance": self.variance.contiguous()}
        about = {"tokens": str(self.tokens), "answers": str(self.answers)}
        write_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: Path) -> PoleStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: another kind of file, or a damaged one.
        """
        with open_tensors(path) as file:
            about, names = checked(_About, file.metadata() or {}, f"{path}: metadata"), set(file.keys())
            mean, variance = (take(file, n, path) if n in names else None for n in ("mean", "variance"))
            p95 = (
                file.get_tensor("p95") if "p95" in names else take(file, "p95", path)
            )  # -inf where a neuron seldom fires
            return cls(about["tokens"], take(file, "positive", path), p95, about.get("answers", 0), mean, variance)


class _About(TypedDict):
    tokens: Annotated[int, Field(ge=1)]
    answers: NotRequired[int]


class ActivationCounter:
    """Accumulates statistics of S poles over decode tokens, in memory fixed at the start.

    Args:
        num_layers: L.
        intermediate: I, neurons per layer.
        slots: S; what a token adds to is named by its slot.
        act: the activation, "silu", "gelu_tanh" or "gelu"; or "identity", when what is counted are its values.
        max_tokens: most tokens that a slot may count; 32-bit histograms are kept where that cannot overflow them.
        means: whether means over answers are collected.
        device: of the tables.

    Attributes:
        positive: int64 [L, S, I]. histogram: int32 or int64 [L, S, I, 301]. tokens: int64 [S].
        answers: int64 [S]. mean_sum, mean_square_sum: float64 [L, S, I], or [0] without means.
    """

    def __init__(
        self,
        num_layers: int,
        intermediate: int,
        slots: int = 1,
        *,
        act: str = "silu",
        max_tokens: int = 2**31 - 1,
        means: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.act = act
        self.means = means
        self.num_layers = num_layers
        shape = (num_layers, slots, intermediate)
        self.positive = torch.zeros(shape, dtype=torch.int64, device=device)
        self.histogram = torch.zeros((*shape, BINS), dtype=histogram_dtype(max_tokens), device=device)
        self.tokens = torch.zeros(slots, dtype=torch.int64, device=device)
        self.answers = torch.zeros(slots, dtype=torch.int64, device=device)
        self.mean_sum = torch.zeros(shape if means else (0,), dtype=torch.float64, device=device)
        self.mean_square_sum = torch.zeros_like(self.mean_sum)
        self._edges = EDGES.to(device)

    def count_tokens(self, slots: Tensor) -> None:
        """Note that every layer will count the tokens whose slots are int32 [T]; -1 is not counted."""
        self.tokens += self._belongs(slots).sum(1)

    def count(self, layer: int, gate: Tensor, slots: Tensor) -> None:
        """Add one layer's activations of T tokens, given before the activation function.

        Args:
            layer: decoder layer.
            gate: [..., I], or with act "identity" the activation's values; T is the product of the leading sizes.
            slots: int32 [T]; -1 is not counted.
        """
        activation_stats(gate, self.act, slots, self._edges, self.positive[layer], self.histogram[layer])

    def count_answers(self, sums: Tensor, tokens: Tensor, slots: Tensor) -> None:
        """Add the means of n answers; answers without a decode token are left out.

        Args:
            sums: float32 [L, n, I], activations summed over the answer's decode tokens.
            tokens: int64 [n], decode tokens of each answer.
            slots: int32 [n].
        """
        # one-hot products instead of index_add_, which is not deterministic on GPUs
        belongs = self._belongs(slots) & (tokens > 0)
        self.answers += belongs.sum(1)
        weight = belongs.double()
        for layer in range(self.num_layers if self.means else 0):
            mean = sums[layer].double() / tokens.clamp_min(1)[:, None]
            self.mean_sum[layer] += weight @ mean
            self.mean_square_sum[layer] += weight @ mean.square()

    def _belongs(self, slots: Tensor) -> Tensor:
        return slots[None] == torch.arange(self.tokens.numel(), device=slots.device)[:, None]

    def finish(self, slot: int = 0) -> PoleStatistics:
        """Statistics of everything that ``slot`` counted, on the CPU.

        Raises:
            ValueError: it counted no token, or a layer did not count all of them: an activation was NaN.
        """
        tokens, answers = int(self.tokens[slot]), int(self.answers[slot])
        if tokens == 0:
            raise DPGError("no decode tokens were counted; expected a positive number")
        p95 = torch.empty(self.positive.shape[0], self.positive.shape[2])
        for layer in range(self.num_layers):
            histogram = self.histogram[layer, slot]
            counted = histogram.sum(-1)
            if bool((counted != tokens).any()):
                neuron = int((counted != tokens).nonzero()[0])
                raise DPGError(
                    f"layer {layer}, neuron {neuron} counted {int(counted[neuron])} of {tokens} decode tokens; the "
                    "others were NaN"
                )
            p95[layer] = percentile_lower_edge(histogram, 0.95).cpu()
        positive = self.positive[:, slot].cpu().clone()
        if not self.means or answers == 0:
            return PoleStatistics(tokens, positive, p95, answers)
        mean = self.mean_sum[:, slot] / answers
        variance = (self.mean_square_sum[:, slot] - answers * mean.square()).clamp_min(0) / max(1, answers - 1)
        return PoleStatistics(tokens, positive, p95, answers, mean.float().cpu(), variance.float().cpu())

    def state(self) -> dict[str, Tensor]:
        """The tables by name; to be written to disk and given to :meth:`restore`."""
        names = ("positive", "histogram", "tokens", "answers", "mean_sum", "mean_square_sum")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put what :meth:`state` gave back into the tables.

        Raises:
            ValueError: the state is of other tables.
        """
        for name, table in self.state().items():
            if state[name].shape != table.shape or state[name].dtype != table.dtype:
                raise DPGError(
                    f"{name} is {state[name].dtype} {tuple(state[name].shape)}, expected {table.dtype} {tuple(table.shape)}"
                )
            table.copy_(state[name])


def histogram_dtype(max_tokens: int) -> torch.dtype:
    """int32 where a bin can hold ``max_tokens``, int64 otherwise."""
    return torch.int32 if max_tokens < 2**31 else torch.int64


def table_bytes(num_layers: int, intermediate: int, slots: int, max_tokens: int, means: bool) -> int:
    """Bytes that an :class:`ActivationCounter`'s tables take."""
    each = 8 + BINS * histogram_dtype(max_tokens).itemsize + (16 if means else 0)
    return num_layers * intermediate * slots * each


def percentile_lower_edge(histogram: Tensor, share: float) -> Tensor:
    """float32 [...]: lower edge of the first bin at which the cumulative count reaches ``share`` of the total.

    Args:
        histogram: int32 or int64 [..., 301].
        share: in (0, 1].
    """
    cumulative = histogram.cumsum(-1, dtype=torch.int64)
    reached = cumulative.double() >= share * cumulative[..., -1:].double()
    first = reached.to(torch.int8).argmax(-1)
    lower = torch.cat([torch.tensor([-torch.inf]), EDGES]).to(histogram.device)
    return lower[first]
