"""PEFT's rewriting of targets on mixtures of experts: the names kept in dpg_fast are PEFT's own."""

from __future__ import annotations

import pytest

from dpg_fast.compat.peft import EXPERT_LAYERS, rewritten_names


def test_names_that_peft_rewrites() -> None:
    peft = pytest.importorskip("peft.utils.transformers_weight_conversion")
    assert {kind: frozenset(names) for kind, names in peft._MOE_TARGET_MODULE_MAPPING.items()} == EXPERT_LAYERS
    kinds = peft._MODEL_TO_CONVERSION_PATTERN
    for model_type, kind in kinds.items():
        assert rewritten_names(model_type) == EXPERT_LAYERS.get(str(kind), frozenset())
    assert "gate_proj" in rewritten_names("deepseek_v3")
    assert rewritten_names("llama") == rewritten_names(None) == frozenset()
