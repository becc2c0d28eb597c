"""Subtitles, chats, novels, encodings, and which reader gets a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.data.scripts import Script, find_scripts, read_script
from dpg_fast.data.scripts.chats import read_chats
from dpg_fast.data.scripts.encoding import decode
from dpg_fast.data.scripts.subtitles import read_subtitles


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


SRT = """1
00:00:01,000 --> 00:00:02,000
HARRY: Hello,

2
00:00:02,100 --> 00:00:03,000
<i>old friend.</i>

3
00:00:03,100 --> 00:00:0x,000
RON: Nobody can read my times.

4
00:00:04,000 --> 00:00:05,000
- [RON] Hi. (sighs)
- HERMIONE: Shh &amp; hush!
And listen.

5
00:00:06,000 --> 00:00:07,000
Somebody is not named.
6
00:01:00,000 --> 00:01:01,000
♪ A song ♪

7
00:01:02,000 --> 00:01:03,000
"""


def test_subrip() -> None:
    script = read_subtitles(SRT.split("\n"), "test")
    assert said(script) == [("HARRY", "Hello, old friend."), ("RON", "Hi."), ("HERMIONE", "Shh & hush! And listen.")]
    assert list(script.speeches())[1].parentheticals == ["sighs"]
    assert len(script.scenes) == 2  # a pause of 53 seconds
    assert [problem.line for problem in script.problems] == [0, 10, 27]


def test_webvtt() -> None:
    text = (
        "WEBVTT\n\nNOTE nothing\n\nintro\n00:01.000 --> 00:02.000 align:start\n<v.loud Mary Ann>Hi, <i>you</i>.</v>\n<v Bob>Ho."
        "\n\n00:02.500 --> 00:03.000\n<v Bob>\n"
    )
    assert said(read_subtitles(text.split("\n"), "test")) == [("MARY ANN", "Hi, you."), ("BOB", "Ho.")]


def test_substation() -> None:
    text = """[Script Info]
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.00,Default,Anna,0,0,0,,{\\i1}Hello{\\i0},\\Nall of you.
Comment: 0,0:00:01.00,0:00:02.00,Default,Anna,0,0,0,,No.
Dialogue: 0,0:00:xx.00,0:00:02.00,Default,Anna,0,0,0,,Broken.
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,BEN: Yes.
Dialogue: too short"""
    script = read_subtitles(text.split("\n"), "test")
    assert said(script) == [("ANNA", "Hello, all of you."), ("BEN", "Yes.")]
    assert [problem.line for problem in script.problems] == [6, 8]


def test_a_broken_byte_does_not_make_another_encoding_of_utf8() -> None:
    lines, problems = decode("ÄNNE\nSchön, “gut”.\n".encode() + b"broken \xff byte\nends")
    assert lines == ["ÄNNE", "Schön, “gut”.", "broken \ufffd byte", "ends"]
    assert [(problem.line, "UTF-8" in problem.what) for problem in problems] == [(0, True), (3, False)]
    western, _ = decode("Schön ist die Straße für Jürgen.".encode("cp1252"))
    assert western == ["Schön ist die Straße für Jürgen."]


def test_chats_hold_any_character(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    strange = "one\u2028two\x85three\x0bfour"
    rows = [
        json.dumps({"speaker": "A", "text": strange}, ensure_ascii=False),
        '{"speaker": "B", "text": "half \\ud83d of it"}',
    ]
    file.write_text("\r\n".join(rows), encoding="utf-8", newline="")
    script = read_script(file)
    assert not [problem for problem in script.problems if "JSON" in problem.what]
    assert said(script) == [("A", "one two three four"), ("B", "half \ufffd of it")]
    next(script.speeches()).words.encode()  # no half characters are left, which UTF-8 cannot hold


def test_chats() -> None:
    lines = [
        json.dumps({"speaker": "Ann", "text": "Hi", "scene": "a"}),
        "not json",
        json.dumps({"speaker": "Ben", "text": "Ho", "scene": "a"}),
        json.dumps({"name": "Ben", "content": "New scene", "scene": "b"}),
        "[1]",
        json.dumps({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "x"}]}),
        json.dumps({"conversations": [{"from": "gpt", "value": "v"}, 3]}),
    ]
    script = read_chats(lines, "test")
    assert said(script) == [("ANN", "Hi"), ("BEN", "Ho"), ("BEN", "New scene"), ("USER", "u"), ("GPT", "v")]
    assert [scene.heading for scene in script.scenes] == ["a", "b", "conversation 6", "conversation 7"]
    assert [problem.line for problem in script.problems] == [2, 5, 6, 7]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(["00:00:01,000 --> 00:00:02,000", "<v A>b", "[Events]", "Dialogue: 1,2"]),
        ),
        max_size=20,
    )
)
def test_any_lines_are_read(lines: list[str]) -> None:
    read_subtitles(lines, "any")
    read_chats(lines, "any")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read(data: bytes) -> None:
    lines, problems = decode(data)
    assert lines and all(0 <= problem.line <= len(lines) for problem in problems)
    assert not any("\0" in line or "\n" in line for line in lines)


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-16-le", b""),
        ("cp1252", b""),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(encoding: str, mark: bytes, newline: str) -> None:
    text = ["JOSÉ", "Ça va – “bien”, naïve Zoë? It’s me…", ""]
    lines, problems = decode(mark + newline.join(text).encode(encoding))
    assert lines == text
    assert [problem.line for problem in problems] == ([] if mark or encoding == "utf-8" else [0])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ИВАН\nПривет, как дела? Хорошо живём, товарищ.\n", "cp1251"),
        ("花子\nこんにちは、お元気ですか。今日はいい天気ですね。\n", "shift_jis"),
    ],
)
def test_encodings_that_are_guessed(text: str, encoding: str) -> None:
    lines, _ = decode((text * 4).encode(encoding))
    assert "\n".join(lines) == text * 4


def test_broken_bytes_and_control_characters_are_reported_with_their_lines() -> None:
    lines, problems = decode("ok\nbad\x07 é\nok".encode() + b"\n\xe2\x28", "utf-8")
    assert lines == ["ok", "bad é", "ok", "\ufffd("]
    assert [problem.line for problem in problems] == [2, 4]


def test_formats_are_found(tmp_path: Path) -> None:
    files = {
        "a.fountain": ("INT. A\n\nANNA\nHi.", "fountain"),
        "b.srt": (SRT, "subtitles"),
        "c.jsonl": ('{"speaker": "A", "text": "b"}', "chats"),
        "d.txt": ("Anna: Hi.\nBen: Ho.", "play"),
        "e.txt": ("INT. A - DAY\n\nANNA\nHi.", "fountain"),
    }
    for name, (text, _) in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = find_scripts(tmp_path)
    assert [file.name for file in found] == sorted(files)
    assert [read_script(file).format for file in found] == [kind for _, (_, kind) in sorted(files.items())]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.rtf", "x", {}, "unknown ending"),
        ("a.txt", "Only prose.", {}, "name the format"),
        ("a.txt", "x", {"format": "novel"}, "novel"),
        ("a.txt", "x", {"format": "play", "encoding": "klingon"}, "klingon"),
    ],
)
def test_bad_input_is_refused(name: str, text: str, options: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_script(tmp_path / name, **options)  # type: ignore[arg-type]


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_scripts(tmp_path / "none")
    with pytest.raises(ValueError, match="no scripts"):
        find_scripts(tmp_path)


def test_the_samples_are_read_without_loss() -> None:
    counts = {script.name: sum(1 for _ in script.speeches()) for script in map(read_script, find_scripts("samples"))}
    assert counts == {"night_call": 17, "rehearsal": 26, "the_lighthouse": 45}


def test_aliases_beside_a_script(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Anna: Hi.\nThe Boss: Ho.", encoding="utf-8")
    (tmp_path / "a.aliases.json").write_text('{"Anna": ["The Boss"]}', encoding="utf-8")
    assert said(read_script(tmp_path / "a.txt")) == [("Anna", "Hi."), ("Anna", "Ho.")]
