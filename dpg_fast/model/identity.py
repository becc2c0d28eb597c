"""Digests of models and adapters: results of a long command are continued only by what they depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dpg_fast.model import artifact


def adapter_identity(directory: Path) -> dict[str, Any]:
    """Digests of an adapter's parts, JSON-ready; the calibration has one of its own, for it may change alone."""
    names = (artifact.HYPERNET, artifact.NEURONS)
    files = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()[:16]
        for name in names
        if (directory / name).is_file()
    }
    return {"adapter": files, "base": artifact.read_config(directory)["base_model"]["name"]}


def calibration_identity(directory: Path) -> dict[str, Any]:
    """A digest of an adapter's calibration, JSON-ready."""
    file = directory / artifact.CALIBRATION
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
    return {"calibration": digest}


def base_identity(model: Any) -> str:
    """A digest of a base model's shape, sampled weights and dtype."""
    described = artifact.describe_base(model)["fingerprint"] | {"dtype": str(getattr(model, "dtype", ""))}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
