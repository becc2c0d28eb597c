"""Adapters with the bank stored in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dpg_fast import HypernetConfig, Personality, PersonalityModel


def test_a_bank_in_bfloat16_takes_half_the_space_and_loads_into_masters(tiny_llama: Any, tmp_path: Path) -> None:
    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=4, codes=6))
    assert model.hypernet is not None
    model.hypernet.randomize_(torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", bank_dtype=torch.bfloat16)
    expected = model.hypernet.materialise(Personality("E4"))
    model.unload()
    sizes = [(tmp_path / name / "hypernet.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.65 * sizes[0]
    again = PersonalityModel.load(tiny_llama, tmp_path / "half")
    assert again.hypernet is not None
    assert {p.dtype for p in again.hypernet.parameters()} == {torch.float32}
    for site, (a, b) in again.hypernet.materialise(Personality("E4")).items():
        torch.testing.assert_close(a, expected[site][0], rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(b, expected[site][1], rtol=2e-2, atol=2e-2)
