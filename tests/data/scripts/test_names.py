"""Speakers: names out of cues, and which names are one person."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.data.scripts import read_script
from dpg_fast.data.scripts.names import is_group, load_aliases, members, merge_speakers, plain_name, split_cue
from dpg_fast.data.scripts.script import Part, Scene, Script, Speech


def script_of(*scenes: str) -> Script:
    """Scenes as names in order, separated by commas."""
    made = []
    for number, names in enumerate(scenes, 1):
        speeches = [Speech(name, (), [Part("words", "Yes.", 1)], 1, plain_name(name)) for name in names.split(", ")]
        made.append(Scene(number, "", 1, elements=list(speeches)))
    return Script("test", "test", made)


def merged(*scenes: str, aliases: dict[str, list[str]] | None = None) -> list[str]:
    return list(dict.fromkeys(speech.speaker for speech in merge_speakers(script_of(*scenes), aliases).speeches()))


@pytest.mark.parametrize(
    ("cue", "name", "extensions"),
    [
        ("EDWARD (V.O.)(CONT'D)", "EDWARD", ("V.O.", "CONT'D")),
        ("  MRS. K  (O.S., PRELAP) ", "MRS. K", ("O.S., PRELAP",)),
        ("ANNA (V.O", "ANNA", ("V.O",)),
        ("(nobody)", "(nobody)", ()),
        ("ROSA V.O.", "ROSA", ("V.O.",)),
        ("KARL O.S", "KARL", ("O.S",)),
        ("MRS. LIND VO", "MRS. LIND", ("VO",)),
        ("OLD MAN O.C. (CONT'D)", "OLD MAN", ("O.C.", "CONT'D")),
        ("ROSA (V.O.) CONT'D", "ROSA", ("V.O.", "CONT'D")),
        ("ROSA, V/O", "ROSA", ("V/O",)),
        ("V.O.", "V.O.", ()),
        ("PROVO", "PROVO", ()),
        ("CARLOS", "CARLOS", ()),
    ],
)
def test_split_cue(cue: str, name: str, extensions: tuple[str, ...]) -> None:
    assert split_cue(cue) == (name, extensions)


def test_spelling_alone_does_not_tell_people_apart() -> None:
    assert merged("HARRY, Harry, HARRY:, harry.", "HARRY") == ["HARRY"]
    assert merged("ZOE\u0308, ZO\u00cb", "O\u2019NEILL, O'NEILL") == ["ZOË", "O'NEILL"]


def test_a_first_name_and_its_only_full_name_are_one_person() -> None:
    script = merge_speakers(script_of("HARRY, RON", "Harry Potter, RON"))
    assert {speech.speaker for speech in script.speeches()} == {"HARRY POTTER", "RON"}
    assert script.merged == {"HARRY": "HARRY POTTER"}


def test_the_most_frequent_form_is_the_name() -> None:
    script = merge_speakers(script_of("UNKAR, RON, UNKAR", "UNKAR PLUTT"))
    assert {speech.speaker for speech in script.speeches()} == {"UNKAR", "RON"}
    assert script.merged == {"UNKAR PLUTT": "UNKAR"}


MANY = ", ".join(["JERRY"] * 9)


@pytest.mark.parametrize("rest", ["JERRY DOROTHY", "JERRY JERRY", "JERRY CARTOONS PRESENT"])
def test_a_rare_longer_form_of_a_frequent_name_is_left_apart_and_named(rest: str) -> None:
    script = merge_speakers(script_of(MANY, rest))
    assert {speech.speaker for speech in script.speeches()} == {"JERRY", rest}
    assert rest == "JERRY JERRY" or script.unmerged == [("JERRY", rest)]


def test_a_surname_that_somebody_else_has_is_one() -> None:
    assert merged(MANY, "JERRY LIND", "MRS. LIND") == ["JERRY", "MRS. LIND"]


@pytest.mark.parametrize(
    "joined",
    ["ROSA ET KARL", "Rosa und Karl", "ROSA Y KARL", "ROSA E KARL", "ROSA OCH KARL", "РОЗА И КАРЛ", "ROSA、KARL"],
)
def test_groups_in_other_languages(joined: str) -> None:
    assert is_group(joined) and len(members(joined)) == 2
    first = joined.split()[0].split("、")[0]
    assert plain_name(first) in merged(f"{first}, X", joined, f"{first}, X")


@pytest.mark.parametrize("name", ["TOUS", "TOUS LES DEUX", "ALLE", "TODOS", "TUTTI"])
def test_everybody_in_other_languages(name: str) -> None:
    assert is_group(name)


@pytest.mark.parametrize(
    "scenes",
    [
        ("HARRY, HARRY POTTER",),  # they speak to each other
        ("HARRY", "HARRY POTTER", "HARRY LIME"),  # which one?
        ("WILL", "WILL'S DATE"),
        ("JACK", "JACK JR."),
        ("HENRY", "HENRY VIII"),
        ("COP", "COP 2"),
        ("SOLDIER", "SOLDIER TWO"),
        ("MAN", "MAN IN HAT"),
        ("DOCTOR", "DOCTOR BENNETT"),
        ("ANNA", "ANNA AND BEN"),
        ("EDWARD", "YOUNG EDWARD"),
        ("POTTER", "HARRY POTTER"),  # might be the father
        ("MOTHER", "MOTHER SUPERIOR"),
        ("MRS. SMITH", "MR. SMITH", "SMITH"),
    ],
)
def test_different_people_stay_apart(scenes: tuple[str, ...]) -> None:
    names = {plain_name(name) for scene in scenes for name in scene.split(", ")}
    assert set(merged(*scenes)) == names


def test_what_might_be_one_person_is_named() -> None:
    assert merge_speakers(script_of("HARRY, HARRY POTTER")).unmerged == [("HARRY", "HARRY POTTER")]


def test_an_alias_file_decides(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text('{"Harry Potter": ["HARRY", "THE BOY"], "MARY": []}', encoding="utf-8")
    aliases = load_aliases(file)
    assert merged("HARRY, THE BOY, HARRY POTTER", aliases=aliases) == ["Harry Potter"]
    assert merged("MARY", "MARY POPPINS", aliases=aliases) == ["MARY", "MARY POPPINS"]
    assert merged("MARY", "MARY POPPINS") == ["MARY POPPINS"]


@pytest.mark.parametrize("text", ["[]", '{"A": "B"}', '{"A": [1]}', "{", '{"": []}'])
def test_bad_alias_files_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"aliases\.json"):
        load_aliases(file)


def test_one_name_for_two_people_is_refused() -> None:
    with pytest.raises(ValueError, match="both"):
        merge_speakers(script_of("A"), {"ANNA": ["A"], "ADA": ["a"]})


@pytest.mark.parametrize(
    "name", ["ALL", "EDWARD AND WILL", "Anna & Ben", "KIDS", "THE CROWD", "SOME OF THE OTHERS", "A/B"]
)
def test_groups(name: str) -> None:
    assert is_group(name)


@pytest.mark.parametrize("name", ["ANNA", "MRS. SANDERS", "SANDY", "ANDY", "O'NEILL", "BOTHA"])
def test_people_are_no_groups(name: str) -> None:
    assert not is_group(name)


def test_files_with_joined_names_and_bare_extensions() -> None:
    cases = Path(__file__).parent / "plays"
    for name in ("08_group_et.txt", "08_group_y.txt"):
        speakers = [speech.speaker for speech in read_script(cases / name).speeches()]
        assert speakers.count("ROSA") == speakers.count("KARL") == 2 and len(speakers) == 5
    script = read_script(cases / "09_bare_vo.fountain")
    assert [speech.speaker for speech in script.speeches()] == ["ROSA", "KARL", "ROSA", "ROSA", "KARL", "KARL"]
    assert [speech.extensions for speech in script.speeches()] == [(), (), ("V.O.",), (), ("O.S.",), ()]
