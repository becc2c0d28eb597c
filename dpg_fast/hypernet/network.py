"""Hypernetworks: what a personality or a description is, as codes over a bank of LoRA weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import HypernetConfig, select_sites
from dpg_fast.hypernet.encoders import Reader, ScoresEncoder, TextEncoder
from dpg_fast.hypernet.interface import AdapterNetwork, wrong_kind
from dpg_fast.hypernet.trunk import Trunk, WideTrunk, mean_code_power
from dpg_fast.hypernet.wording import describe
from dpg_fast.personality.description import Description
from dpg_fast.personality.row import Row, RowItem, read_row
from dpg_fast.personality.scores import MAX_SCORE, TRAITS, Personality
from dpg_fast.util.errors import DPGError, WrongTypeError

__all__ = ["HyperNetwork"]


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

    generates = True

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
        self.trunk: Trunk | WideTrunk = (
            WideTrunk(config.hidden, config.depth, config.features)
            if wide
            else Trunk(config.codes, config.hidden, config.depth, config.features)
        )

    @property
    def reader(self) -> Reader | None:
        """How the base model reads a description; set while the network is on a model. None for encoder "scores"."""
        return self.encoder.reader if isinstance(self.encoder, TextEncoder) else None

    @reader.setter
    def reader(self, value: Reader | None) -> None:
        if isinstance(self.encoder, TextEncoder):
            self.encoder.reader = value

    def takes(self, row: Row) -> bool:
        at_base = self.config.neutral == "base" and row.scores is not None and row.scores.is_neutral
        return super().takes(row) and not at_base

    def accepted(self, item: RowItem | Row) -> Row:
        if not isinstance(item, (Personality, Description, Row)):
            raise WrongTypeError(wrong_kind(item, "Personality", f"this hypernetwork reads {self._reads()}"))
        row = read_row(item)
        assert row is not None
        if row.blend is not None:
            raise DPGError(f"{item} names a stored adapter, and this hypernetwork has none")
        if (refusal := self.refusal(row)) is not None:
            raise DPGError(refusal)
        return row

    def refusal(self, row: Row) -> str | None:
        """Why this network cannot give that row weights, or None when it can."""
        if row.scores is not None or self.config.encoder == "text":
            return None
        return (
            f"this hypernetwork reads {self._reads()}, and {row} has no scores; give it a personality=, or use a network with "
            'encoder="text"'
        )

    def _codes(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        if not self.config.reads_text:
            return self._codes_of_scores(_scores(rows))
        features: Tensor = self.encoder([describe(row.scores) if row.text is None else row.text for row in rows])  # type: ignore[arg-type]
        if self.config.encoder == "both":  # the scores themselves in place of their estimates
            unit = (_scores(rows) / MAX_SCORE).to(features)
            features = torch.cat([features[:, :1], unit, features[:, 1 + len(TRAITS) :]], dim=1)
        return self._from_features(features)

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

    def to_config(self) -> dict[str, Any]:
        return self._config_dict()

    def _codes_of_scores(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.trunk.parameters())
        return self._from_features(self.encoder(scores.to(weight.device, weight.dtype)))

    def _from_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weight = next(self.trunk.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            a, b = self.trunk(features.to(weight.device, weight.dtype))
            if self.config.neutral == "base":
                origin = torch.eye(
                    1, self.config.features, device=weight.device, dtype=weight.dtype
                )  # the constant alone
                b = b - self.trunk(origin)[1]
        return a.float().contiguous(), b.float().contiguous()

    def _reads(self) -> str:
        return {"scores": "trait scores", "both": "trait scores and a text"}.get(self.config.encoder, "a text")


def _scores(rows: Sequence[Row]) -> Tensor:
    """float32 [N, 5]; built on the CPU and copied once: one transfer, however many rows."""
    found = [row.scores.scores for row in rows if row.scores is not None]
    return torch.tensor(found, dtype=torch.float32).reshape(-1, len(TRAITS))
