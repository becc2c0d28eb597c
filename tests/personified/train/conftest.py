"""A project with a tiny base model, whose embeddings are tied (as SmolLM2's are) or not, and a finished first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("sklearn")

from transformers import LlamaForCausalLM

from tests.personified.train.people import write_project


@pytest.fixture(params=["tied", "untied"])
def base(request: pytest.FixtureRequest, tiny_llama: Any) -> Any:
    if request.param == "untied":
        return tiny_llama
    config = tiny_llama.config
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config).eval()
    return model


@pytest.fixture
def project(base: Any, byte_tokenizer: Any, tmp_path: Path) -> Path:
    return write_project(tmp_path, base, byte_tokenizer)
