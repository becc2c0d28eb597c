"""The block of docs/personified.md on serving characters runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import Personality, PersonalityModel
from dpg_fast.hypernet import CombinedNetwork
from dpg_fast.personality.stages import read_card
from tests.model.characters import write_character
from tests.support import ROOT

pytest.importorskip("peft", reason="PEFT writes the adapters")
TEXT = (ROOT / "docs" / "personified.md").read_text(encoding="utf-8")


def test_the_block_runs(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = re.search(r"^## Serving characters$.*?(?=^## )", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert section is not None
    (block,) = re.findall(r"```python\n(.*?)```", section.group(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("marit_oss", "anselm_voss")):
        folder = tmp_path / "runs" / name / "adapter"
        write_character(smollm2[0], folder, name, seed, tokenizer=smollm2[1], targets=("v_proj",), std=0.02)
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "personified.md", "exec"), space)
    answers = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(answers) >= 5 and len(set(answers)) > 3
    model = space["model"]
    assert isinstance(model, PersonalityModel) and isinstance(model.hypernet, CombinedNetwork)
    again = PersonalityModel.load(model.unload(), "everybody")
    people, options = space["people"], {"tokenizer": smollm2[1], "max_new_tokens": 2}
    assert len(again.chat("Well?", personality=people, **options)) == 5
    assert torch.equal(again.hypernet.stages.rows, model.hypernet.stages.rows)  # type: ignore[union-attr]
    assert read_card("outgoing_marit").stages == {"early": "TIME-I", "late": "TIME-II"}
    assert again.stage_token_id(Personality("@anselm_voss/late")) == 49155
