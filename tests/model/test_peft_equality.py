"""The bank's layers against PEFT's own LoRA layers with the materialised weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from tests.model.tiny import FAMILIES, prompts, tiny_model

peft = pytest.importorskip("peft", reason="PEFT is the reference here")

PEOPLE = [Personality("E+4 N-1"), Personality("O-5 C+2.5")]
KINDS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}
CASES = [(family, target) for family in FAMILIES for target in (*KINDS.get(family, KINDS["llama"]), "all")]


def compare(base: Any, ids: torch.Tensor, target: str, folder: Path, std: float, rank: int) -> None:
    torch.manual_seed(0)
    config = HypernetConfig(rank=rank, codes=6, alpha=3.0 * rank, targets="all" if target == "all" else (target,))
    network = HyperNetwork(config, find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(7), std=std)
    with torch.no_grad():
        bare = base(ids).logits
        expected = []
        for row, person in enumerate(PEOPLE):
            network.to_peft(person, folder / str(row), base_model="base")
            rival = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder / str(row))).eval()
            expected.append(rival(ids[row : row + 1]).logits[0])
        model = PersonalityModel.from_model(base, hypernet=network)
        found = model(ids, personality=PEOPLE).logits
    for row in range(len(PEOPLE)):
        change = (expected[row] - bare[row]).norm()
        assert change > 1e-3 * bare[row].norm(), "the adapter changes nothing, so the comparison shows nothing"
        assert (found[row] - expected[row]).norm() < 5e-6 * expected[row].norm() + 2e-5 * change


@pytest.mark.parametrize(("family", "target"), CASES)
def test_tiny_models(family: str, target: str, tmp_path: Path) -> None:
    compare(tiny_model(family), prompts(2, 11), target, tmp_path, std=0.1, rank=3)


@pytest.mark.parametrize("target", [*KINDS["llama"], "all"])
def test_smollm2(smollm2: tuple[Any, Any], target: str, tmp_path: Path) -> None:
    base = copy.deepcopy(smollm2[0])
    ids = torch.randint(100, 40_000, (2, 9), generator=torch.Generator().manual_seed(0))
    compare(base, ids, target, tmp_path, std=0.02, rank=8)
