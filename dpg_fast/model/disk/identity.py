"""Digests of models and adapters: results of a long command are continued only by what they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.fingerprint import fingerprint
from dpg_fast.model.wrapper import PersonalityModel
from dpg_fast.util.identity import digest, file_digest


def adapter_identity(directory: Path) -> dict[str, Any]:
    """Digests of an adapter's parts, JSON-ready; the calibration has one of its own, for it may change alone."""
    parts: dict[str, artifact.Part] = {artifact.HYPERNET: "hypernet", artifact.NEURONS: "neurons"}
    files = {name: artifact.part_file(directory, part) for name, part in parts.items()}
    digests = {name: file_digest(file) for name, file in files.items() if file is not None}
    return {"adapter": digests, "base": artifact.read_config(directory)["base_model"]["name"]}


def calibration_identity(directory: Path) -> dict[str, Any]:
    """A digest of an adapter's calibration, JSON-ready."""
    file = artifact.part_file(directory, "calibration")
    return {"calibration": file_digest(file) if file is not None and file.is_file() else None}


def base_identity(model: Any) -> str:
    """A digest of a base model's shape, sampled weights and dtype."""
    described = artifact.describe_base(model)["fingerprint"] | {"dtype": str(getattr(model, "dtype", ""))}
    return digest(described, 16)


def model_identity(model: Any) -> str:
    """Sixteen hex digits that change with the base model, its dtype, and whatever gives it personalities.

    The base is known by sampled weights, a hypernetwork and a steering table by the sums of their tensors.
    """
    base = model.base if isinstance(model, PersonalityModel) else model
    parts: list[Any] = [fingerprint(base), str(next(base.parameters()).dtype)]
    if isinstance(model, PersonalityModel):
        tensors: dict[str, torch.Tensor] = {}
        if model.hypernet is not None:
            tensors |= model.hypernet.state_dict()
        if model.steering is not None:
            tensors |= {"clamp_mask": model.steering.clamp_mask, "add": model.steering.add}
        for name, tensor in sorted(tensors.items()):
            values = tensor.detach().double()
            parts.append([name, list(tensor.shape), float(values.sum()), float(values.abs().sum())])
        parts += [repr(model.calibration), repr(model.steering_options)] if model.steering is not None else []
    return digest(parts, 16)
