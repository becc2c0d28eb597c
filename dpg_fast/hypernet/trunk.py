"""From five trait scores to the codes that mix the bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpg_fast.hypernet.config import SCORE_FEATURES
from dpg_fast.personality import MAX_SCORE, TRAITS

__all__ = ["ScoresEncoder", "Trunk", "mean_code_power"]

# Mean of (p / 5)**2 over the 11 levels -5..5.
_TRAIT_POWER = 0.4


def mean_code_power(codes: int) -> float:
    """Mean of sum_k a_k**2 of a freshly initialised trunk, over scores drawn evenly from the 11 levels."""
    return 1.0 + _TRAIT_POWER * (codes - 1)


class ScoresEncoder(nn.Module):
    """Scores [N, 5] in -5..5 -> features [N, 6]: the constant 1, then the scores / 5. No parameters."""

    def forward(self, scores: Tensor) -> Tensor:
        unit = scores / MAX_SCORE
        return torch.cat([torch.ones_like(unit[:, :1]), unit], dim=1)


class Trunk(nn.Module):
    """Features [N, 6] -> (a [N, K], b [N, K]): a linear skip plus an MLP (SiLU) on the five trait features.

    At the start the MLP adds nothing to the first six codes, and the skip makes code 0 the constant 1 and
    codes 1..5 the five traits / 5. With fewer than six codes, the codes after the first are random
    orthonormal mixtures of the traits. Codes beyond the sixth start as random smooth functions of the traits,
    of the same mean square (0.4): were both their code and their B entry zero, no gradient would ever reach
    them.

    Args:
        codes: K; hidden: width; depth: hidden layers (0: the linear skip alone).
    """

    def __init__(self, codes: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.codes = codes
        self.skip = nn.Linear(SCORE_FEATURES, 2 * codes, bias=False)
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [nn.Linear(len(TRAITS) if index == 0 else hidden, hidden), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, 2 * codes, bias=False) if depth else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again, as the class says."""
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        direct = min(self.codes, SCORE_FEATURES)
        skip = self.skip.weight.view(2, self.codes, SCORE_FEATURES)
        skip.zero_()
        skip[:, 0, 0] = 1.0
        if direct == SCORE_FEATURES:
            skip[:, 1:direct, 1:] = torch.eye(len(TRAITS), dtype=skip.dtype, device=skip.device)
        elif direct > 1:
            mixtures = torch.empty(direct - 1, len(TRAITS), dtype=skip.dtype, device=skip.device)
            nn.init.orthogonal_(mixtures)
            skip[:, 1:direct, 1:] = mixtures
        if self.head is None:
            return
        head = self.head.weight.view(2, self.codes, -1)
        head.zero_()
        if self.codes > direct:
            later = torch.randn_like(head[:, direct:])
            levels = torch.randint(-5, 6, (512, len(TRAITS)), device=head.device).to(head.dtype) / MAX_SCORE
            outputs = torch.einsum("nh,skh->nsk", self.body(levels), later)
            mean_square = outputs.square().mean(dim=0).clamp_min(1e-12)
            head[:, direct:] = later * (math.sqrt(_TRAIT_POWER) * mean_square.rsqrt()).unsqueeze(-1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.skip(features)
        if self.head is not None:
            codes = codes + self.head(self.body(features[:, 1:]))
        a, b = codes.split(self.codes, dim=1)
        return a, b
