"""How personality neurons are steered while generating: on which tokens, and NPTI's random mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dpg_fast.util.errors import DPGError

SteerTokens = Literal["decode", "all"]


@dataclass(frozen=True)
class SteeringOptions:
    """Settings of one :class:`PersonalityModel`, read at every call.

    Args:
        random_mask: probability with which a neuron is added to; None adds to all of them. NPTI (arXiv 2410.12327) draws
            Bernoulli(0.9) for each neuron again in every layer of every forward, shared by all rows, and does not rescale: in
            expectation 0.9 of the addition is made, so strength 1.0 with the mask is about 0.9 without it. Capping at zero is
            not masked. It costs a copy of the layer's additions and a draw in every layer, and is not for torch.compile.
        tokens: "decode" steers generated tokens only, as NPTI does; "all" the prompt too. The default of ``generate`` and
            ``chat``.
        seed: of the mask. It depends on the seed, the number of the forward within the call and the layer, so a call that is
            repeated on the same kind of device draws the same masks.

    Raises:
        ValueError: a value out of range.
    """

    random_mask: float | None = None
    tokens: SteerTokens = "decode"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.random_mask is not None and not (math.isfinite(self.random_mask) and 0 < self.random_mask <= 1):
            raise DPGError(f"random_mask is a probability above 0, or None, got {self.random_mask}")
        check_tokens(self.tokens)


def check_tokens(tokens: str) -> None:
    """Raises ValueError for anything but the :data:`SteerTokens`."""
    if tokens not in get_args(SteerTokens):
        raise DPGError(f'steer_tokens is {tokens!r}; accepted: "decode", "all"')


@dataclass(frozen=True)
class RandomMask:
    """The mask of one forward: which neurons of each layer are added to.

    Args:
        keep: probability of each neuron.
        seed: of the options.
        step: number of the forward within its call.
    """

    keep: float
    seed: int
    step: int

    def draw(self, layer: int, neurons: int, device: torch.device) -> Tensor:
        """float32 [neurons], 1 where ``layer`` adds and 0 where it does not; the same whenever it is asked for."""
        generator = torch.Generator(device).manual_seed(_mix(_mix(_mix(self.seed) + self.step) + layer))
        return torch.empty(neurons, device=device).bernoulli_(self.keep, generator=generator)

    def apply(self, add: Tensor, layer: int) -> Tensor:
        """The layer's additions, float32 [10, I], with those of neurons that were not drawn set to zero."""
        return add * self.draw(layer, add.shape[-1], add.device)


def _mix(value: int) -> int:
    """32 well-mixed bits of an integer (the finaliser of SplitMix64): generators seeded 0, 1, 2 ... should not be alike."""
    value = (value + 0x9E3779B97F4A7C15) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) & (2**32 - 1)
