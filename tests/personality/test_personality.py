"""Personality, traits, poles and Character: forms read and written, errors, arithmetic."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpg_fast.personality.traits
from dpg_fast.personality.scores import POLES, PRESETS, TRAITS, Character, Personality, Pole, Trait, parse_personality

scores = st.tuples(*[st.floats(-5, 5)] * 5)
personalities = scores.map(Personality.from_scores)


def test_importing_does_not_import_torch_or_pydantic() -> None:
    # A stand-in package, so that dpg_fast/__init__.py does not run.
    code = (
        "import sys, types;"
        "package = types.ModuleType('dpg_fast');"
        f"package.__path__ = [{str(Path(dpg_fast.__file__).parent)!r}];"
        "sys.modules['dpg_fast'] = package;"
        "import dpg_fast.personality.row;"
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


names = st.text(min_size=1).filter(str.strip)
weights = st.floats(-3, 3).filter(bool)
characters = st.one_of(names, st.dictionaries(names, weights, min_size=1, max_size=3))


@given(characters, st.one_of(st.none(), names), st.one_of(st.none(), personalities))
def test_a_character_and_a_stage_survive_every_form(
    character: str | dict[str, float], stage: str | None, scores: Personality | None
) -> None:
    if isinstance(character, dict) and len(character) > 1:
        stage = None
    p = Personality(character=character, stage=stage)
    if scores is not None:
        p = Personality(scores, character=character, stage=stage)
    assert p.character == Character(character) and p.stage == stage and p.has_scores == (scores is not None)
    assert p.scores == (scores or Personality()).scores
    for other in (
        Personality(str(p)),
        eval(repr(p)),
        Personality.from_json(p.to_json()),
        Personality.from_json(json.dumps(str(p))),
        Personality(p.to_dict()),
        pickle.loads(pickle.dumps(p)),
        copy.deepcopy(p),
        p.replace(),
    ):
        assert other == p and hash(other) == hash(p)


def test_a_character_in_a_personality() -> None:
    alone = Personality(character="marit_oss", stage="late")
    both = Personality(character="marit_oss", stage="late", extraversion=3)
    assert str(alone) == "@marit_oss/late" and str(both) == "@marit_oss/late E+3"
    assert repr(both) == 'Personality("@marit_oss/late E+3")'
    assert (
        both == Personality("@marit_oss/late E+3") == Personality({"E": 3, "character": "marit_oss", "stage": "late"})
    )
    assert alone.to_dict() == {"character": "marit_oss", "stage": "late"}
    assert alone != Personality("@marit_oss/late neutral") != Personality() != alone
    assert len({alone, both, Personality("@marit_oss/early"), Personality("@marit_oss"), Personality(E=3)}) == 5
    assert Personality('@0.5*"Marit Oss"+-1*b') == Personality(character={"Marit Oss": 0.5, "b": -1})
    assert (
        Personality("E+3", character="marit_oss", stage="late") == both == Personality("@marit_oss E+3", stage="late")
    )
    assert both.is_neutral is False and list(alone) == [0] * 5 and both.pole_scores == Personality(E=3).pole_scores
    assert both.replace(E=1) == Personality("@marit_oss/late E+1") and alone.replace(E=0).has_scores
    assert both.replace(character=None) == Personality(E=3) and both.replace(stage=None) == Personality(
        "@marit_oss E+3"
    )
    assert both.replace(character="b") == Personality("@b E+3")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Personality(stage="late"), "character"),
        (lambda: Personality(character={"a": 1, "b": 1}, stage="late"), "blends 2"),
        (lambda: Personality(character=" "), "empty"),
        (lambda: Personality(character="a", stage=""), "empty"),
        (lambda: Personality("@a E+3", character="b"), "twice"),
        (lambda: Personality("@a/early", stage="late"), "twice"),
        (lambda: Personality("@a/early E+9"), r"-5\.\.5"),
        (lambda: Personality("@"), "@name"),
        (lambda: Personality("@a/early+b"), "space"),
        (lambda: Personality("@a+a"), "twice"),
        (lambda: Personality("marit_oss"), "@name/stage"),
        (lambda: Personality("@a/early") + Personality("@a/late"), "early, late"),
        (lambda: Personality("@a/early").blend(Personality("@b/early"), 0.5), "blends 2"),
    ],
)
def test_what_cannot_be_a_character_in_a_personality(make: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


def test_characters_in_arithmetic() -> None:
    alone, profile = Personality("@a/late"), Personality("E+4 N-2")
    assert alone + profile == profile + alone == Personality("@a/late E+4 N-2")
    assert profile.blend(alone, 0.25) == Personality("@0.25*a/late E+3 N-1.5")
    assert profile.blend(alone, 1) == alone and alone.blend(profile, 1) == profile
    assert alone * 0.5 == Personality("@0.5*a/late") and -alone == Personality("@-1*a/late")
    assert (alone + profile) - alone == profile and alone * 0 == Personality()
    assert Personality.mean([alone] * 49) == alone
    assert Personality.mean([Personality("@a"), Personality("@b E+2")]) == Personality("@0.5*a+0.5*b E+1")


def test_pydantic_field_with_a_character() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Record(pydantic.BaseModel):  # type: ignore[name-defined]
        personality: Personality

    for p in (Personality("@a/late E+3"), Personality("@a"), Personality("@0.5*a+0.5*b E+1")):
        record = Record(personality=p)
        assert json.loads(record.model_dump_json())["personality"] == p.to_dict()
        assert Record.model_validate_json(record.model_dump_json()) == record
    with pytest.raises(pydantic.ValidationError):
        Record(personality={"character": "a", "stage": 3})
