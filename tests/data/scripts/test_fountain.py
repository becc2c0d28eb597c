"""Fountain: every element of the syntax, and what the reader does where files leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.data.scripts import Direction, Script, Speech, read_script
from dpg_fast.data.scripts.fountain import read_fountain, unstyled
from dpg_fast.data.scripts.names import merge_speakers
from dpg_fast.data.scripts.script import Part

SCREENPLAY = Path(__file__).parent / "every_element.fountain"


def read(text: str) -> Script:
    return merge_speakers(read_fountain(text.split("\n"), "test"))


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def directed(script: Script, kind: str) -> list[str]:
    return [e.text for scene in script.scenes for e in scene.elements if isinstance(e, Direction) and e.kind == kind]


@pytest.fixture(scope="module")
def script() -> Script:
    return read_script(SCREENPLAY)


def test_title_page_without_spaces_after_its_colons(tmp_path: Path) -> None:
    file = tmp_path / "a.fountain"
    file.write_text("Title: A Film\nimage:/x.jpg\nContact:me@x.org\n\nINT. HALL - DAY\n\nANNA\nHi.\n")
    script = read_script(file)
    assert script.title_page == {"Title": "A Film", "image": "/x.jpg", "Contact": "me@x.org"}
    file.write_text("ANNA:Hi.\nINT. HALL - DAY\n\nANNA\nHi.\n")
    assert read_script(file).title_page == {}


def test_title_page(script: Script) -> None:
    assert script.title_page == {
        "Title": "EVERY ELEMENT\nof the Fountain syntax",
        "Credit": "Written by",
        "Author": "the dpg_fast authors",
        "Source": "nothing at all",
        "Draft date": "1/2/2026",
        "Contact": "Nobody\nNowhere",
    }


def test_scenes_with_forced_headings_and_numbers(script: Script) -> None:
    assert [(scene.heading, scene.label) for scene in script.scenes] == [
        ("", None),
        ("INT. ZOË'S KITCHEN - DAY", "1A"),
        ("FLASHBACK OF A HALLWAY", None),
        ("EXT./INT. GARDEN / SHED - CONTINUOUS", None),
        ("I/E. ZOË'S CAR - NIGHT", "2-B."),
        ("EST. THE SEA - DAWN", None),
    ]
    assert [scene.number for scene in script.scenes] == [1, 2, 3, 4, 5, 6]


def test_everything_that_is_said_and_nothing_else(script: Script) -> None:
    assert said(script) == [
        ("ZOË", "Dear me. He writes *asterisks* now. He never used to."),
        ("ZOË", "I should have known __ then."),
        ("MCCLANE", "Yippee! I kept my lower-case C!"),
        ("MCCLANE'S MOTHER", "Sleep, my little one, sleep until the morning. And now get up!"),
        ("HANS", "This is two lines long. And goes on."),
        ("STEEL", "They're coming!"),
        ("HANS", "They're here!"),
        ("R2D2", "Beep (a long one) beep."),
        ("ZOË", "Hello? JOSÉ?"),
        ("JOSÉ MARÍA", "¿Qué pasa?"),
        ("ZOË", "Fine. Good-bye."),
    ]


def test_parentheticals_extensions_and_dual_dialogue(script: Script) -> None:
    speeches = list(script.speeches())
    assert speeches[0].parentheticals == ["to the kettle", "beat"]
    assert speeches[4].parentheticals == ["a parenthetical that goes over two lines"]
    assert [speech.extensions for speech in speeches[:5]] == [
        (),
        ("V.O.", "CONT'D"),
        (),
        ("O.S.",),
        ("on the radio",),
    ]
    assert [speech.dual for speech in speeches] == [False] * 5 + [True, True] + [False] * 4
    assert speeches[2].cue == "McCLANE"
    assert [part.kind for part in speeches[3].parts] == ["lyrics", "lyrics", "words"]


def test_lines_are_those_of_the_file(script: Script) -> None:
    lines = SCREENPLAY.read_text(encoding="utf-8").split("\n")
    for speech in script.speeches():
        assert speech.cue in lines[speech.line - 1]
        for part in speech.parts:
            assert part.text.split()[0].strip("*") in lines[part.line - 1]


def test_directions_by_kind(script: Script) -> None:
    assert directed(script, "section") == ["Act One", "Scene in a car"]
    assert directed(script, "synopsis") == ["Somebody called ZOË meets somebody called McCLANE."]
    assert directed(script, "transition") == ["CUT TO:", "FADE TO BLACK."]
    assert directed(script, "centred") == ["THE MIDDLE"]
    assert directed(script, "page break") == [""]
    assert directed(script, "lyrics") == ["A song that nobody in particular sings"]
    assert directed(script, "note") == ["Should she laugh here? **Ask.**", "A note over two lines.", "cut this?"]
    action = directed(script, "action")
    assert "A kettle. A very small table, and a letter. ZOË, 30, reads." in action
    assert "BANG\nThis is action although it looks like a name." in action
    assert "A line in the middle  of a paragraph." in action
    assert not any("CUT CHARACTER" in text or "must not appear" in text for text in action)


def test_an_exclamation_is_no_name_and_is_reported(script: Script) -> None:
    assert "BOOM!\nThe door falls." in directed(script, "action")
    assert [(p.line, "BOOM!" in p.what) for p in script.problems] == [(102, True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ANNA\nHi.\n\nBEN\nHo.", [("ANNA", "Hi."), ("BEN", "Ho.")]),
        ("\nANNA\n\nNot said: an empty line ends the cue.", []),
        ("x\nANNA\nNo empty line before the name.", []),
        ("\nANGLE ON\nThe door.", []),
        ("\nSMASH CUT TO:\nThe door.", []),
        ("\nTHE DOOR, WHICH IS VERY OLD INDEED\nopens.", []),
        ("\n@ANGLE ON\nForced.", [("ANGLE ON", "Forced.")]),
        ("\nDR. K.\nAn abbreviation may end with a dot.", [("DR. K", "An abbreviation may end with a dot.")]),
        ('\nCLERK "LE MARTINEZ"\nOui.', [('CLERK "LE MARTINEZ"', "Oui.")]),
        ('\n"MAX"\nQuoted.', [("MAX", "Quoted.")]),
        ("\n   ANNA\n   Indented.", [("ANNA", "Indented.")]),
        ("\nANNA (whispering\nThe bracket is open.", [("ANNA", "The bracket is open.")]),
        ("\nANNA\n(sighs) Fine.", [("ANNA", "Fine.")]),
        ("\nANNA\n*It goes on\nover two lines.*", [("ANNA", "It goes on over two lines.")]),
        ("INT. HOUSE\n\nANNA\nINT. is said here.", [("ANNA", "INT. is said here.")]),
    ],
)
def test_what_is_a_speech(text: str, expected: list[tuple[str, str]]) -> None:
    assert said(read(text)) == expected


def test_a_known_cue_needs_no_empty_line_and_is_reported() -> None:
    script = read("\nANNA\nOne.\n\nBEN\nTwo.\n\nANNA\nThree.\nBEN\nFour.\n\nBEN\nFive.")
    assert said(script) == [("ANNA", "One."), ("BEN", "Two."), ("ANNA", "Three."), ("BEN", "Four."), ("BEN", "Five.")]
    assert [problem.line for problem in script.problems] == [10]


def test_unclosed_marks_are_text_and_are_reported() -> None:
    script = read("\nANNA\nOne [[two\n\nBEN\nThree /* four")
    assert said(script) == [("ANNA", "One [[two"), ("BEN", "Three /* four")]
    assert [problem.line for problem in script.problems] == [3, 6]


def test_a_comment_on_lines_of_its_own_does_not_end_a_speech() -> None:
    assert said(read("\nANNA\nOne\n/* gone\n\n\ngone */\ntwo.")) == [("ANNA", "One two.")]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("*a* **b** ***c*** _d_", "a b c d"),
        ("_**a *b* c**_", "a b c"),
        (r"\*a\* \_b\_ \\", r"*a* _b_ \\"[:-1]),
        ("2 * 3 * 4 and snake_case_name", "2 * 3 * 4 and snake_case_name"),
        ("**", "**"),
    ],
)
def test_emphasis(text: str, plain: str) -> None:
    assert unstyled(text) == plain


SYNTAX = st.sampled_from(
    [
        "ANNA",
        "BEN (V.O.)",
        "@X",
        "(",
        ")",
        "(a)",
        "[[",
        "]]",
        "/*",
        "*/",
        "INT. A",
        ".A",
        "!",
        "~",
        ">",
        "<",
        "^",
        "#",
        "=",
        *["*", "_", "\\", "  ", "", "", "CUT TO:", "Title: x", "words", "ZOË", "23", "..."],
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(SYNTAX, st.text(max_size=12)), max_size=25))
def test_any_text_is_read_and_no_word_of_a_speech_is_invented(lines: list[str]) -> None:
    lines = [line for text in lines for line in text.replace("\0", "").split("\n")]
    script = merge_speakers(read_fountain(lines, "any"))
    for scene in script.scenes:
        for element in scene.elements:
            assert 1 <= element.line <= len(lines)
            if isinstance(element, Speech):
                for part in element.parts:
                    _is_of(part, lines)


def _is_of(part: Part, lines: list[str]) -> None:
    """The part's letters stand in the file where it says, up to marks, notes and comments."""
    source = "".join(lines[part.line - 1 : part.line + 3])
    assert set(part.text.split("\n")[0]) - {" "} <= set(source) | set("*_\\")


@pytest.mark.slow
def test_ten_megabytes_are_read_in_seconds() -> None:
    import time

    scene = (
        "INT. ROOM - DAY\n\nAnna. *Slowly.* [[note]] /* cut */\n\nANNA (CONT'D)\nWords _and_ words.\n(beat)\nMore.\n\n"
    )
    text = scene * (10_000_000 // len(scene))
    start = time.process_time()
    script = read_fountain(text.split("\n"), "long")
    assert len(script.scenes) == text.count("INT.")
    assert time.process_time() - start < 30  # it takes about 6 s; a quadratic reader would take hours


def test_hostile_files_take_linear_time() -> None:
    import time

    start = time.process_time()
    for mark in ("[[", "/*", "[[\n\n", "*", "_a", "(", "((", "(a", "A (", "\\", ">", "A\n", "[[]]"):
        read_fountain((mark * 20_000).split("\n"), "hostile")
    assert time.process_time() - start < 20


@pytest.mark.skipif("DPG_FAST_SCREENPLAY" not in os.environ, reason="DPG_FAST_SCREENPLAY names no real screenplay")
def test_a_real_screenplay() -> None:
    """Every block that the syntax calls dialogue is one here, or was reported. Written for a full-length screenplay."""
    path = Path(os.environ["DPG_FAST_SCREENPLAY"])
    script = read_script(path)
    assert len(script.scenes) > 50 and sum(1 for _ in script.speeches()) > 300
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    owned = {speech.line for speech in script.speeches()} | {problem.line for problem in script.problems}
    cues = [
        i + 1
        for i in range(1, len(lines) - 1)
        if not lines[i - 1].strip() and lines[i + 1].strip() and _strict_cue(lines[i].strip())
    ]
    lost = [i for i in cues if i not in owned]
    assert len(cues) > 300 and len(lost) <= len(cues) // 100, [lines[i - 1] for i in lost]


def _strict_cue(text: str) -> bool:
    name = text.split("(")[0]
    return name.isupper() and not text.startswith(("INT", "EXT", ".", "!", ">", "#", "=")) and not text.endswith("TO:")
