"""Why a bank does not fit a model: which of its layers are missing there, and what may have been meant."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dpg_fast.compat.transformers_models import output_layer
from dpg_fast.hypernet import Site
from dpg_fast.util.errors import DPGError

__all__ = ["check_sites"]

SHOWN = 5


def check_sites(base: nn.Module, available: Sequence[Site], wanted: Sequence[Site]) -> None:
    """Refuse a bank with entries for layers that cannot be adapted in this model.

    Args:
        base: a Hugging Face causal LM.
        available: its adaptable layers.
        wanted: the bank's.

    Raises:
        ValueError: names the layers, and says whether they have other sizes, are the output head or embeddings, have another
            prefix, cannot be adapted, or are not there at all.
    """
    sizes = {site.name: site for site in available}
    misfits = [site for site in wanted if sizes.get(site.name) != site]
    if not misfits:
        return
    names = [site.name for site in misfits]
    resized = [site for site in misfits if site.name in sizes]
    if resized:
        first = resized[0]
        there = sizes[first.name]
        raise DPGError(
            f"the bank was made for a model of other sizes: {first.name} has {first.in_features} -> {first.out_features} "
            f"features in the bank, {there.in_features} -> {there.out_features} in this model "
            f"({len(resized)} of {len(wanted)} layers differ)"
        )
    modules = dict(base.named_modules())
    ends = [name for name in names if name in modules and _is_end(base, modules[name])]
    if ends:
        raise DPGError(
            f"adapters of the output head or the embeddings are not supported: {_some(ends)}; train the adapter without "
            "them in its target_modules"
        )
    prefixes = _other_prefix(names, list(sizes))
    if prefixes is not None:
        theirs, ours = prefixes
        raise DPGError(
            f"the bank's layers begin with {theirs!r}, this model's with {ours!r}: the adapter was made for another class of "
            f"the model (a multimodal one and its text model, for example). Load that class, or rename the adapter's tensors "
            f"so that they begin with {ours!r}; first layer: {names[0]}"
        )
    unadaptable = [name for name in names if name in modules]
    if unadaptable:
        raise DPGError(
            f"the bank has entries for layers that cannot be adapted: {_some(unadaptable)}; accepted are the attention and MLP "
            f"projections of the text decoder, such as {_some(list(sizes)[:3])}"
        )
    raise DPGError(
        f"the bank has entries for layers that the model lacks: {_some(names)}; it has, for example, "
        f"{_some(list(sizes)[:3])}"
    )


def _is_end(base: nn.Module, module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return True
    return output_layer(base) is module


def _other_prefix(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, str] | None:
    """(prefix of the wanted names, prefix of the available ones) if nothing else makes each of the former one of the latter."""
    found: set[tuple[str, str]] = set()
    there = set(available)
    for name in wanted:
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
        if number is None or number == 0:
            return None
        suffix = ".".join(parts[number - 1 :])
        ours = {one.removesuffix(suffix) for one in there if one == suffix or one.endswith(f".{suffix}")}
        if len(ours) != 1:
            return None
        found.add((name.removesuffix(suffix), ours.pop()))
    return found.pop() if len(found) == 1 else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
