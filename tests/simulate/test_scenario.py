"""Scenario files: what is accepted, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.personality.scores import Personality
from dpg_fast.simulate.scenario import Scenario, load_scenario, load_scenarios
from tests.simulate.cast import scenario
from tests.support import ROOT

SHIPPED = ROOT / "recipes" / "scenarios"


def test_shipped_scenarios_are_read() -> None:
    found = {s.name: s for s in load_scenarios([SHIPPED])}
    assert {"conflict_big_five", "cooperation_big_five", "conflict_marit_anselm", "cooperation_marit_anselm"} <= set(
        found
    )
    assert found["conflict_big_five"].speakers[0].personality == Personality("A-5 N-4 E+3")
    assert found["cooperation_big_five"].order == "addressed"
    assert all(s.terms for s in found.values())


def test_the_file_gives_the_name_where_it_says_none(tmp_path: Path) -> None:
    file = tmp_path / "tea.yaml"
    file.write_text("speakers: [{name: A}, {name: B}]\n")
    assert load_scenario(file).name == "tea"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speakers": [{"name": "A"}]}, "speakers"),
        ({"speakers": [{"name": "A"}, {"name": "a"}]}, "same name"),
        ({"speakers": [{"name": "A"}, {"name": "B:"}]}, "speakers.1.name"),
        ({"speakers": [{"name": "A"}, {"name": "B", "personality": "E+9"}]}, "out of range"),
        ({"speakers": [{"name": "A"}, {"name": "B", "stage": "late"}]}, "stage but no character"),
        ({"speakers": [{"name": "A"}, {"name": "B", "personality": "E+1", "endpoint": {"model": "m"}}]}, "endpoint"),
        ({"opening": [{"speaker": "C", "text": "Hello."}]}, "none of Ada Brook, Bo"),
        ({"opening": [{"speaker": "Bo", "text": "x"}] * 6}, "nothing is left"),
        ({"turns": 0}, "turns"),
        ({"order": "loudest"}, "order"),
        ({"context_tokens": 64, "generation": {"max_new_tokens": 64}}, "must exceed"),
        ({"wind": "east"}, "wind"),
        ({"generation": {"temperature": -1}}, "generation.temperature"),
    ],
)
def test_bad_scenarios_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:

    content = scenario().model_dump(exclude_defaults=True) | change
    file = tmp_path / "bad.yaml"
    file.write_text(json.dumps(content))  # which is YAML, without aliases
    with pytest.raises(ValueError, match=r"bad\.yaml: .*" + message):
        load_scenario(file)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "name: [", "just words", "\x00"])
def test_what_is_no_scenario(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_scenario(file)


def test_no_file_and_repeated_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_scenario(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="no scenario file"):
        load_scenarios([tmp_path])
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("name: same\nspeakers: [{name: A}, {name: B}]\n")
    with pytest.raises(ValueError, match="two scenarios are named same"):
        load_scenarios([tmp_path])


def test_names_find_places() -> None:
    talk = scenario()
    assert talk.place("ada brook") == 0 and isinstance(talk, Scenario)
