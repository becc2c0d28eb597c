"""A hypernetwork and stored characters side by side in one bank.

Why: docs/decisions.md, "A character and a profile have rank rows of their own".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.bank import LoraBank
from dpg_fast.hypernet.config import MAX_CODES, MAX_RANK, HypernetConfig, sort_sites
from dpg_fast.hypernet.interface import AdapterNetwork
from dpg_fast.hypernet.network import HyperNetwork
from dpg_fast.hypernet.stage_rows import StageRows
from dpg_fast.hypernet.stored import StoredAdapters
from dpg_fast.personality.row import Row, RowItem, read_row
from dpg_fast.util.errors import DPGError, WrongTypeError

__all__ = ["CombinedNetwork", "JoinedBank", "join_stored"]


class JoinedBank(LoraBank):
    """The banks of two networks as one: entries one after the other, each network's in rank rows of its own.

    So the change of a row with codes in both is exactly the sum of the two changes. It holds no weights: `A` and `B` are made
    from the parts' (each part's scale alpha / r is in B), and gradients reach them.
    """

    def __init__(self, parts: Sequence[AdapterNetwork]) -> None:
        nn.Module.__init__(self)
        self._parts = tuple(parts)  # not registered: they belong to the network that made this bank
        found: dict[str, Site] = {}
        for site in (site for part in parts for site in part.sites):
            if found.setdefault(site.name, site) != site:
                raise DPGError(
                    f"{site.name}: one adapter has {site.in_features} -> {site.out_features}, another "
                    f"{found[site.name].in_features} -> {found[site.name].out_features}"
                )
        self.sites = sort_sites(found.values())
        self.rank = sum(part.bank.rank for part in parts)
        self.num_codes = sum(part.bank.num_codes for part in parts)
        self.code_power = 1.0
        self._own = [{site.name for site in part.sites} for part in parts]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those of the parts."""
        for part in self._parts:
            yield from part.bank.parameters(recurse)

    def A(self, site: Site | str) -> nn.Parameter:
        """[K, r, in_features]: a tensor made from the parts, not a parameter."""
        return self._joined(site, lambda part, name: part.bank.A(name), "in_features")

    def B(self, site: Site | str) -> nn.Parameter:
        """[K, r, out_features], as `A`."""
        return self._joined(site, lambda part, name: part.bank.B(name) * part.config.scale, "out_features")

    def reset_parameters(self) -> None:
        """Start each part again."""
        for part in self._parts:
            part.bank.reset_parameters()

    def randomize_(self, generator: torch.Generator | None = None, std: float = 0.02) -> JoinedBank:
        """As `LoraBank.randomize_`, part by part."""
        for part in self._parts:
            part.bank.randomize_(generator, std)
        return self

    def _joined(self, site: Site | str, weight: Callable[[AdapterNetwork, str], Tensor], width: str) -> nn.Parameter:
        name = site if isinstance(site, str) else site.name
        if not any(name in own for own in self._own):
            raise KeyError(f"no site {name!r} in the bank; it has {len(self.sites)} sites")
        features = getattr(next(s for s in self.sites if s.name == name), width)
        blocks, before = [], 0
        for part, own in zip(self._parts, self._own, strict=True):
            entries, rank = part.bank.num_codes, part.bank.rank
            if name in own:
                block = F.pad(weight(part, name), (0, 0, before, self.rank - before - rank))
            else:
                block = torch.zeros(entries, self.rank, features, device=part.device)
            blocks.append(block)
            before += rank
        return cast(nn.Parameter, torch.cat(blocks))


class CombinedNetwork(AdapterNetwork):
    """A hypernetwork for the scores and stored adapters for the characters; a row may have either or both.

    `Personality("E+3")` is the hypernetwork's change alone, `Personality(character="marit_oss")` or `Character("marit_oss")` the
    adapter's alone, `Personality(character="marit_oss", extraversion=3)` exactly the sum of the two.

    Args:
        profile: the hypernetwork; it stays trainable.
        stored: the characters.

    Attributes:
        config: derived sizes: rank and codes are the sums, alpha = rank.

    Raises:
        ValueError: together they exceed rank 512 or 64 entries, or differ about a layer's size; or a hypernetwork with a wide
            head.
    """

    generates = stores = True

    def __init__(self, profile: HyperNetwork, stored: StoredAdapters) -> None:
        super().__init__()
        if profile.config.head == "wide":
            raise DPGError(
                'characters cannot stand beside a wide head, whose weights are made for each personality; use head="bank"'
            )
        rank, codes = (sum(getattr(part.config, name) for part in (profile, stored)) for name in ("rank", "codes"))
        for what, total, limit, each in (("rank", rank, MAX_RANK, "rank"), ("bank entries", codes, MAX_CODES, "codes")):
            if total > limit:
                own, theirs = getattr(profile.config, each), getattr(stored.config, each)
                raise DPGError(
                    f"{what}: {own} of the hypernetwork and {theirs} of the characters make {total}; at most {limit} fit into "
                    "one bank, so give the model fewer characters, or characters of a lower rank"
                )
        self.profile = profile
        self.stored = stored
        self.config = dataclasses.replace(
            profile.config,
            rank=rank,
            codes=codes,
            alpha=float(rank),
            depth=max(1, profile.config.depth),  # says nothing here; 0 would limit the number of codes
            targets="all",
            first_layer=0,
        )
        self.bank = JoinedBank((profile, stored))

    @property
    def names(self) -> tuple[str, ...]:
        """The characters."""
        return self.stored.names

    @property
    def stages(self) -> StageRows | None:
        """Those of the characters."""
        return self.stored.stages

    @property
    def device(self) -> torch.device:
        return self.profile.device

    def accepted(self, item: RowItem | Row) -> Row:
        row = read_row(item)
        if row is None:
            raise WrongTypeError(f"{item!r} is neither a personality nor a character")
        if row.generated and (refusal := self.profile.refusal(row)) is not None:
            raise DPGError(refusal)
        return row

    def codes_of(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        return self._side_by_side(self.profile.codes_of(rows), self.stored.codes_of(rows))

    _codes = codes_of

    def scores_to_codes(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (a, b) of scores [N, 5] without a character; see `HyperNetwork.scores_to_codes`."""
        own = self.profile.scores_to_codes(scores)
        zeros = own[0].new_zeros(len(own[0]), self.stored.config.codes)
        return self._side_by_side(own, (zeros, zeros))

    def to_config(self) -> dict[str, Any]:
        return {"profile": self.profile.to_config(), "characters": self.stored.to_config()}

    def _side_by_side(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat([first[0], second[0]], dim=-1), torch.cat([first[1], second[1]], dim=-1)


@torch.no_grad()
def join_stored(first: StoredAdapters, second: StoredAdapters, *, exact_blends: bool = False) -> StoredAdapters:
    """The adapters of both, in one bank (new weights); rank rows are shared or not as in `from_peft`.

    Raises:
        ValueError: one name in both, or more than 64 entries or a rank above 512 together.
    """
    twice = sorted(set(first.names) & set(second.names))
    if twice:
        raise DPGError(f"there is a character {twice[0]!r} already; characters: {', '.join(first.names)}")
    ranks = [part.config.rank for part in (first, second)]
    rank = sum(ranks) if exact_blends else max(ranks)
    codes = len(first.names) + len(second.names)
    if rank > MAX_RANK or codes > MAX_CODES:
        how = "; without exact_blends they share rank rows" if exact_blends else ""
        raise DPGError(f"{codes} adapters of rank {rank} together; at most {MAX_CODES} of rank {MAX_RANK} fit{how}")
    bank = JoinedBank((first, second))
    stages = StageRows.joined((first.stages, second.stages))
    config = HypernetConfig(rank=rank, codes=codes, alpha=float(rank), encoder="stored")
    made = StoredAdapters(config, bank.sites, first.names + second.names, stages)
    here, start = len(first.names), ranks[0] if exact_blends else 0
    for site in made.sites:
        for own, joined in ((made.bank.A(site), bank.A(site)), (made.bank.B(site), bank.B(site))):
            own.zero_()
            own[:here, : ranks[0]] = joined[:here, : ranks[0]].to(own.device)
            own[here:, start : start + ranks[1]] = joined[here:, ranks[0] :].to(own.device)
    return made
