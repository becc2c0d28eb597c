"""Plays and transcripts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.data.scripts import Script, Speech
from dpg_fast.data.scripts.plays import read_play


def read(text: str) -> Script:
    return read_play(text.split("\n"), "test")


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna: Hi.\nBen: Ho.", [("ANNA", "Hi."), ("BEN", "Ho.")]),
        ("ANNA: One\ntwo.\n\nNobody says this.\nBEN: Three.", [("ANNA", "One two."), ("BEN", "Three.")]),
        ("Anna (laughing): Hi.", [("ANNA", "Hi.")]),
        ("ANNA [To Ben]: [smiles] Hi. (Sits.) Well?", [("ANNA", "Hi. Well?")]),
        ("**Anna:** Hi.", [("ANNA", "Hi.")]),
        ("Man of the House: No.\nGuard 2: Yes.", [("MAN OF THE HOUSE", "No."), ("GUARD 2", "Yes.")]),
        ("Note: this is no speech\nSETTING: A room.\nAnna: Hi.", [("ANNA", "Hi.")]),
        ("Anna: see http://example.org/x: it is there", [("ANNA", "see http://example.org/x: it is there")]),
        ("http://example.org is no name", []),
        ("ANNA: [She goes out\nvery slowly.] Bye.", [("ANNA", "Bye.")]),
        ("ANNA.\n\nAct now!\n\nBEN.\n\nSecond act; so what? [_He goes._\n\nANNA.\n\nOh.", "acts"),
        ("ANNA: One.\n[She sits.]\nTwo.", [("ANNA", "One. Two.")]),
        ("ANNA. Hi.\nBEN. Ho.\nMRS. HALL. Hm.", [("ANNA", "Hi."), ("BEN", "Ho."), ("MRS. HALL", "Hm.")]),
        ("ANNA.\n\nHi.\n\nBEN.\n\nHo.\n\nAnd more.\n\nANNA.\n\n[Rising.] So.", "alone"),
        ("ALGERNON. [Sarcastically.] I believe so.\n\nLANE. Yes, sir.\n\nLANE. No. Sir.", "dots"),
        ("李: 你好。\nÉLODIE: Ça va?", [("李", "你好。"), ("ÉLODIE", "Ça va?")]),
    ],
)
def test_what_is_a_speech(text: str, expected: list[tuple[str, str]] | str) -> None:
    if expected == "alone":
        expected = [("ANNA", "Hi."), ("BEN", "Ho. And more."), ("ANNA", "So.")]
    if expected == "acts":
        expected = [("ANNA", "Act now!"), ("BEN", "Second act; so what?"), ("ANNA", "Oh.")]
    if expected == "dots":
        expected = [("ALGERNON", "I believe so."), ("LANE", "Yes, sir."), ("LANE", "No. Sir.")]
    assert said(read(text)) == expected


def test_parentheticals_are_kept_apart() -> None:
    (speech,) = read("ANNA [To Ben]: [smiles] Hi. (Sits\nslowly.) Well?").speeches()
    assert speech.parentheticals == ["To Ben", "smiles", "Sits slowly."]


def test_scenes() -> None:
    script = read(
        "ACT I, SCENE 1\n\nAnna: Hi.\n\n[Scene: A café.]\n\nBen: Ho.\n\n* * *\n\nAnna: So.\n\nTHE SECOND ACT\n\nBen: Ah."
    )
    assert [(scene.heading, len(scene.speeches)) for scene in script.scenes] == [
        ("ACT I, SCENE 1", 1),
        ("A café.", 1),
        ("", 1),
        ("THE SECOND ACT", 1),
    ]


def test_an_old_print_that_leaves_closing_brackets_out() -> None:
    script = read(
        "ANNA.\n\nGo!\n\n[_He goes out. MRS.\nHALL. comes in._\n\nBEN.\n\nWell.\n\nANNA.\n\nYes.\n\nBEN.\n\nNo."
    )
    assert said(script) == [("ANNA", "Go!"), ("BEN", "Well."), ("ANNA", "Yes."), ("BEN", "No.")]


def test_the_words_of_project_gutenberg_are_nobodys() -> None:
    text = (
        "T: X\n*** START OF THIS PROJECT GUTENBERG X ***\nANNA: Hi.\n*** END OF THE PROJECT GUTENBERG X ***\nNobody: No"
    )
    assert said(read(text)) == [("ANNA", "Hi.")]


def test_what_nobody_says_is_counted() -> None:
    script = read("Some prose.\nMore of it.\n\nANNA: Hi.\n\nBEN: [nods]")
    assert [problem.what for problem in script.problems] == [
        "2 lines of text have no name before them: taken as directions",
        "BEN says nothing",
    ]


PIECES = st.sampled_from(
    [
        "Anna: ",
        "ANNA. ",
        "ANNA.",
        "[",
        "]",
        "(",
        ")",
        "ACT I",
        "* * *",
        "Scene:",
        "words ",
        "\n",
        "\n\n",
        ":",
        "_",
        "[Scene: a]",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=10)), max_size=40).map("".join))
def test_any_text_is_read(text: str) -> None:
    lines = text.split("\n")
    for scene in read_play(lines, "any").scenes:
        for element in scene.elements:
            assert 1 <= element.line <= len(lines)
            if isinstance(element, Speech):
                assert element.speaker and all(set(part.text) <= set(text) | {" "} for part in element.parts)


def test_hostile_files_take_linear_time() -> None:
    import time

    start = time.process_time()
    for mark in ("A ", "A. ", "A: ", "(", "((", "[a", "ANNA: (", "A(a)", "A\n", "_", "A-", "[\n", "ANNA: [\n"):
        read_play((mark * 10_000).split("\n"), "hostile")
    assert time.process_time() - start < 20


ITALIC = """ACT I

_A room. Halla sits, and
Kari stands._

_The Boy (throws his
dart)._

Ho! (_Laughs._) I nearly hit
her.

And once more.

_Halla._

Whom?

_Jon comes in._

Who is there?

_Bjørn's voice_ (_full of malice,
very near_). Make haste!

_Mrs. Hall._ Oh, no.

_Curtain._




ANOTHER PLAY

1912

_Halla._

Again."""


def test_names_in_italics() -> None:
    script = read(ITALIC)
    assert said(script) == [
        ("THE BOY", "Ho! I nearly hit her. And once more."),
        ("HALLA", "Whom? Who is there?"),
        ("BJØRN'S VOICE", "Make haste!"),
        ("MRS. HALL", "Oh, no."),
        ("HALLA", "Again."),
    ]
    speeches = list(script.speeches())
    assert [speech.line for speech in speeches] == [6, 14, 22, 25, 36]
    assert speeches[0].parentheticals == ["throws his dart", "Laughs."]
    assert speeches[2].parentheticals == ["full of malice, very near"]
    directions = [e.text for scene in script.scenes for e in scene.elements if not isinstance(e, Speech)]
    assert "A room. Halla sits, and Kari stands." in directions and "Jon comes in." in directions
    assert "Curtain." in directions


def test_names_in_bold_go_on_past_empty_lines() -> None:
    text = (
        "**Ann Lee:** Hello.\n\nAnd welcome to \\[laughs\\] all.\n\n**Bo (on the phone):** Hi: it is **me:**\n\n"
        "## Second part\n\nMusic plays.\n\n**Ann Lee:** So."
    )
    script = read(text)
    assert said(script) == [
        ("ANN LEE", "Hello. And welcome to all."),
        ("BO", "Hi: it is me:"),
        ("ANN LEE", "So."),
    ]
    assert [scene.heading for scene in script.scenes] == ["", "Second part"]
    assert next(script.speeches()).parentheticals == ["laughs"]


def test_plain_names_end_at_an_empty_line_as_before() -> None:
    assert said(read("Ann: Hello.\n\nShe goes.\n\nBo: Hi.\n\n**Cy:** Ho.")) == [
        ("ANN", "Hello."),
        ("BO", "Hi."),
        ("CY", "Ho."),
    ]
