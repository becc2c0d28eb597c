"""Subtitles: what a cue holds, and who is named in it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dpg_fast.data.scripts import Direction, Script, read_script
from dpg_fast.data.scripts.subtitles import read_subtitles

CASES = Path(__file__).parent / "cases"


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def directions(script: Script) -> list[str]:
    return [e.text for scene in script.scenes for e in scene.elements if isinstance(e, Direction)]


def srt(*texts: str) -> Script:
    cues = [f"{i}\n00:00:{2 * i:02},000 --> 00:00:{2 * i + 1:02},000\n{text}\n" for i, text in enumerate(texts, 1)]
    return read_subtitles("\n".join(cues).split("\n"), "test")


def test_cases() -> None:
    assert said(read_script(CASES / "14_blank_after_time.vtt")) == [
        ("ROSA", "I am stuck on the boat."),
        ("KARL", "We know."),
    ]
    phrases = read_script(CASES / "14_capital_noun_colon.srt")
    assert said(phrases) == [] and directions(phrases)[0] == "Das Ergebnis: nichts."
    assert any("ACHTUNG, DAS ERGEBNIS, HÖREN SIE" in problem.what for problem in phrases.problems)
    captions = read_script(CASES / "14_captions_names.srt")
    assert said(captions) == [
        ("ROSA", "Did you feed the cat?"),
        ("KARL BERG", "Yes."),
        ("ROSA", "Twice?"),
        ("KARL", "Twice."),
        ("ROSA", "Good."),
    ]


PIECES = ["", "", "5", "Well.", "one more", "- And you?", "12 boats"]


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_an_empty_line_inside_a_cue_ends_nothing(ending: str) -> None:
    drawn = random.Random(ending)
    for _ in range(200):
        expected, lines = [], ["WEBVTT", ""] if ending == "vtt" else []
        for number in range(1, drawn.randint(2, 6)):
            pieces = ["Words.", *drawn.choices(PIECES, k=drawn.randint(0, 4)), "The end."]
            if drawn.random() < 0.3:
                pieces.insert(0, "")
            if ending == "srt":
                lines.append(str(number))
            elif drawn.random() < 0.5:
                lines.append(drawn.choice(["intro", "7", "cue one"]))
            lines += [f"00:00:{2 * number:02}.000 --> 00:00:{2 * number + 1:02}.000", *pieces]
            lines += [""] * drawn.randint(1, 3)
            if ending == "vtt" and drawn.random() < 0.3:
                lines += ["NOTE nobody", "says this", ""]
            alone = [i > 0 and not pieces[i - 1] and not pieces[i + 1] for i in range(len(pieces) - 1)] + [False]
            kept = [p for p, stray in zip(pieces, alone, strict=True) if p and not (stray and p.isdigit())]
            expected.append(" ".join(kept).replace("- ", ""))
        script = read_subtitles(lines, "test")
        found = " ".join(direction for direction in directions(script))
        assert found == " ".join(expected)


@pytest.mark.parametrize(
    ("times", "start"),
    [
        ("00:00:01,000 --> 00:00:03,000", 1),
        ("00:00:01 --> 00:00:03", 1),
        ("00:00:01:500 --> 00:00:03:000", 1.5),
        ("0:01.25 --> 0:03.00", 1.25),
        ("00:01 --> 00:03", 1),
        ("0:00:01.000,0:00:03.000", 1),
    ],
)
def test_times(times: str, start: float) -> None:
    later = "00:00:23,600 --> 00:00:24,000"  # a pause of 20.6 seconds after 3
    script = read_subtitles([times, "ANNA: Hi.", "", later, "BEN: Ho."], "x")
    assert said(script) == [("ANNA", "Hi."), ("BEN", "Ho.")] and len(script.scenes) == 2
    assert script.problems == []


def test_other_speakers_without_a_name() -> None:
    script = srt(
        ">> ROSA: I wanted", ">> Nobody knows me.", ">>> Karl Berg: Yes,", "of course.", "&gt;&gt; ROSA: Fine."
    )
    assert said(script) == [("ROSA", "I wanted"), ("KARL BERG", "Yes, of course."), ("ROSA", "Fine.")]
    assert directions(script) == ["Nobody knows me."]


def test_names_in_brackets_and_sounds() -> None:
    script = srt(
        "[Rosa] Hi.",
        "(Karl) Ho.",
        "[Laughs] Well.",
        "[Music]",
        "(Karl) Yes.",
        "[Rosa] No.",
        "[Music] So.",
        "[Man] Who?",
    )
    assert said(script) == [("ROSA", "Hi."), ("KARL", "Ho."), ("KARL", "Yes."), ("ROSA", "No."), ("MAN", "Who?")]
    assert said(
        srt(
            "（花子）こんにちは。",
            "（笑い声）",
            "（太郎）はい。",
            "（花子）では。",
            "（太郎）うん。",
            "（笑い声）ええ。",
        )
    ) == [
        ("花子", "こんにちは。"),
        ("太郎", "はい。"),
        ("花子", "では。"),
        ("太郎", "うん。"),
    ]


def test_names_with_small_letters_recur() -> None:
    texts = ["Rosa: Hi.", "Karl: Ho.", "Rosa: Well.", "Karl: Look: rain.", "Otto: Where?"]
    assert said(srt(*texts)) == [(name.upper(), words) for name, _, words in (text.partition(": ") for text in texts)]
    german = ["Es regnet.", "Achtung: Stufe!", "Wir gehen.", "Merke: nie allein.", *["Ja."] * 20, "Achtung: Bus!"]
    assert said(srt(*german)) == []


def test_ttml(tmp_path: Path) -> None:
    text = """<?xml version="1.0" encoding="utf-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttm="http://www.w3.org/ns/ttml#metadata" xmlns:ttp="http://www.w3.org/ns/ttml#parameter"
 ttp:frameRate="25"><head><metadata><ttm:agent xml:id="r" type="character"><ttm:name type="full">Rosa Lind</ttm:name></ttm:agent>
</metadata></head><body><div>
<p begin="00:00:01.000" end="00:00:02.000" ttm:agent="r">Did you<br/>feed &amp; wash it?</p>
<p begin="2.5s" dur="500ms">KARL: Yes.</p>
<p begin="00:00:25:10" end="00:00:26:00"><span>OTTO: Good.</span></p>
<p begin="soon">Never.</p>
</div></body></tt>"""
    for name in ("a.ttml", "a.dfxp", "a.xml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        script = read_script(tmp_path / name)
        assert said(script) == [("ROSA LIND", "Did you feed & wash it?"), ("KARL", "Yes."), ("OTTO", "Good.")]
        assert len(script.scenes) == 2 and len(script.problems) == 1


def test_sbv(tmp_path: Path) -> None:
    (tmp_path / "a.sbv").write_text(
        "0:00:01.000,0:00:02.000\n>> ANNA: Hi,\nyou.\n\n0:00:03.000,0:00:04.000\nBEN: Ho.\n"
    )
    assert said(read_script(tmp_path / "a.sbv")) == [("ANNA", "Hi, you."), ("BEN", "Ho.")]
