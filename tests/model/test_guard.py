"""The warning before extreme settings: from the calibration's figures, once, and with a way to switch it off."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest

from dpg_fast import Calibration, ExtremeSettingWarning, Personality
from dpg_fast.model.calibration import PoleCurve
from dpg_fast.model.disk.artifact import packaged
from dpg_fast.model.guard import SWITCH
from dpg_fast.personality.scores import POLES
from tests.model.test_wrapper import personality_model
from tests.model.tiny import prompts, tiny_model

IDS = prompts(1, 4)
KNOTS = ((0.0, 0.0), (5.0, 1.0))


def measured(at_one: float) -> Calibration:
    """Perplexity 2 of the bare model, and at strength 1 `at_one` times as much, for every pole."""
    points = [{"strength": 0.0, "perplexity": 2.0}, {"strength": 1.0, "perplexity": 2.0 * at_one}]
    return Calibration(curves={pole: PoleCurve(KNOTS, {"points": points}) for pole in POLES})


def warned(calibration: Calibration, *people: str) -> list[str]:
    model = personality_model(tiny_model("llama"), lora=False)
    model.calibration = calibration
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for person in people:
            model(IDS, personality=person)
    return [str(one.message) for one in found if issubclass(one.category, ExtremeSettingWarning)]


def test_poles_measured_one_at_a_time_are_multiplied() -> None:
    calibration = measured(2.0)
    assert calibration.perplexity_ratio(Personality("E+5")) == pytest.approx(2.0)
    assert calibration.perplexity_ratio(Personality("E+5 N-5 O+5")) == pytest.approx(8.0)
    assert calibration.perplexity_ratio(Personality("E-2.5")) == pytest.approx(math.sqrt(2))
    assert calibration.perplexity_ratio(Personality()) == 1.0
    assert Calibration().perplexity_ratio(Personality("E+5")) is None


def test_the_shipped_neurons_come_near_what_was_measured() -> None:
    """Bare 3.1; measured were 10.6 with extraversion and neuroticism at 5, and 90 with all traits at 5."""
    calibration = Calibration.load(packaged("smollm2") / "calibration.json")
    for person, perplexity in (("E+5 N+5", 10.6), ("O+5 C-5 E+5 A-5 N+5", 90)):
        ratio = calibration.perplexity_ratio(Personality(person))
        assert ratio is not None and 1 / 1.7 < 3.1 * ratio / perplexity < 1.7
    single = [calibration.perplexity_ratio(Personality(f"{pole}5")) for pole in POLES]
    assert all(ratio is not None and ratio <= calibration.allowed_ratio for ratio in single)


def test_one_warning_and_its_figures() -> None:
    (message,) = warned(measured(2.0), "E+5", "E+5 N+5", "E+5 N-5 O+5", "E+5 N+5")
    assert "E+5 N+5 are expected to multiply the perplexity of answers by 4.0" in message and "allowed 2.5" in message
    assert SWITCH in message and "refused" in message


def test_what_the_calibration_allowed_is_not_warned_of() -> None:
    assert not warned(measured(1.1), "O+5 C-5 E+5 A-5 N+5", "E-5")


def test_without_figures_several_traits_are_warned_of() -> None:
    assert not warned(Calibration(), "E+5", "E+5 N-5")
    (message,) = warned(Calibration(), "E+5 N-5 O+1")
    assert "no figures" in message


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert not warned(measured(2.0), "E+5 N+5")


@pytest.mark.parametrize(
    "fitted", [{"points": 3}, {"points": [3]}, {"points": [{"strength": "x"}]}, {"points": [], "guard": 1}]
)
def test_figures_that_are_none_count_as_none(fitted: dict[str, object], tmp_path: Path) -> None:
    Calibration(curves={POLES[0]: PoleCurve(KNOTS, fitted)}).save(tmp_path / "c.json")
    found = Calibration.load(tmp_path / "c.json")
    assert found.perplexity_ratio(Personality("O+5")) is None and found.allowed_ratio == 2.5
