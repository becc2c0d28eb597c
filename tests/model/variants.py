"""Every kind of hypernetwork, on tiny models and on SmolLM2."""

from __future__ import annotations

from typing import Any

import torch

from dpg_fast import HypernetConfig, PersonalityModel

SMALL: dict[str, Any] = {"rank": 3, "codes": 6, "alpha": 6.0, "hidden": 8, "depth": 1, "text_features": 4}
VARIANTS: dict[str, HypernetConfig] = {
    "scores": HypernetConfig(**SMALL),
    "text": HypernetConfig(**SMALL, encoder="text"),
    "both": HypernetConfig(**SMALL, encoder="both"),
    "wide": HypernetConfig(**SMALL, head="wide"),
    "wide text": HypernetConfig(**SMALL, head="wide", encoder="text"),
}


def personality_model(
    base: Any, tokenizer: Any, config: HypernetConfig, *, std: float = 0.1, seed: int = 0, reference: int = 24
) -> PersonalityModel:
    """With a B side that is not zero and, where texts are read, maps fitted to a few texts."""
    torch.manual_seed(seed)
    model = PersonalityModel.from_model(base, hypernet=config, tokenizer=tokenizer)
    network: Any = model.hypernet
    if std:
        network.randomize_(torch.Generator().manual_seed(seed), std=std)
        with torch.no_grad():  # at the start the components of a text have no effect yet
            for parameter in network.trunk.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    if config.reads_text:
        network.encoder.fit(reference)
    return model
