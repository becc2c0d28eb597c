"""What a hypernetwork reads of a personality, as features for its trunk.

Features are the constant 1, five traits / 5, and, for encoders that read text, components of it. A text is read by the frozen
base model without any adapter; its states are averaged over the text's tokens and mapped by a fixed, affine map that is
fitted once to texts of known scores (`fit_projection`). So the features of a text are constants: gradients end at the trunk, and
a text is read once. The map is ours; how DPG pools its prompt is not public.

Why: docs/decisions.md, "What text encoders read".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.config import LAST_LAYERS, HypernetConfig, sort_sites
from dpg_fast.hypernet.trunk import TEXT_SPREAD
from dpg_fast.hypernet.wording import describe, reference_people
from dpg_fast.personality.scores import MAX_SCORE, TRAITS
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count

__all__ = ["Reader", "ScoresEncoder", "TextEncoder", "fit_projection"]

Reader = Callable[[str], Tensor]
"""Text -> float32 [hidden_size]: the hidden states that enter the layer at 5/6 of the depth, averaged over the text's tokens."""

REFERENCE_TEXTS = 512
_READOUT = 128  # principal components that the scores are estimated from
_RIDGE = 10.0
_REMEMBERED = 4096  # texts


class ScoresEncoder(nn.Module):
    """Scores [N, 5] in -5..5 -> features [N, 6]: the constant 1, then the scores / 5. No parameters."""

    def forward(self, scores: Tensor) -> Tensor:
        unit = scores / MAX_SCORE
        return torch.cat([torch.ones_like(unit[:, :1]), unit], dim=1)


class TextEncoder(nn.Module):
    """Texts -> features [N, F]: the constant 1, estimated traits / 5, components.

    No parameters to train; two buffers hold the fixed map, features = (states - centre) map, which is fitted when first needed.

    Args:
        config: with an encoder that reads text.
        sites: the adapted layers, which tell the width of the hidden states.

    Attributes:
        centre_0, map_0: float32 [d] and [d, 5 + components].
        reader: how the base model is asked; None until the network is put on a model.
    """

    centre_0: Tensor
    map_0: Tensor

    def __init__(self, config: HypernetConfig, sites: Iterable[Site]) -> None:
        super().__init__()
        self.components = config.text_features
        width = _hidden_size(sort_sites(sites))
        self.register_buffer("centre_0", torch.zeros(width))
        self.register_buffer("map_0", torch.zeros(width, len(TRAITS) + self.components))
        self.reader: Reader | None = None
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def fitted(self) -> bool:
        """Whether the map has been fitted (or loaded)."""
        return bool(self.map_0.any())

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Features of the texts, float32 on the encoder's device.

        Raises:
            RuntimeError: the network is on no model that could read.
        """
        if not texts:
            return self.centre_0.new_zeros(0, 1 + len(TRAITS) + self.components)
        if not self._known and not self.fitted:
            self.fit()
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text in missing:
            states = self._read(text).to(self.centre_0)
            self._known[text] = torch.cat([states.new_ones(1), (states - self.centre_0) @ self.map_0])
        for text in texts:
            self._known.move_to_end(text)
        rows = torch.stack([self._known[text] for text in texts])
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return rows.clone() if rows.is_inference() else rows

    @torch.no_grad()
    def fit(self, count: int | None = None, progress: Count | None = None) -> None:
        """Fit the map to `count` texts (512) of known scores, in all wordings; each takes a short forward of the base model."""
        people = reference_people(count or REFERENCE_TEXTS)
        scores = torch.tensor([person.scores for person in people]) / MAX_SCORE
        states: list[Tensor] = []
        for number, person in enumerate(people):
            states.append(self._read(describe(person, number // 2)))
            if progress is not None:
                progress(number + 1, len(people))
        centre, fitted = fit_projection(torch.stack(states), scores.to(states[0].device), self.components)
        self.centre_0.copy_(centre)
        self.map_0.copy_(fitted)
        self._known.clear()

    def _read(self, text: str) -> Tensor:
        if self.reader is None:
            raise RuntimeError(
                "this hypernetwork reads descriptions with its base model: put it on one first (PersonalityModel.from_model "
                "or load)"
            )
        return self.reader(text)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextEncoder:
        self._known.clear()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known.clear()
        super()._load_from_state_dict(*args, **kwargs)


def fit_projection(states: Tensor, scores: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """A fixed map from averaged states to features.

    The states' principal components are scaled to one deviation; the scores are estimated from the first 128 of them by ridge
    regression, and the first `components` are features themselves.

    Args:
        states: [n, d], any floating dtype. scores: [n, 5], scores / 5, of mean 0. components: at least 1.

    Returns:
        centre [d] and map [d, 5 + components], float32; components beyond the states' rank are zero.
    """
    x = states.double()
    centre = x.mean(dim=0)
    _, spread, directions = torch.linalg.svd(x - centre, full_matrices=False)
    spread = spread / max(len(x), 1) ** 0.5
    kept = int((spread > 1e-6 * spread[0].clamp_min(1e-30)).sum())
    whitened = directions[:kept].t() / spread[:kept]  # [d, kept]
    wide = whitened[:, : min(_READOUT, max(kept, 1))]
    z = (x - centre) @ wide
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    readout = wide @ torch.linalg.solve(z.t() @ z + _RIDGE * identity, z.t() @ scores.to(z))
    few = torch.zeros(x.shape[1], components, dtype=x.dtype, device=x.device)
    few[:, : min(components, kept)] = TEXT_SPREAD * whitened[:, :components]
    return centre.float(), torch.cat([readout, few], dim=1).float()


def _hidden_size(sites: Sequence[Site]) -> int:
    """The width that every layer has on one of its sides, or, of a single kind of layer, its input unless it is a last one."""
    if not sites:
        raise DPGError("a text encoder needs at least one site")
    common = set.intersection(*({site.in_features, site.out_features} for site in sites))
    if len(common) == 1:
        return common.pop()
    first = sites[0]
    return first.out_features if first.kind in LAST_LAYERS else first.in_features
