"""Tell models apart, so that answers of one are not continued with another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from dpg_fast.model import PersonalityModel
from dpg_fast.model.fingerprint import fingerprint


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
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
