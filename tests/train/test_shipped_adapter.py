"""The hypernetwork that comes with the package."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file

from dpg_fast import Personality
from dpg_fast.hypernet import HyperNetwork, from_config

FOLDER = Path(str(resources.files("dpg_fast").joinpath("assets", "smollm2_hypernet")))


def test_it_is_small_and_opposite_poles_differ() -> None:
    assert (FOLDER / "hypernet.safetensors").stat().st_size < 20_000_000
    network = from_config(json.loads((FOLDER / "dpg_config.json").read_text())["hypernet"])
    assert isinstance(network, HyperNetwork)
    network.load_state_dict(load_file(FOLDER / "hypernet.safetensors"))

    def change(text: str) -> torch.Tensor:
        pairs = network.materialise(Personality(text))
        return torch.cat([(b @ a).flatten() for a, b in pairs.values()])

    neutral = change("neutral")
    for letter in "OCEAN":
        high, low = change(f"{letter}5") - neutral, change(f"{letter}-5") - neutral
        assert torch.nn.functional.cosine_similarity(high, low, dim=0) < -0.2
