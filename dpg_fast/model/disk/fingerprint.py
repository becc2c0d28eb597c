"""Recognise a base model by its shape and by a sample of its weights.

An adapter fits one checkpoint: neurons found in Llama-3 do nothing in Llama-3.1. Names do not tell checkpoints apart, so the
adapter stores a few hundred weights. They are compared with a tolerance that covers loading in another floating dtype, and
layers that a quantised base does not hold as floats are left out of the comparison.

Why: docs/decisions.md, "Base models are recognised by sampled weights".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, with_config
from torch import nn
from typing_extensions import TypedDict

from dpg_fast.compat.accelerate import weight_value
from dpg_fast.compat.transformers_models import model_name, shape_of
from dpg_fast.util.reading import STRICT

TENSORS = 24
VALUES = 16
#: relative error that bfloat16 rounding (2**-9) may cause, with room to spare
TOLERANCE = 0.01


@with_config(STRICT)
class Fingerprint(TypedDict):
    """What `fingerprint` gives, and adapters and cards store."""

    shape: dict[str, Any]
    weights: dict[str, list[Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]]]


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """A JSON-ready description of ``model``: its configuration's sizes and ``TENSORS`` x ``VALUES`` sampled weights."""
    weights = {name: p for name, p in model.named_parameters() if p.dim() >= 2 and p.is_floating_point()}
    names = sorted(weights)
    step = max(1, len(names) // TENSORS)
    return {
        "shape": shape_of(model),
        "weights": {name: _sample(weight_value(model, name)) for name in names[::step][:TENSORS]},
    }


def unsampled(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of a base model that is not at hand: its sizes alone, so that :func:`mismatch` goes by its name.

    Args:
        shape: some or all of the sizes that :func:`fingerprint` stores.
    """
    return {"shape": dict(shape), "weights": {}}


def mismatch(stored: dict[str, Any], model: nn.Module, name: str = "") -> str | None:
    """Why ``model`` is not the base that ``stored`` describes, or None when it is.

    Args:
        stored: what :func:`fingerprint` or :func:`unsampled` gave.
        model: to be compared.
        name: id of the base; only used where no weights were sampled.
    """
    shape = shape_of(model)
    for key, value in stored["shape"].items():
        found = shape.get(key)
        if found != value:
            return f"{key} is {found}, the adapter was made for {value}"
    if not stored["weights"]:
        return None if _is_called(model, name) else _unknown_weights(model, name)
    parameters = dict(model.named_parameters())
    compared = 0
    for name, values in stored["weights"].items():
        parameter = parameters.get(name)
        if parameter is None or not parameter.is_floating_point():
            continue
        expected, found_values = torch.tensor(values), torch.tensor(_sample(weight_value(model, name)))
        if expected.shape != found_values.shape:
            return f"{name} has another shape"
        error = float((expected - found_values).norm() / expected.norm().clamp_min(1e-12))
        if not error <= TOLERANCE:
            return f"the weights differ: {name} by {error:.0%}"
        compared += 1
    return None if compared else "none of the sampled weights can be compared"


def _is_called(model: Any, name: str) -> bool:
    """Whether ``model`` was loaded under that id, or from a directory of its name or the Hub cache of that id."""
    found = model_name(model).lower()
    if not name or found == name.lower():
        return bool(name)
    organisation, _, short = name.lower().rpartition("/")
    path = Path(found)
    return short == path.name or f"models--{organisation}--{short}" in path.parts


def _unknown_weights(model: Any, name: str) -> str:
    found = model_name(model) or "without a name"
    return (
        f"its weights were not sampled when the adapter was made, so it goes by the name {name!r}, and this model is "
        f"{found!r}"
    )


def _sample(parameter: torch.Tensor) -> list[float]:
    flat = parameter.detach().reshape(-1)
    index = torch.linspace(0, flat.numel() - 1, VALUES, dtype=torch.float64).long().to(flat.device)
    return [float(f"{value:.6g}") for value in flat[index].float().tolist()]
