"""The common interface of networks that give LoRA weights: codes over a bank of entries."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import HypernetConfig
from dpg_fast.hypernet.peft_io import write_peft
from dpg_fast.hypernet.stage_rows import StageRows, character_files
from dpg_fast.personality.description import Description
from dpg_fast.personality.row import Row, RowItem
from dpg_fast.personality.scores import Character, Personality

__all__ = ["AdapterNetwork", "wrong_kind"]


class AdapterNetwork(nn.Module, ABC):
    """The common interface of `HyperNetwork` (scores in) and `StoredAdapters` (names in).

    The adapted layer computes `W x + scale * B(z) (A(z) x)`, with A(z), B(z) mixed from the bank by the
    codes.

    Attributes:
        config: the sizes; `config.scale` is alpha / rank.
        bank: the LoRA entries, `bank.A(site)` [K, r, in_features] and `bank.B(site)` [K, r, out_features].
        generates: it makes weights from scores or texts.
        stores: it has adapters by name.
    """

    generates: ClassVar[bool] = False
    stores: ClassVar[bool] = False
    config: HypernetConfig
    bank: LoraBank

    @property
    def sites(self) -> tuple[Site, ...]:
        """The adapted layers, by name with numbers by value: the same order however the network was made."""
        return self.bank.sites

    @property
    def device(self) -> torch.device:
        """Where the bank lies."""
        return self.bank.A(self.sites[0]).device

    def codes(self, items: Sequence[RowItem | Row] | Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b) of N items, or of scores [N, 5]; each [N, K], float32, on the bank's device.

        Raises:
            TypeError: an item of a kind that this network does not take (None, the base model, has no code).
            ValueError: a name that is not stored, or an item without the scores that are read.
        """
        if isinstance(items, Tensor):
            return self.scores_to_codes(items)
        return self.codes_of([self.accepted(item) for item in items])

    @abstractmethod
    def accepted(self, item: RowItem | Row) -> Row:
        """An item as a row, if this network alone can give all that it asks for; errors as in `codes`."""

    def takes(self, row: Row) -> bool:
        """Whether this network has a part in a row."""
        return (self.generates and row.generated) or (self.stores and row.blend is not None)

    def codes_of(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Codes (a, b) [N, K] of what the rows ask of this network; zero for those that it has no part in."""
        taken = [number for number, row in enumerate(rows) if self.takes(row)]
        if rows and not taken:  # a text is not read, then
            return (none := torch.zeros(len(rows), self.config.codes, device=self.device)), none
        a, b = self._codes([rows[number] for number in taken])
        if len(taken) == len(rows):
            return a, b
        index = torch.tensor(taken, device=a.device)
        a, b = (code.new_zeros(len(rows), code.shape[1]).index_copy(0, index, code) for code in (a, b))
        return a, b

    @abstractmethod
    def _codes(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Codes of rows that this network has a part in."""

    @property
    def stages(self) -> StageRows | None:
        """Embedding rows of the characters' stage tokens, if there are any."""
        return None

    @abstractmethod
    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b) of scores [N, 5]; see `HyperNetwork.scores_to_codes`."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Plain JSON values from which `from_config` makes a network that takes this one's state dict."""

    def materialise(self, item: Personality | Description | Character) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name -> (A [r, in_features], B [out_features, r]) of one item, `config.scale` not applied."""
        a, b = self.codes([item])
        return self.bank.materialise(a[0], b[0])

    @torch.no_grad()
    def to_peft(
        self,
        item: Personality | Description | Character,
        directory: str | os.PathLike[str],
        *,
        base_model: str | os.PathLike[str],
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
        fingerprint: dict[str, Any] | None = None,
        tokenizer: Any = None,
        model_type: str | None = None,
        transposed: bool = False,
    ) -> Path:
        """Write the LoRA adapter of one item as a PEFT directory; see `peft_io.write_peft` for the rest.

        With a single character that has stages go its trained token rows, `character.json` (with the base model's
        `fingerprint`, if it is given) and, if the base model's `tokenizer` is given, that with the stage tokens added.
        """
        return write_peft(
            directory,
            self.materialise(item),
            alpha=self.config.alpha,
            base_model=base_model,
            dtype=dtype,
            overwrite=overwrite,
            model_type=model_type,
            transposed=transposed,
            **character_files(self.stages, item, str(base_model), fingerprint, tokenizer),
        )

    def randomize_(self, generator: torch.Generator | None = None, std: float = 0.02) -> AdapterNetwork:
        """Fill the bank's B with random numbers, for tests and benchmarks; see `LoraBank.randomize_`."""
        self.bank.randomize_(generator, std)
        return self

    def _config_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "sites": [[site.name, site.in_features, site.out_features] for site in self.sites],
        }


def wrong_kind(item: object, wanted: str, why: str) -> str:
    """What is said of an item that a network does not take; `why` names what it does."""
    hint = "; None is the base model and has no code" if item is None else ""
    return f"{why}: each item must be a {wanted}, not {type(item).__name__} ({item!r}){hint}"
