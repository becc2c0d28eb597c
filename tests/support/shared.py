"""Data for tests that is no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import ROOT


def shared_data(name: str) -> Path:
    """A folder of it; the test is skipped where that is not here."""
    places = [os.environ.get("DPG_FAST_SHARED_DATA"), *(p / "shared" / "data" for p in (ROOT, ROOT.parent))]
    for place in filter(None, places):
        if (folder := Path(place) / name).is_dir():
            return folder
    pytest.skip(f"{name} is not here: put it into ../shared/data or set DPG_FAST_SHARED_DATA")
