"""Networks from the configuration that they wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field, Strict, with_config
from typing_extensions import TypedDict

from dpg_fast.architecture.sites import Site
from dpg_fast.hypernet.combined import CombinedNetwork
from dpg_fast.hypernet.config import HypernetConfig, sort_sites
from dpg_fast.hypernet.interface import AdapterNetwork
from dpg_fast.hypernet.network import HyperNetwork
from dpg_fast.hypernet.stage_rows import StageRows
from dpg_fast.hypernet.stored import StoredAdapters
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import STRICT, checked

__all__ = ["from_config"]


@with_config(STRICT)
class _Stages(TypedDict):
    tokens: list[Annotated[tuple[str, str, str, int], Strict(False)]]
    width: Annotated[int, Field(ge=1, le=1 << 20)]
    embedding: str


@with_config(STRICT)
class _Network(TypedDict):
    config: dict[str, Any]
    sites: list[Annotated[tuple[str, int, int], Strict(False)]]
    names: NotRequired[list[str]]
    stages: NotRequired[_Stages]


def from_config(values: Mapping[str, Any], sites: Iterable[Site] | None = None) -> AdapterNetwork:
    """The network that `to_config` described, with fresh weights: load its state dict next.

    Args:
        values: from `to_config`.
        sites: the base model's layers; if given, every layer of the network must be there, in its size.

    Raises:
        ValueError: a missing or unknown field, or a layer that the base model lacks or has in another size.
    """
    if "characters" in values:
        return _combined(values, sites)
    unknown = sorted(set(values) - {"config", "sites", "names", "stages"})
    missing = sorted({"config", "sites"} - set(values))
    if unknown or missing:
        raise DPGError(f"not a network's configuration: unknown {unknown}, missing {missing}")
    values = checked(_Network, dict(values), "a network's configuration")
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


def _combined(values: Mapping[str, Any], sites: Iterable[Site] | None = None) -> CombinedNetwork:
    """The network that `CombinedNetwork.to_config` described, with fresh weights; see `from_config`."""
    if set(values) != {"profile", "characters"}:
        raise DPGError(f"not a combined network's configuration: {sorted(values)}")
    available = None if sites is None else tuple(sites)
    profile, stored = (from_config(values[name], available) for name in ("profile", "characters"))
    if not isinstance(profile, HyperNetwork) or not isinstance(stored, StoredAdapters):
        raise DPGError("a combined network is a hypernetwork and stored adapters")
    return CombinedNetwork(profile, stored)
