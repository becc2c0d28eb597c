"""Requests' personalities: read as everywhere, written in one form, refused with reasons, and salted apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.model.disk.artifact import packaged
from dpg_fast.model.loading import locate
from dpg_fast.personality.description import Description
from dpg_fast.personality.scores import PRESETS, Character, Personality
from dpg_fast.serving.admission import MAX_TEXT, Abilities, canonical, read_request, salt

scores = st.lists(st.floats(-5, 5), min_size=5, max_size=5)
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
weights = st.floats(0.01, 3).map(lambda value: round(value, 3))
blends = st.dictionaries(names, weights, min_size=1, max_size=3).map(Character)
# whatever a client may send: the values of vllm_xargs, and what JSON holds besides
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(scores)
def test_five_numbers_and_their_text_are_one_request(values: list[float]) -> None:
    row = read_request(values)
    assert row is not None and row.scores is not None and list(row.scores.scores) == values
    assert read_request(canonical(row)) == row
    assert read_request(dict(zip("OCEAN", values, strict=True))) == row


@given(blends, st.none() | scores)
def test_characters_come_back_from_their_text(blend: Character, values: list[float] | None) -> None:
    wanted = Personality(character=blend) if values is None else Personality(values).replace(character=blend)
    row = read_request(wanted)
    assert row is not None and read_request(canonical(row)) == row


@given(anything)
def test_what_a_client_sends_is_read_or_refused(value: Any) -> None:
    try:
        row = read_request(value)
    except ValueError as error:
        assert str(error)
        return
    if row is not None:
        assert row.scores is None or all(math.isfinite(score) and -5 <= score <= 5 for score in row.scores.scores)
        assert read_request(canonical(row)) == row


def test_presets_and_the_base_model() -> None:
    assert read_request(None) is None
    for name in PRESETS:
        assert read_request(name) == read_request(PRESETS[name])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "empty personality string"),
        ("E+9", "extraversion = 9 is out of range"),
        ("E+4 E-2", "extraversion is given twice"),
        ("warm", "cannot read 'warm'"),
        ("E+1 " * MAX_TEXT, f"at most {MAX_TEXT} characters"),
        ({f"x{n}": 1 for n in range(17)}, "at most 16 fields"),
        ({"character": {f"name{n}": 1.5 for n in range(300)}}, f"at most {MAX_TEXT} characters"),
        ([1, 2, 3], "five numbers"),
        ([1, 2, 3, 4, math.nan], "finite"),
        (4, "five numbers"),
        (True, "five numbers"),
        (["E", 1, 2, 3, 4], "five numbers"),
        ("@marit/late", "stages of a character's life are not served"),
        (Description("a warm person"), "descriptions in words are not served"),
    ],
)
def test_refusals_say_why(value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read_request(value)


@given(scores, scores)
def test_salts_differ_as_personalities_do(first: list[float], second: list[float]) -> None:
    one, other = read_request(first), read_request(second)
    assert one is not None and other is not None
    assert (salt(one, "a") == salt(other, "a")) == (one == other)


def test_salts_differ_by_adapter_prompt_and_user() -> None:
    row = read_request("E+4")
    assert row is not None
    found = [
        salt(row, "a"),
        salt(row, "b"),
        salt(row, "a", prompt=3),
        salt(row, "a", prompt=4),
        salt(row, "a", user="u"),
    ]
    assert len(set(found)) == len(found)
    assert salt(row, "a", prompt=3, user="u") == salt(row, "a", prompt=3, user="u")


def test_the_packages_adapters_say_what_they_can() -> None:
    both, neurons = Abilities(locate("both")), Abilities([packaged("smollm2")])
    row, blend = read_request("E+4"), read_request("@marit")
    assert row is not None and blend is not None
    both.require(row)
    neurons.require(row)
    with pytest.raises(ValueError, match="names a stored adapter, and this model has none"):
        both.require(blend)
    assert len({both.fingerprint, neurons.fingerprint, Abilities(locate("smollm2-hypernet")).fingerprint}) == 3
    assert Abilities(locate("both")).fingerprint == both.fingerprint


def test_another_calibration_is_another_fingerprint(tmp_path: Path) -> None:
    for file in packaged("smollm2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = Abilities([tmp_path]).fingerprint
    assert before == Abilities([packaged("smollm2")]).fingerprint
    calibration = tmp_path / "calibration.json"
    calibration.write_text(calibration.read_text().replace("0.5", "0.6"))
    assert Abilities([tmp_path]).fingerprint != before
