"""Pictures: they are drawn from the data given, without a display and without pyplot."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.neurons import SteeringTable
from dpg_fast.neurons.plots import DoseCurve, dose_response, draw_all
from dpg_fast.personality.scores import POLES

matplotlib = pytest.importorskip("matplotlib")


def test_dose_curves_show_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("dpg_fast.neurons.plots.save_figure", lambda figure, path: figures.append(figure))
    strengths = [0.0, 1.0, 2.0]
    curves = {
        pole: DoseCurve(strengths, [math.tanh(s) for s in strengths], [0, 0, 0], [1, 1, 1], [-1, -2, -3])
        for pole in POLES[:3]
    }
    dose_response(curves, tmp_path / "dose.png", effect="score")
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["openness", "conscientiousness", "", ""]
    assert [len(panel.lines) for panel in panels] == [2, 1, 2, 1]
    assert panels[0].get_ylabel() == "score"
    assert panels[1].lines[0].get_ydata().tolist() == pytest.approx([math.tanh(s) for s in strengths])
    monkeypatch.undo()
    dose_response({POLES[0]: DoseCurve(strengths, strengths)}, tmp_path / "dose.png")
    assert (tmp_path / "dose.png").read_bytes()[:4] == b"\x89PNG"


def test_curves_of_unequal_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one length"):
        DoseCurve([0, 1], [0])
    with pytest.raises(ValueError, match="two ends"):
        DoseCurve([0], [0], low=[0])
    with pytest.raises(ValueError, match="no dose curves"):
        dose_response({}, tmp_path / "dose.png")
    with pytest.raises(ValueError, match="no neurons"):
        draw_all(SteeringTable({}, 1, 1), tmp_path)


def test_matplotlib_is_loaded_only_for_drawing() -> None:
    code = "import sys, dpg_fast.neurons.plots, dpg_fast.cli.app; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
