"""Adapter networks: what a personality or a character is, as codes over a bank of LoRA weights."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.description import Description, character_of
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import (
    MAX_CODES,
    MAX_RANK,
    HypernetConfig,
    Site,
    input_groups,
    select_sites,
    sort_sites,
)
from dpg_fast.hypernet.encoders import Reader, ScoresEncoder, TextEncoder
from dpg_fast.hypernet.peft_io import PeftAdapter, PeftFormatError, read_peft, write_peft
from dpg_fast.hypernet.stage_rows import StageRows, character_files
from dpg_fast.hypernet.trunk import Trunk, WideTrunk, mean_code_power
from dpg_fast.hypernet.wording import describe
from dpg_fast.personality import MAX_SCORE, TRAITS, Character, Personality

__all__ = ["AdapterNetwork", "HyperNetwork", "StoredAdapters", "from_config", "from_peft"]


class AdapterNetwork(nn.Module, ABC):
    """The common interface of `HyperNetwork` (scores in) and `StoredAdapters` (names in).

    The adapted layer computes `W x + scale * B(z) (A(z) x)`, with A(z), B(z) mixed from the bank by the
    codes.

    Attributes:
        config: the sizes; `config.scale` is alpha / rank.
        bank: the LoRA entries, `bank.A(site)` [K, r, in_features] and `bank.B(site)` [K, r, out_features].
    """

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

    @property
    def groups(self) -> dict[str, int] | None:
        """Site name -> its row of codes [N, L, K]; None where all sites share codes [N, K]."""
        return input_groups(self.sites) if self.config.per_layer_codes else None

    @abstractmethod
    def codes(self, items: Sequence[Any] | Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b) of N items, each [N, K] or, per layer, [N, L, K], float32, on the bank's device.

        Raises:
            TypeError: an item of a kind that this network does not take (None, the base model, has no code).
        """

    @property
    def stages(self) -> StageRows | None:
        """Embedding rows of the characters' stage tokens, if there are any."""
        return None

    def part_of(self, item: Any) -> Any:
        """What of a row's item this network has a code for; None for nothing."""
        return item

    @abstractmethod
    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b) of scores [N, 5]; see `HyperNetwork.scores_to_codes`."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Plain JSON values from which `from_config` makes a network that takes this one's state dict."""

    def materialise(self, item: Personality | Description | Character) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name -> (A [r, in_features], B [out_features, r]) of one item, `config.scale` not applied."""
        a, b = self.codes([item])
        if self.groups is None:
            return self.bank.materialise(a[0], b[0])
        pairs = self.bank.materialise_all(a, b, self.groups)
        return {name: (A[0], B[0].t().contiguous()) for name, (A, B) in pairs.items()}

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
            raise ValueError('a HyperNetwork reads scores or texts; encoder="stored" is for StoredAdapters')
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
                raise TypeError(_wrong_kind(item, "Personality", f"this hypernetwork reads {self._reads()}"))
            if character_of(item) is not None:
                raise ValueError(f"{item} names a stored adapter, and this hypernetwork has none")
            if (refusal := self.refuses(item)) is not None:
                raise ValueError(refusal)
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
            raise ValueError(f"scores must have shape [N, {len(TRAITS)}], not {list(scores.shape)}")
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

    def __init__(
        self, config: HypernetConfig, sites: Iterable[Site], names: Sequence[str], stages: StageRows | None = None
    ) -> None:
        super().__init__()
        if config.encoder != "stored":
            raise ValueError(f'StoredAdapters need encoder="stored", not {config.encoder!r}')
        self.names = tuple(names)
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) != len(self.names):
            raise ValueError(f"names repeat: {', '.join(self.names)}")
        for name in self.names:
            Character(name)  # refuses names that could not be asked for
        if len(self.names) != config.codes:
            raise ValueError(f"{len(self.names)} names for {config.codes} bank entries")
        self.config = config
        self.bank = LoraBank(select_sites(sites, config.targets), config.rank, config.codes)
        self.stage_rows = stages

    def codes(self, items: Sequence[Character | Personality] | Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a [N, K], b [N, K]), float32, of N characters.

        Raises:
            TypeError: an item that is not a Character, nor a Personality that is one alone.
            ValueError: a name that is not stored; the message lists those that are.
        """
        if isinstance(items, Tensor):
            return self.scores_to_codes(items)
        a = torch.zeros(len(items), len(self.names), dtype=torch.float32)
        b = torch.zeros_like(a)
        for row, found in enumerate(items):
            alone = isinstance(found, Personality) and not found.has_scores
            item = found.character if isinstance(found, Personality) and alone else found
            if not isinstance(item, Character):
                raise TypeError(_wrong_kind(item, "Character", "this model holds stored adapters"))
            for name, weight in item.weights:
                column = self._index.get(name)
                if column is None:
                    raise ValueError(f"no stored adapter {name!r}; available: {', '.join(self.names)}")
                root = math.sqrt(abs(weight))
                a[row, column] = root
                b[row, column] = math.copysign(root, weight)
        return a.to(self.device), b.to(self.device)

    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Always a TypeError: stored adapters are chosen by name."""
        raise TypeError("stored adapters are chosen by Character, not by trait scores")

    def to_config(self) -> dict[str, Any]:
        stages = {"stages": self.stages.to_config()} if self.stages is not None else {}
        return {**self._config_dict(), "names": list(self.names), **stages}

    @property
    def stages(self) -> StageRows | None:
        return self.stage_rows

    def part_of(self, item: Any) -> Any:
        return character_of(item)


def _wrong_kind(item: object, wanted: str, why: str) -> str:
    hint = "; None is the base model and has no code" if item is None else ""
    return f"{why}: each item must be a {wanted}, not {type(item).__name__} ({item!r}){hint}"


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
        raise ValueError(f"not a network's configuration: unknown {unknown}, missing {missing}")
    config = HypernetConfig.from_dict(values["config"])
    own = sort_sites(Site(*entry) for entry in values["sites"])
    if sites is not None:
        available = {site.name: site for site in sites}
        for site in own:
            found = available.get(site.name)
            if found is None:
                raise ValueError(f"the base model has no linear layer {site.name!r}, which the adapter changes")
            if found != site:
                raise ValueError(
                    f"{site.name}: the base model has {found.in_features} -> {found.out_features}, "
                    f"the adapter {site.in_features} -> {site.out_features}"
                )
    if config.encoder == "stored":
        if "names" not in values:
            raise ValueError("not a stored network's configuration: missing ['names']")
        stages = StageRows.from_config(values["stages"]) if "stages" in values else None
        return StoredAdapters(config, own, values["names"], stages)
    return HyperNetwork(config, own)


def from_peft(
    adapters: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    exact_blends: bool = False,
    allow_mismatch: bool = False,
) -> StoredAdapters:
    """Make a bank of PEFT LoRA adapters, one entry for each, chosen by `Character(name)`.

    Each adapter's scaling (alpha / r, or alpha / sqrt(r) with rslora) is multiplied into its B. Lower ranks
    are padded with zeros; a layer that an adapter does not change gets zeros.

    Args:
        adapters: name -> local PEFT directory; or one directory, named after the tuned character in it or itself.
        exact_blends: give each adapter rank rows of its own, so that blends are exact sums of the adapters'
            changes, at the cost of a rank that is the sum of the ranks instead of the largest.
        allow_mismatch: accept adapters that state different base models.

    Raises:
        FileNotFoundError, PeftFormatError: see `peft_io.read_peft`.
        ValueError: no adapters, different base models, more than 64 adapters, or a rank above 64.
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
        raise ValueError("no adapters given")
    if len(read) > MAX_CODES:
        raise ValueError(f"{len(read)} adapters; a bank holds at most {MAX_CODES}")
    bases = {name: adapter.base_model for name, adapter in read.items() if adapter.base_model is not None}
    if len(set(bases.values())) > 1 and not allow_mismatch:
        stated = ", ".join(f"{name}: {base}" for name, base in bases.items())
        raise ValueError(f"the adapters state different base models ({stated}); allow_mismatch=True accepts that")

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
        how = f"the ranks {ranks} sum to {rank} (exact_blends=True)" if exact_blends else f"rank {rank}"
        raise ValueError(f"{how}; at most {MAX_RANK} is supported")

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
