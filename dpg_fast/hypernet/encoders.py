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
from dpg_fast.hypernet.config import LAST_LAYERS, HypernetConfig, input_groups, sort_sites
from dpg_fast.hypernet.trunk import TEXT_SPREAD
from dpg_fast.hypernet.wording import describe, reference_people
from dpg_fast.personality.scores import MAX_SCORE, TRAITS
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count

__all__ = ["Reader", "ScoresEncoder", "TextEncoder", "fit_projection"]

Reader = Callable[[str, Sequence[str]], list[Tensor]]
"""(text, site names) -> float32 [d_in] of each site: its input, averaged over the text's tokens; for no names one float32 tensor
[hidden_size]: the averaged hidden states that enter the layer at 5/6 of the depth."""

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
    """Texts -> features [N, F], or [N, L, F] of encoder "layers": the constant 1, estimated traits / 5, components.

    No parameters to train; the buffers hold the fixed maps, one for each input that is read: features = (states - centre) map.
    They are fitted when first needed.

    Args:
        config: with an encoder that reads text.
        sites: the adapted layers; of those with one input, the first is read.

    Attributes:
        reads: names of the sites whose inputs are read; empty: the hidden states.
        reader: how the base model is asked; None until the network is put on a model.
    """

    def __init__(self, config: HypernetConfig, sites: Iterable[Site]) -> None:
        super().__init__()
        ordered = sort_sites(sites)
        self.components = config.text_features
        self.reads: tuple[str, ...] = ()
        widths = [_hidden_size(ordered)]
        if config.encoder == "layers":
            groups = input_groups(ordered)
            first = {groups[site.name]: site for site in reversed(ordered)}
            self.reads = tuple(first[number].name for number in sorted(first))
            widths = [first[number].in_features for number in sorted(first)]
        for number, width in enumerate(widths):
            self.register_buffer(f"centre_{number}", torch.zeros(width))
            self.register_buffer(f"map_{number}", torch.zeros(width, len(TRAITS) + self.components))
        self.reader: Reader | None = None
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def maps(self) -> list[tuple[Tensor, Tensor]]:
        """(centre [d], map [d, 5 + components]) of each input that is read."""
        count = max(len(self.reads), 1)
        return [(getattr(self, f"centre_{n}"), getattr(self, f"map_{n}")) for n in range(count)]

    @property
    def fitted(self) -> bool:
        """Whether the maps have been fitted (or loaded)."""
        return bool(self.maps[0][1].any())

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Features of the texts, float32 on the encoder's device.

        Raises:
            RuntimeError: the network is on no model that could read.
        """
        if not texts:
            shape = (0, len(self.reads)) if self.reads else (0,)
            return self.maps[0][0].new_zeros(*shape, 1 + len(TRAITS) + self.components)
        if not self._known and not self.fitted:
            self.fit()
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text in missing:
            self._known[text] = self._features(self._read(text))
        for text in texts:
            self._known.move_to_end(text)
        rows = torch.stack([self._known[text] for text in texts])
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return rows.clone() if rows.is_inference() else rows

    @torch.no_grad()
    def fit(self, count: int | None = None, progress: Count | None = None) -> None:
        """Fit the maps to `count` texts (512) of known scores, in all wordings; each takes a short forward of the base model."""
        people = reference_people(count or REFERENCE_TEXTS)
        scores = torch.tensor([person.scores for person in people]) / MAX_SCORE
        states: list[list[Tensor]] = []
        for number, person in enumerate(people):
            states.append(self._read(describe(person, number // 2)))
            if progress is not None:
                progress(number + 1, len(people))
        for (centre, weights), found in zip(self.maps, zip(*states, strict=True), strict=True):
            middle, fitted = fit_projection(torch.stack(found), scores.to(found[0].device), self.components)
            centre.copy_(middle)
            weights.copy_(fitted)
        self._known.clear()

    def _read(self, text: str) -> list[Tensor]:
        if self.reader is None:
            raise RuntimeError(
                "this hypernetwork reads descriptions with its base model: put it on one first (PersonalityModel.from_model "
                "or load)"
            )
        return self.reader(text, self.reads)

    def _features(self, states: Sequence[Tensor]) -> Tensor:
        rows = []
        for (centre, weights), found in zip(self.maps, states, strict=True):
            rows.append(torch.cat([centre.new_ones(1), (found.to(centre) - centre) @ weights]))
        return torch.stack(rows) if self.reads else rows[0]

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
