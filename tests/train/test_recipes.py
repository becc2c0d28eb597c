"""Recipes load."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dpg_fast.train import load_settings
from tests.support import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_load(file: Path) -> None:
    if "hypernet" in yaml.safe_load(file.read_text(encoding="utf-8")):
        load_settings(file)
