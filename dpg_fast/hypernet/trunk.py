"""From features of a personality to the codes that mix the bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpg_fast.hypernet.config import SCORE_FEATURES
from dpg_fast.personality.scores import TRAITS

__all__ = ["TEXT_SPREAD", "Trunk", "WideTrunk", "mean_code_power"]

# Mean of (p / 5)**2 over the 11 levels -5..5.
_TRAIT_POWER = 0.4
_TRAITS = len(TRAITS)
TEXT_SPREAD = 0.5
"""Standard deviation that encoders give the components of a text, near that of a trait / 5."""


def mean_code_power(codes: int) -> float:
    """Mean of sum_k a_k**2 of a freshly initialised trunk, over scores drawn evenly from the 11 levels."""
    return 1.0 + _TRAIT_POWER * (codes - 1)


def _body(features: int, hidden: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(features - 1 if index == 0 else hidden, hidden), nn.SiLU()]
    return nn.Sequential(*layers)


def _draws(features: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[512, features - 1] as the body might be given: traits / 5 over the 11 levels, then components of a text."""
    levels = torch.randint(-5, 6, (512, _TRAITS), device=device).to(dtype) / 5
    more = features - SCORE_FEATURES
    if not more:
        return levels
    return torch.cat([levels, TEXT_SPREAD * torch.randn(512, more, device=device, dtype=dtype)], dim=1)


def _reset_linears(body: nn.Module) -> None:
    for layer in body.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


class Trunk(nn.Module):
    """Features -> (a, b): a linear skip plus an MLP (SiLU) on all features but the constant.

    At the start the MLP adds nothing to the first six codes, and the skip makes code 0 the constant 1 and
    codes 1..5 the five traits / 5. With fewer than six codes, the codes after the first are random
    orthonormal mixtures of the traits. Codes beyond the sixth start as random smooth functions of the features,
    of the same mean square (0.4): were both their code and their B entry zero, no gradient would ever reach
    them.

    Features [N, F] give codes [N, K] each.

    Args:
        codes: K; hidden: width; depth: hidden layers (0: the linear skip alone).
        features: F, the constant, five traits, then any others.
    """

    def __init__(self, codes: int, hidden: int, depth: int, features: int = SCORE_FEATURES) -> None:
        super().__init__()
        self.codes = codes
        self.features = features
        outputs = 2 * codes
        self.skip = nn.Linear(features, outputs, bias=False)
        self.body = _body(features, hidden, depth)
        self.head = nn.Linear(hidden, outputs, bias=False) if depth else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again, as the class says."""
        _reset_linears(self.body)
        direct = min(self.codes, SCORE_FEATURES)
        skip = self.skip.weight.view(2, self.codes, self.features)
        skip.zero_()
        skip[:, 0, 0] = 1.0
        if direct == SCORE_FEATURES:
            skip[:, 1:direct, 1:SCORE_FEATURES] = torch.eye(_TRAITS, dtype=skip.dtype, device=skip.device)
        elif direct > 1:
            mixtures = torch.empty(direct - 1, _TRAITS, dtype=skip.dtype, device=skip.device)
            nn.init.orthogonal_(mixtures)
            skip[:, 1:direct, 1:SCORE_FEATURES] = mixtures
        if self.head is None:
            return
        head = self.head.weight.view(2, self.codes, self.head.in_features)
        head.zero_()
        if self.codes > direct:
            later = torch.randn_like(head[:, direct:])
            outputs = torch.einsum("nh,skh->nsk", self.body(_draws(self.features, head.device, head.dtype)), later)
            mean_square = outputs.square().mean(dim=0).clamp_min(1e-12)
            head[:, direct:] = later * (math.sqrt(_TRAIT_POWER) * mean_square.rsqrt()).unsqueeze(-1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.skip(features)
        if self.head is not None:
            codes = codes + self.head(self.body(features[..., 1:]))
        a, b = codes.split(self.codes, dim=-1)
        return a, b


class WideTrunk(nn.Module):
    """Features -> (a, a) with a = [1, h]: the constant and the last hidden layer, which a wide head maps to full weights.

    h is scaled so that at the start sum_k h_k**2 is 2 on average, the power of a bank's traits.

    Args:
        hidden: width of h; depth: hidden layers, at least 1.
        features: as of `Trunk`.
    """

    scale: Tensor

    def __init__(self, hidden: int, depth: int, features: int = SCORE_FEATURES) -> None:
        super().__init__()
        self.features = features
        self.body = _body(features, hidden, depth)
        self.register_buffer("scale", torch.ones(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again."""
        _reset_linears(self.body)
        found = self.body(_draws(self.features, self.scale.device, self.scale.dtype))
        self.scale.copy_((_TRAITS * _TRAIT_POWER / found.square().sum(dim=1).mean().clamp_min(1e-12)).sqrt())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(features[..., 1:]) * self.scale
        a = torch.cat([torch.ones_like(h[..., :1]), h], dim=-1)
        return a, a
