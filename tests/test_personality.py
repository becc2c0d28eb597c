"""Personality, traits, poles and Character: forms read and written, errors, arithmetic."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpg_fast.traits
from dpg_fast.personality import (
    POLES,
    PRESETS,
    TRAITS,
    Character,
    Personality,
    Pole,
    Trait,
    parse_personality,
)

scores = st.tuples(*[st.floats(-5, 5)] * 5)
personalities = scores.map(Personality.from_scores)


def test_importing_does_not_import_torch_or_pydantic() -> None:
    # A stand-in package, so that dpg_fast/__init__.py does not run.
    code = (
        "import sys, types;"
        "package = types.ModuleType('dpg_fast');"
        f"package.__path__ = [{str(Path(dpg_fast.traits.__file__).parent)!r}];"
        "sys.modules['dpg_fast'] = package;"
        "import dpg_fast.personality;"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_traits_and_poles() -> None:
    assert tuple(trait.value for trait in Trait) == TRAITS
    assert [trait.letter for trait in Trait] == list("OCEAN")
    assert [trait.position for trait in Trait] == [0, 1, 2, 3, 4]
    assert Trait.parse("e") is Trait.parse("Extraversion") is Trait.EXTRAVERSION
    assert " ".join(map(str, POLES)) == "O+ O- C+ C- E+ E- A+ A- N+ N-"
    assert [pole.index for pole in POLES] == list(range(10))
    for pole in POLES:
        assert Pole.parse(str(pole)) == pole
        assert pole.opposite != pole and pole.opposite.opposite == pole
        assert pole.opposite.trait is pole.trait
    with pytest.raises(ValueError, match="O, C, E, A, N"):
        Trait.parse("X")
    with pytest.raises(TypeError):
        Trait.parse(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sign"):
        Pole.parse("E")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("E+4 N-2", (0, 0, 4, 0, -2)),
        ("E+4,N-2", (0, 0, 4, 0, -2)),
        (" e=+4 ;n : -2 ", (0, 0, 4, 0, -2)),
        ("O3C-1E0A5N-5", (3, -1, 0, 5, -5)),
        ("extraversion +4", (0, 0, 4, 0, 0)),
        ("Extraversion=2.5", (0, 0, 2.5, 0, 0)),
        ("E - 4", (0, 0, -4, 0, 0)),
        ("E\u22124", (0, 0, -4, 0, 0)),
        ("E.5", (0, 0, 0.5, 0, 0)),
        ("O1e5", (1, 0, 5, 0, 0)),
        ("neutral", (0, 0, 0, 0, 0)),
        ({"N": -2, "Extraversion": 4}, (0, 0, 4, 0, -2)),
        ([1, 2, 3, 4, 5], (1, 2, 3, 4, 5)),
        (Personality(A=1), (0, 0, 0, 1, 0)),
    ],
)
def test_forms(value: object, expected: tuple[float, ...]) -> None:
    assert Personality(value).scores == expected


def test_keywords() -> None:
    assert Personality(extraversion=4, N=-2) == Personality(e=4, NEUROTICISM=-2) == Personality("E+4 N-2")
    assert Personality() == Personality.NEUTRAL
    with pytest.raises(TypeError, match="replace"):
        Personality("E+4", N=1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("E+7", ["extraversion", "7", "-5..5"]),
        ("X+3", ["'X'", "O, C, E, A, N"]),
        ("E+1 E+2", ["extraversion", "twice"]),
        ("E+1 extraversion=1", ["extraversion", "twice"]),
        ("", ["None", "neutral"]),
        ("  ", ["None", "neutral"]),
        ("E+4 N", ["'N'", "no score"]),
        ("E++4", ["no score"]),
        ("E1,,N2", ["',N2'"]),
        ("E4 !", ["'!'"]),
        ("bold", ["'bold'", "leader"]),
        ("E+" + "9" * 400, ["extraversion", "finite"]),
        ({"E": math.nan}, ["extraversion", "finite"]),
        ({"E": math.inf}, ["extraversion", "finite"]),
        ({"E": 1, "extraversion": 1}, ["twice"]),
        ([1, 2, 3], ["five", "3"]),
    ],
)
def test_value_errors(value: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Personality(value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, True, {"E": "4"}, {"E": True}, {3: 4}, ["1"] * 5, b"E+4"])
def test_type_errors(value: object) -> None:
    with pytest.raises(TypeError):
        Personality(value)


@given(personalities)
def test_str_round_trip(p: Personality) -> None:
    assert Personality.parse(str(p)) == p
    assert eval(repr(p)) == p


@given(personalities)
def test_json_round_trip(p: Personality) -> None:
    assert Personality.from_json(p.to_json()) == p
    assert Personality.from_json(json.dumps(list(p))) == p
    assert Personality.from_json(json.dumps(str(p))) == p
    assert Personality.from_dict(p.to_dict()) == p
    assert list(p.to_dict()) == list(TRAITS)


@given(personalities)
def test_copies(p: Personality) -> None:
    for other in (pickle.loads(pickle.dumps(p)), copy.copy(p), copy.deepcopy(p), Personality(p)):
        assert other == p and hash(other) == hash(p)


@given(personalities, personalities, st.floats(0, 1))
def test_blend_and_mean(p: Personality, q: Personality, t: float) -> None:
    assert p.blend(q, 0) == p and p.blend(q, 1) == q
    for x, y, z in zip(p, q, p.blend(q, t), strict=True):
        assert min(x, y) <= z <= max(x, y)
        assert z == pytest.approx(x + (y - x) * t, abs=1e-12)
    assert Personality.mean([p]) == p
    for x, y, z in zip(p, q, Personality.mean([p, q]), strict=True):
        assert z == pytest.approx((x + y) / 2, abs=1e-15)
    assert p.distance(q) == q.distance(p) == pytest.approx(math.dist(p.scores, q.scores))


@given(personalities)
def test_poles_of_a_personality(p: Personality) -> None:
    for pole, strength in zip(POLES, p.pole_scores, strict=True):
        assert strength == max(0.0, p[pole.trait] if pole.high else -p[pole.trait])
        assert math.copysign(1, strength) == 1


def test_arithmetic() -> None:
    p, q = Personality("E+4 N-2"), Personality("E+1 O+2")
    assert p + q == Personality("O+2 E+5 N-2")
    assert p - q == Personality("O-2 E+3 N-2")
    assert p * 0.5 == 0.5 * p == Personality("E+2 N-1")
    assert -p == Personality("E-4 N+2")
    assert p + Personality.NEUTRAL == p
    for make in (lambda: p + p, lambda: p - -p, lambda: p * 2):
        with pytest.raises(ValueError, match=r"extraversion = 8 .*-5\.\.5.*clipped"):
            make()
    with pytest.raises(ValueError, match="finite"):
        p * math.nan
    for make in (lambda: p + 1, lambda: p * q, lambda: p * True):
        with pytest.raises(TypeError):
            make()
    assert Personality.clipped([9, -9, 1, 0, 5.5]) == Personality("O5C-5E1N5")
    with pytest.raises(ValueError, match="finite"):
        Personality.clipped([math.inf, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"0\.\.1"):
        p.blend(q, 1.5)
    with pytest.raises(ValueError, match="no personalities"):
        Personality.mean([])


def test_value_semantics() -> None:
    zero = Personality.from_scores([-0.0] * 5)
    assert zero == Personality() and str(zero) == "neutral" and hash(zero) == hash(Personality())
    assert math.copysign(1, zero["O"]) == 1 and math.copysign(1, (-Personality())["O"]) == 1
    assert str(Personality(N=1, O=-2.5)) == "O-2.5 N+1"
    assert str(Personality(E=1e-7)) == "E+0.0000001"
    p = Personality(E=4)
    assert p != "E+4" and p != (0, 0, 4, 0, 0)
    assert p["E"] == p["extraversion"] == p[Trait.EXTRAVERSION] == p[2] == p.extraversion == 4
    assert list(p) == [0, 0, 4, 0, 0] and len(p) == 5
    assert p.replace(E=0, o=1) == Personality(O=1) and p == Personality(E=4)
    assert not p.is_neutral and p.replace(E=0).is_neutral
    with pytest.raises(AttributeError, match="replace"):
        p.openness = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        p._scores = (0.0,) * 5
    with pytest.raises(ValueError, match="twice"):
        p.replace(E=1, extraversion=2)


def test_presets_and_command_line() -> None:
    for name, preset in PRESETS.items():
        assert Personality.preset(name.upper()) == Personality(name) == preset
    assert len(set(PRESETS.values())) == len(PRESETS)
    with pytest.raises(ValueError, match="leader"):
        Personality.preset("nobody")
    assert parse_personality(None) is parse_personality("none") is parse_personality(" Base ") is None
    assert parse_personality("E+4") == Personality(E=4)
    assert parse_personality("neutral") == Personality.NEUTRAL
    with pytest.raises(ValueError, match="None"):
        parse_personality("")


def test_pydantic_field() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Record(pydantic.BaseModel):  # type: ignore[name-defined]
        personality: Personality | None

    p = Personality("E+4 N-2")
    for form in ("E+4 N-2", {"E": 4, "N": -2}, [0, 0, 4, 0, -2], p):
        assert Record(personality=form).personality == p
    record = Record(personality=p)
    assert json.loads(record.model_dump_json())["personality"] == p.to_dict()
    assert record.model_dump() == {"personality": p}
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert Record.model_validate_json('{"personality": null}').personality is None
    for bad in ("E+7", 3, {"E": "x"}, [1, 2]):
        with pytest.raises(pydantic.ValidationError):
            Record(personality=bad)
    for mode in ("validation", "serialization"):
        assert "personality" in Record.model_json_schema(mode=mode)["properties"]


def test_character() -> None:
    one = Character("hermione")
    blend = Character({"ron": 0.25, "hermione": 0.75, "draco": 0})
    assert str(one) == "hermione" and one.names == ("hermione",) and one.weights == (("hermione", 1.0),)
    assert one == Character({"hermione": 1}) and hash(one) == hash(Character({"hermione": 1.0}))
    assert blend == Character({"hermione": 0.75, "ron": 0.25})
    assert str(blend) == "0.75*hermione + 0.25*ron" and eval(repr(blend)) == blend
    for item in (one, blend):
        assert pickle.loads(pickle.dumps(item)) == copy.deepcopy(item) == Character(item) == item
    with pytest.raises(AttributeError):
        one._weights = ()
    for bad in ("", " ", {}, {"a": 0.0}, {"a": math.nan}, {"": 1}):
        with pytest.raises(ValueError):
            Character(bad)
    for wrong in (None, 3, {3: 1}, {"a": "1"}, {"a": True}):
        with pytest.raises(TypeError):
            Character(wrong)  # type: ignore[arg-type]
