"""Stored LoRA adapters as a bank: read from PEFT directories, chosen or blended by name."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import MAX_CODES, MAX_RANK, HypernetConfig, select_sites
from dpg_fast.hypernet.interface import AdapterNetwork, wrong_kind
from dpg_fast.hypernet.peft_io import PeftAdapter, PeftFormatError, read_peft
from dpg_fast.hypernet.stage_rows import StageRows
from dpg_fast.personality.row import Row, RowItem, read_row
from dpg_fast.personality.scores import Character, Personality
from dpg_fast.util.errors import DPGError, WrongTypeError

__all__ = ["StoredAdapters", "from_peft", "from_read"]


class StoredAdapters(AdapterNetwork):
    """Stored LoRA adapters as bank entries, chosen (or blended) by name with a `Character`.

    One name is its adapter exactly. A blend of weights w has codes a = sqrt|w| and b = sign(w) sqrt|w|. If
    the adapters share rank rows (`from_peft(..., exact_blends=False)`), the factors are mixed, as by PEFT's
    "linear" combination, and cross terms between the adapters appear; with `exact_blends=True` the change is
    exactly sum_i w_i B_i A_i.

    Args:
        config: sizes, `encoder="stored"`, `codes` = number of names.
        sites: the adapted layers, all used.
        names: one for each bank entry, in order.
        stages: embedding rows of the stage tokens of tuned characters, or None.

    Raises:
        ValueError: repeated or empty names, a number of names other than `codes`, or another encoder.
    """

    stores = True

    def __init__(
        self, config: HypernetConfig, sites: Iterable[Site], names: Sequence[str], stages: StageRows | None = None
    ) -> None:
        super().__init__()
        if config.encoder != "stored":
            raise DPGError(f'StoredAdapters need encoder="stored", not {config.encoder!r}')
        self.names = tuple(names)
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) != len(self.names):
            raise DPGError(f"names repeat: {', '.join(self.names)}")
        for name in self.names:
            Character(name)  # refuses names that could not be asked for
        if len(self.names) != config.codes:
            raise DPGError(f"{len(self.names)} names for {config.codes} bank entries")
        self.config = config
        self.bank = LoraBank(select_sites(sites, config.targets), config.rank, config.codes)
        self.stage_rows = stages

    def accepted(self, item: RowItem | Row) -> Row:
        row = read_row(item) if isinstance(item, (Personality, Character, Row)) else None
        if row is None or row.blend is None or row.generated:
            raise WrongTypeError(wrong_kind(item, "Character", "this model holds stored adapters"))
        return row

    def _codes(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        a = torch.zeros(len(rows), len(self.names), dtype=torch.float32)
        b = torch.zeros_like(a)
        for number, row in enumerate(rows):
            for name, weight in row.blend.weights if row.blend is not None else ():
                column = self._index.get(name)
                if column is None:
                    raise DPGError(f"no stored adapter {name!r}; available: {', '.join(self.names)}")
                root = math.sqrt(abs(weight))
                a[number, column] = root
                b[number, column] = math.copysign(root, weight)
        return a.to(self.device), b.to(self.device)

    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Always a TypeError: stored adapters are chosen by name."""
        raise WrongTypeError("stored adapters are chosen by Character, not by trait scores")

    def to_config(self) -> dict[str, Any]:
        stages = {"stages": self.stages.to_config()} if self.stages is not None else {}
        return {**self._config_dict(), "names": list(self.names), **stages}

    @property
    def stages(self) -> StageRows | None:
        return self.stage_rows


def from_peft(
    adapters: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    exact_blends: bool = False,
    allow_mismatch: bool = False,
) -> StoredAdapters:
    """Make a bank of PEFT LoRA adapters, one entry for each, chosen by `Character(name)`.

    Each adapter's scaling (alpha / r, or alpha / sqrt(r) with rslora) is multiplied into its B. Lower ranks
    are padded with zeros; a layer that an adapter does not change gets zeros. So memory and the cost of a step grow with
    the number of adapters times the largest rank: adapters of rank 8 beside one of 256 cost as much as that one does.

    Args:
        adapters: name -> local PEFT directory; or one directory, named after the tuned character in it or itself.
        exact_blends: give each adapter rank rows of its own, so that blends are exact sums of the adapters'
            changes, at the cost of a rank that is the sum of the ranks instead of the largest.
        allow_mismatch: accept adapters that state different base models.

    Raises:
        FileNotFoundError, PeftFormatError: see `peft_io.read_peft`.
        ValueError: no adapters, different base models, more than 64 adapters, or a rank above 512.
    """
    if not isinstance(adapters, (str, os.PathLike)):
        return from_read({n: read_peft(d) for n, d in adapters.items()}, exact_blends, allow_mismatch)
    adapter = read_peft(adapters)
    name = adapter.card.character if adapter.card is not None else Path(adapters).resolve().name
    return from_read({name: adapter}, exact_blends, allow_mismatch)


def from_read(
    read: Mapping[str, PeftAdapter], exact_blends: bool = False, allow_mismatch: bool = False
) -> StoredAdapters:
    """`from_peft` for adapters that are read already."""
    if not read:
        raise DPGError("no adapters given")
    if len(read) > MAX_CODES:
        raise DPGError(f"{len(read)} adapters; a bank holds at most {MAX_CODES}")
    bases = {name: adapter.base_model for name, adapter in read.items() if adapter.base_model is not None}
    if len(set(bases.values())) > 1 and not allow_mismatch:
        stated = ", ".join(f"{name}: {base}" for name, base in bases.items())
        raise DPGError(f"the adapters state different base models ({stated}); allow_mismatch=True accepts that")

    sites: dict[str, Site] = {}
    for name, adapter in read.items():
        for site_name, (a, b) in adapter.pairs.items():
            site = Site(site_name, a.shape[1], b.shape[0])
            if sites.setdefault(site_name, site) != site:
                other = sites[site_name]
                raise PeftFormatError(
                    f"{site_name}: adapter {name!r} has {site.in_features} -> {site.out_features}, another "
                    f"{other.in_features} -> {other.out_features}"
                )
    ranks = [max(a.shape[0] for a, _ in adapter.pairs.values()) for adapter in read.values()]
    rank = sum(ranks) if exact_blends else max(ranks)
    if rank > MAX_RANK:
        how, out = f"rank {rank}", "reduce the adapter's rank, for example by a singular value decomposition"
        if exact_blends:
            how = f"the ranks {ranks} sum to {rank} (exact_blends=True)"
            out = "without exact_blends the adapters share rank rows"
        raise DPGError(f"{how}; a bank holds at most {MAX_RANK}: {out}")

    config = HypernetConfig(rank=rank, codes=len(read), alpha=float(rank), encoder="stored")
    staged = {n: (a.card, a.tokens, a.embedding) for n, a in read.items() if a.card is not None}
    network = StoredAdapters(config, sites.values(), tuple(read), StageRows.read(staged))
    with torch.no_grad():
        for site in network.sites:
            network.bank.A(site).zero_()
        first = 0
        for entry, (adapter, own_rank) in enumerate(zip(read.values(), ranks, strict=True)):
            for site_name, (a, b) in adapter.pairs.items():
                rows = slice(first, first + a.shape[0])
                network.bank.A(site_name)[entry, rows] = a
                network.bank.B(site_name)[entry, rows] = b.T
            first += own_rank if exact_blends else 0
    return network
