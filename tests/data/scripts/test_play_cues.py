"""Plays and transcripts as people have them: names, headings and punctuation of other traditions, Markdown of chat models."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.data.scripts import Script, Speech, read_script
from dpg_fast.data.scripts.headings import play_heading
from dpg_fast.data.scripts.plays import read_play

CASES = Path(__file__).parent / "plays"
FOUR = ["Did you feed the cat?", "Yes, twice.", "Good, then sit down.", "I will."]
SPANISH = ["¿Diste de comer al gato?", "Sí, dos veces.", "Bien.", "Adiós."]


def read(text: str) -> Script:
    return read_play(text.split("\n"), "test")


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def directed(script: Script) -> list[str]:
    return [e.text for scene in script.scenes for e in scene.elements if not isinstance(e, Speech)]


def turns(first: str, second: str, words: list[str]) -> list[tuple[str, str]]:
    return [((first, second)[i % 2], text) for i, text in enumerate(words)]


@pytest.mark.parametrize(
    ("name", "headings", "speeches"),
    [
        (
            "12_bold_names_alone.md",
            ["INT. KITCHEN - DAY"],
            [("ROSA", "Did you feed the cat?"), ("KARL", "Twice."), ("ROSA", "Good.")],
        ),
        (
            "12_bold_screenplay.md",
            ["The Lamp", "INT. KITCHEN - DAY", "EXT. YARD - NIGHT"],
            [("ROSA", "Did you feed the cat?"), ("KARL", "Twice."), ("KARL", "It is late."), ("ROSA", "I know.")],
        ),
        (
            "13_tight_unusual_names.txt",
            [""],
            [
                ("ROSA", "Did you feed the cat?"),
                ("KARL", "Yes."),
                ("ROSA, KARL", "Hello!"),
                ("ROSA", "Who was that?"),
                ("THE WAITER", "Me."),
                ("KARL", "Who?"),
                ("VOICE ON RADIO", "Me too."),
                ("ROSA", "Rosa/Karl was a typing error."),
                ("ROSA/KARL", "Bye!"),
            ],
        ),
        (
            "15_chinese_play.txt",
            ["第一幕", "第一场"],
            [
                ("李梅", "你喂猫了吗？"),
                ("王强", "喂了两次。"),
                ("李梅", "那就好。"),
                ("王强", "她不信。"),
                ("李梅", "走吧。"),
            ],
        ),
        (
            "15_japanese_play.txt",
            ["第一場"],
            [("マルタ", "猫に餌をやった？"), ("オットー", "はい、二回"), ("マルタ", "よし")],
        ),
        (
            "16_bracket_places.txt",
            ["Bridge", "Kitchen", "The yard."],
            turns("ROSA", "KARL", ["Report.", "All is well.", "Where is the cat?", "Here.", "Good.", "Bye."]),
        ),
        (
            "16_german_acts.txt",
            ["ERSTER AKT", "Erste Szene", "Zweiter Auftritt"],
            turns(
                "MARTA",
                "OTTO",
                ["Hast du die Katze gefüttert?", "Ja, zweimal.", "Gut.", "Dann komm.", "Nein.", "Tschüs."],
            ),
        ),
        ("16_spanish_dash.txt", ["ACTO PRIMERO", "ESCENA PRIMERA"], turns("ROSA", "KARL", SPANISH * 2)),
        ("17_name_alone_no_dot.txt", ["ACT I", "SCENE I. A kitchen."], turns("ROSA", "KARL", FOUR * 2)),
        ("17_name_dash.txt", [""], turns("ROSA", "KARL", FOUR * 2)),
        ("17_name_two_spaces.txt", ["ACT 1", "Scene 1"], turns("ROSA", "KARL", FOUR * 2)),
        ("18_court.txt", [""], turns("Q", "A", FOUR * 2)),
    ],
)
def test_real_layouts(name: str, headings: list[str], speeches: list[tuple[str, str]]) -> None:
    script = read_script(CASES / name)
    assert said(script) == speeches
    assert [scene.heading for scene in script.scenes] == headings
    assert not any("\0" in text for text in directed(script))


def test_brackets_in_which_somebody_does_something_are_directions() -> None:
    brackets = ["Bridge", "Elle voit Rosa partir", "Karl's old kitchen", "She sees the sea", "Chez Karl"]
    lines = [text for name in brackets for text in (f"[{name}]", "", "ROSA: Report.", "KARL: All is well.", "")]
    script = read_play(lines, "x")
    assert [scene.heading for scene in script.scenes] == ["Bridge", "Karl's old kitchen", "Chez Karl"]
    assert directed(script) == ["Elle voit Rosa partir", "She sees the sea"]


def test_directions_of_a_chat_models_screenplay() -> None:
    script = read_script(CASES / "12_bold_screenplay.md")
    assert directed(script) == ["FADE IN:", "ROSA enters.", "The rain falls. Karl waits.", "FADE OUT.", "THE END"]


def test_quotations_between_bold_names_are_directions_and_the_speech_goes_on() -> None:
    script = read("**Ana:** Hola.\n\n> *Se ríe.*\n\nAdiós.\n\n**Ben:** No.\n\n> (Sale.)\n\n**Ana:** Sí.")
    assert said(script) == [("ANA", "Hola. Adiós."), ("BEN", "No."), ("ANA", "Sí.")]
    assert len(directed(script)) == 2


@pytest.mark.parametrize("form", ["__{}:__ {}", "- **{}:** {}", "1. **{}**: {}", "**{}** (quietly): {}"])
def test_other_ways_to_set_a_name_in_bold(form: str) -> None:
    pairs = [("Ana", "Hola."), ("Ben", "No."), ("Ana", "Ah."), ("Ben", "Sí.")]
    assert said(read("\n\n".join(form.format(*pair) for pair in pairs))) == [(a.upper(), b) for a, b in pairs]


def test_bold_capitals_with_a_dot() -> None:
    assert said(read("**ANA.** Hola.\n\n**BEN.** No.\n\n**ANA.** Ah.")) == [
        ("ANA", "Hola."),
        ("BEN", "No."),
        ("ANA", "Ah."),
    ]


def test_a_list_of_terms_names_nobody() -> None:
    terms = "\n".join(f"- **{term}**: it is explained here." for term in ("Size", "Weight", "Colour", "Order"))
    assert not said(read(terms))


def test_page_and_time_are_people_once_somebody_has_spoken() -> None:
    script = read(
        "Title: A lamp\nTime: evening\n\nROSA:\nWho is there?\n\nPage:\nMy lady, it is I.\n\nTime:\nIt is late."
    )
    assert said(script) == [("ROSA", "Who is there?"), ("PAGE", "My lady, it is I."), ("TIME", "It is late.")]
    assert said(read("ROSA: Hi.\nDate: 12 May 2020\nKARL: Ho.")) == [("ROSA", "Hi. Date: 12 May 2020"), ("KARL", "Ho.")]


def test_lines_inside_a_speech_that_begin_like_a_name_are_counted() -> None:
    script = read(
        "ROSA: I must say\nthis here: that it rains\nand rains, you know, as it did\nlast year.\n\nKARL: Yes,\nI do."
    )
    assert said(script)[0] == ("ROSA", "I must say this here: that it rains and rains, you know, as it did last year.")
    assert ["1 lines inside speeches" in problem.what for problem in script.problems] == [True]


def test_a_manner_after_a_comma() -> None:
    script = read("ROSA. Bonjour.\n\nKARL. Salut.\n\nKARL, riant. Vraiment ?\n\nROSA. Oui.")
    assert said(script) == [("ROSA", "Bonjour."), ("KARL", "Salut."), ("KARL", "Vraiment ?"), ("ROSA", "Oui.")]
    assert list(script.speeches())[2].parentheticals == ["riant"]


def test_small_letters_of_any_alphabet_are_small() -> None:
    script = read("МАРТА. Да.\n\nКомната. Вечер.\n\nОТТО. Нет.\n\nСтук. Входит сосед.\n\nМАРТА. Ах.")
    assert said(script) == [("МАРТА", "Да."), ("ОТТО", "Нет."), ("МАРТА", "Ах.")]


def test_tabulators_abbreviations_and_numbered_lines() -> None:
    assert said(read("ROSA\tOne.\n\tTwo.\nKARL\tThree.\nROSA\tFour.\nKARL\tFive."))[0] == ("ROSA", "One. Two.")
    short = read("  Ros. Did you feed the cat?\n  Kar. Yes, twice.\n  Ros. Good.\n  Kar. I will.")
    assert said(short) == turns("ROS", "KAR", ["Did you feed the cat?", "Yes, twice.", "Good.", "I will."])
    lines = [f"{i:>2}  {'MS. LIND' if i % 2 else 'THE WITNESS'}:  Words {i}." for i in range(1, 26)]
    assert {name for name, _ in said(read("\n".join(lines)))} == {"MS. LIND", "THE WITNESS"}


@pytest.mark.parametrize(
    "text",
    [
        *[
            "ACT I",
            "ACT ONE",
            "ACT THE SECOND",
            "SCENE 2. A wood",
            "THE SECOND ACT",
            "Second Act.",
            "ERSTER AKT",
            "Zweiter Auftritt",
        ],
        *[
            "Dritte Szene",
            "ACTE PREMIER",
            "SCÈNE II",
            "Scène première",
            "ACTO PRIMERO",
            "ESCENA ÚLTIMA",
            "ATTO SECONDO",
        ],
        *[
            "SCENA TERZA",
            "ДЕЙСТВИЕ ПЕРВОЕ",
            "Явление второе",
            "第一幕",
            "第3场",
            "FØRSTE AKT",
            "EERSTE BEDRIJF",
            "Scen 2",
        ],
    ],
)
def test_headings_of_plays(text: str) -> None:
    assert play_heading(text) is not None


@pytest.mark.parametrize(
    "text", ["Second act; what of it?", "Act now!", "Scene of a crime", "actor one", "The last act we saw", ""]
)
def test_what_is_no_heading_of_a_play(text: str) -> None:
    assert play_heading(text) is None


def test_sounds_in_brackets_are_no_places() -> None:
    assert len(read("ANNA: Hi.\n\n[Laughter]\n\nBEN: Ho.\n\n[Applause]\n\nANNA: So.\n\n[Laughter]").scenes) == 1


def test_a_settings_line_opens_a_scene() -> None:
    script = read("ANNA: Hi.\n\nScene: The yard.\n\nBEN: Ho.\n\n[Setting: A hall.]\n\nANNA: So.")
    assert [scene.heading for scene in script.scenes] == ["", "The yard.", "A hall."]


def test_front_matter_is_nobodys() -> None:
    assert said(read("---\ntitle: Talk\nSpeakers: Ann\n---\n\nANN: Hi.\n\nBO: Ho.")) == [("ANN", "Hi."), ("BO", "Ho.")]
