"""The wording of the prompts, from ``assets/personified.toml``: PersLLM's tasks (arXiv 2407.12393), every word ours."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

_TEXTS: dict[str, Any] = tomllib.loads(
    resources.files("dpg_fast").joinpath("assets", "personified.toml").read_text(encoding="utf-8")
)
ABOUT: tuple[str, ...] = tuple(_TEXTS["about"])
ATTITUDES: tuple[str, ...] = tuple(_TEXTS["attitudes"])
INSTRUCTIONS: tuple[str, ...] = tuple(_TEXTS["instructions"])
EXAMPLES = tuple((row["question"], row["analysis"], row["response"]) for row in _TEXTS["examples"])


def text(name: str) -> str:
    """A text with fields to fill in."""
    found: str = _TEXTS[name]
    return found
