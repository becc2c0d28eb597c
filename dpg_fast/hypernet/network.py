"""Hypernetworks: what a personality or a description is, as codes over a bank of LoRA weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import HypernetConfig, input_groups, select_sites, sort_sites
from dpg_fast.hypernet.encoders import Reader, ScoresEncoder, TextEncoder
from dpg_fast.hypernet.interface import AdapterNetwork, wrong_kind
from dpg_fast.hypernet.stage_rows import StageRows
from dpg_fast.hypernet.stored import StoredAdapters
from dpg_fast.hypernet.trunk import Trunk, WideTrunk, mean_code_power
from dpg_fast.hypernet.wording import describe
from dpg_fast.personality.description import Description, character_of
from dpg_fast.personality.scores import MAX_SCORE, TRAITS, Personality
from dpg_fast.util.errors import DPGError, WrongTypeError

__all__ = ["HyperNetwork", "from_config"]


class HyperNetwork(AdapterNetwork):
    """Generates LoRA weights from a personality (DPG, arXiv 2404.07084; the architecture is ours).

    What is read -> encoder -> features -> trunk -> codes -> bank. The last, linear layer of the hypernetwork is the
    bank; with a wide head it has an entry for each unit of the trunk's last hidden layer.

    Args:
        config: sizes, and what is read (any encoder but "stored").
        sites: the linear layers of the base model; `config.targets` selects among them.

    Raises:
        ValueError: no sites, an unknown target, or another encoder.
    """

    def __init__(self, config: HypernetConfig, sites: Iterable[Site]) -> None:
        super().__init__()
        if config.encoder == "stored":
            raise DPGError('a HyperNetwork reads scores or texts; encoder="stored" is for StoredAdapters')
        self.config = config
        selected = select_sites(sites, config.targets, config.first_layer)
        wide = config.head == "wide"
        power = 3.0 if wide else mean_code_power(config.codes)  # of a wide trunk: the constant and its h
        self.bank = LoraBank(selected, config.rank, config.codes, power)
        self.encoder: ScoresEncoder | TextEncoder = (
            TextEncoder(config, selected) if config.reads_text else ScoresEncoder()
        )
        groups = len(set(input_groups(selected).values())) if config.per_layer_codes else 0
        self.trunk: Trunk | WideTrunk = (
            WideTrunk(config.hidden, config.depth, config.features, groups)
            if wide
            else Trunk(config.codes, config.hidden, config.depth, config.features, groups)
        )

    @property
    def reader(self) -> Reader | None:
        """How the base model reads a description; set while the network is on a model. None for encoder "scores"."""
        return self.encoder.reader if isinstance(self.encoder, TextEncoder) else None

    @reader.setter
    def reader(self, value: Reader | None) -> None:
        if isinstance(self.encoder, TextEncoder):
            self.encoder.reader = value

    def codes(self, items: Sequence[Personality | Description] | Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b), float32, of N personalities or descriptions, or of scores [N, 5]; [N, K] or [N, L, K] each.

        Differentiable in the trunk.

        Raises:
            TypeError: an item that is neither.
            ValueError: a Description without scores, where scores are read.
        """
        if isinstance(items, Tensor):
            return self.scores_to_codes(items)
        for item in items:
            if not isinstance(item, (Personality, Description)):
                raise WrongTypeError(wrong_kind(item, "Personality", f"this hypernetwork reads {self._reads()}"))
            if character_of(item) is not None:
                raise DPGError(f"{item} names a stored adapter, and this hypernetwork has none")
            if (refusal := self.refuses(item)) is not None:
                raise DPGError(refusal)
        if self.config.encoder == "scores":
            return self._codes_of_scores(self._scores(items))
        texts = [describe(item) if isinstance(item, Personality) else item.text for item in items]
        return self._from_features(self._text_features(texts, items))

    def refuses(self, item: object) -> str | None:
        """Why this network cannot give that item weights, or None when it can."""
        scores = item.personality if isinstance(item, Description) else item
        unknown = not isinstance(scores, Personality) or not scores.has_scores
        if self.config.encoder in ("scores", "both") and unknown:
            return (
                f"this hypernetwork reads {self._reads()}, and {item!r} has no scores; give it a personality=, or use a "
                f'network with encoder="text" or "layers"'
            )
        return None

    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b), float32 contiguous, of scores [N, 5] in -5..5, OCEAN order.

        Differentiable in the trunk's parameters and, with encoder "scores", in `scores`. The range is not checked there (that
        would wait for the device). Runs outside autocast.

        Raises:
            ValueError: another shape.
        """
        if scores.dim() != 2 or scores.shape[1] != len(TRAITS):
            raise DPGError(f"scores must have shape [N, {len(TRAITS)}], not {list(scores.shape)}")
        if self.config.encoder == "scores":
            return self._codes_of_scores(scores)
        return self.codes([Personality.from_scores(row) for row in scores.detach().tolist()])

    forward = scores_to_codes

    def part_of(self, item: Any) -> Any:
        if character_of(item) is None:
            return item
        if isinstance(item, Description):
            scores = item.personality
            kept = scores.replace(character=None) if scores is not None and scores.has_scores else None
            return Description(item.text, kept)
        return item.replace(character=None) if isinstance(item, Personality) and item.has_scores else None

    def to_config(self) -> dict[str, Any]:
        return self._config_dict()

    def _codes_of_scores(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.trunk.parameters())
        return self._from_features(self.encoder(scores.to(weight.device, weight.dtype)))

    def _from_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.trunk.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            a, b = self.trunk(features.to(weight.device, weight.dtype))
        return a.float().contiguous(), b.float().contiguous()

    def _text_features(self, texts: Sequence[str], items: Sequence[Personality | Description]) -> Tensor:
        features: Tensor = self.encoder(texts)
        if self.config.encoder == "both":  # the scores themselves in place of their estimates
            unit = (self._scores(items) / MAX_SCORE).to(features)
            features = torch.cat([features[:, :1], unit, features[:, 1 + len(TRAITS) :]], dim=1)
        return features

    def _scores(self, items: Sequence[Personality | Description]) -> Tensor:
        people = [item.personality if isinstance(item, Description) else item for item in items]
        rows = [person.scores for person in people if person is not None]
        # Built on the CPU and copied once: one transfer, however many rows.
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, len(TRAITS))

    def _reads(self) -> str:
        return {"scores": "trait scores", "both": "trait scores and a text"}.get(self.config.encoder, "a text")


def from_config(values: Mapping[str, Any], sites: Iterable[Site] | None = None) -> AdapterNetwork:
    """The network that `to_config` described, with fresh weights: load its state dict next.

    Args:
        values: from `to_config`.
        sites: the base model's layers; if given, every layer of the network must be there, in its size.

    Raises:
        ValueError: a missing or unknown field, or a layer that the base model lacks or has in another size.
    """
    if "characters" in values:
        from dpg_fast.hypernet.combined import combined_from_config  # it is made of the networks of this module

        return combined_from_config(values, sites)
    unknown = sorted(set(values) - {"config", "sites", "names", "stages"})
    missing = sorted({"config", "sites"} - set(values))
    if unknown or missing:
        raise DPGError(f"not a network's configuration: unknown {unknown}, missing {missing}")
    config = HypernetConfig.from_dict(values["config"])
    own = sort_sites(Site(*entry) for entry in values["sites"])
    if sites is not None:
        available = {site.name: site for site in sites}
        for site in own:
            found = available.get(site.name)
            if found is None:
                raise DPGError(f"the base model has no linear layer {site.name!r}, which the adapter changes")
            if found != site:
                raise DPGError(
                    f"{site.name}: the base model has {found.in_features} -> {found.out_features}, "
                    f"the adapter {site.in_features} -> {site.out_features}"
                )
    if config.encoder == "stored":
        if "names" not in values:
            raise DPGError("not a stored network's configuration: missing ['names']")
        stages = StageRows.from_config(values["stages"]) if "stages" in values else None
        return StoredAdapters(config, own, values["names"], stages)
    return HyperNetwork(config, own)
