"""Logs of messengers and meetings: times are neither names nor words."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from dpg_fast.data.scripts import Direction, Script, find_scripts, read_script
from dpg_fast.data.scripts.chats import is_log, read_log

CASES = Path(__file__).parent / "cases"
MEETING = [
    ("ROSA LIND", "Did you feed the cat?"),
    ("KARL BERG", "Yes."),
    ("ROSA LIND", "Good."),
    ("KARL BERG", "Bye."),
]


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("10_otter_times.txt", MEETING),
        (
            "10_time_before_name.txt",
            [("ROSA", "Did you feed the cat?"), ("KARL", "Yes, twice."), ("ROSA", "Good."), ("KARL", "Bye.")],
        ),
        (
            "11_whatsapp_ios.txt",
            [("MARTA LIND", "Did you feed the cat?"), ("OTTO BERG", "Yes, twice. And the dog."), ("OTTO BERG", "Ha!")],
        ),
        (
            "11_whatsapp_android_list.txt",
            [
                ("MARTA LIND", "Did you feed the cat?"),
                ("OTTO BERG", "Yes, twice."),
                ("OTTO BERG", "List for tomorrow Milk: two Bread: one Eggs: six"),
            ],
        ),
    ],
)
def test_logs(file: str, expected: list[tuple[str, str]]) -> None:
    script = read_script(CASES / file)
    assert (script.format, said(script), script.problems) == ("chats", expected, [])


STAMPS = [
    "[{d:02}/02/2025, 20:{m:02}:05] {name}: {text}",
    "\u200e[{d}.2.25, 20:{m:02}:05] {name}: {text}",
    "{d:02}/02/2025, 20:{m:02} - {name}: {text}",
    "2/{d}/25, 8:{m:02}\u202fPM - {name}: {text}",
    "2025/02/{d:02}, 20:{m:02} - {name}: {text}",
    "{d:02}.02.25, 20:{m:02} - {name}: {text}",
    "{d}.2.2025 klo 20.{m:02} - {name}: {text}",
    "{d:02}-02-2025 20:{m:02} - {name}: {text}",
    "2025. 2. {d}. 오후 8:{m:02}, {name} : {text}",
    "[2025-02-{d:02}, 20:{m:02}] {name}: {text}",  # signal-export
    "[2025-02-{d:02} 20:{m:02}] {name}: {text}",
    "[20:{m:02}] <{name}> {text}",  # IRC
    "20:{m:02} <@{name}> {text}",
    "2025-02-{d:02} 20:{m:02}:00 <{name}> {text}",
    "<{name}> {text}",
    "[00:{m:02}:02] {name}: {text}",  # Whisper's tools
    "00:{m:02}:02 {name}: {text}",
    "[00:{m:02}:02.000 --> 00:{m:02}:05.000] {name}: {text}",
    "20:{m:02}:05 From {name} to Everyone: {text}",  # Zoom
    "20:{m:02}:05\t From {name} : {text}",
    "{name}  0:{m:02}  \n{text}\n",  # Otter
    "{name}   1:{m:02}:09\n{text}\n",  # Teams
    "{name} (00:{m:02}):\n{text}\n",  # Rev
    "{name} (00:{m:02}): {text}",
    "**{name}** [00:{m:02}]\n{text}\n",
    "[{d:02}-Feb-25 08:{m:02} PM] {name}\n{text}\n",  # Discord
]


@pytest.mark.parametrize("stamp", STAMPS)
def test_forms_of_times(stamp: str, tmp_path: Path) -> None:
    drawn = random.Random(stamp)
    names = ["Rosa Lind", "Karl", "Speaker 1", "Zoë O'Neil"]
    texts = ["Did you feed it?", "At 12:45, yes.", "List: milk", "No.", "See http://x.y/z", "12 of them"]
    for _ in range(5):
        turns = [(drawn.choice(names), drawn.choice(texts)) for _ in range(drawn.randint(3, 12))]
        text = "\n".join(stamp.format(d=3, m=10 + i, name=name, text=words) for i, (name, words) in enumerate(turns))
        (tmp_path / "log.txt").write_text(text, encoding="utf-8")
        script = read_script(tmp_path / "log.txt", aliases={name.upper(): [] for name in names})
        assert said(script) == [(name.upper(), words) for name, words in turns]


def test_another_day_is_another_scene_and_an_app_says_nothing() -> None:
    script = read_log(
        [
            "03/02/2025, 20:11 - Messages and calls are end-to-end encrypted.",
            "03/02/2025, 20:11 - Ann: one",
            "",
            "two: three",
            "03/02/2025, 20:12 - Ann: <Media omitted>",
            "03/02/2025, 20:12 - Ann: IMG-1.jpg (file attached)",
            '03/02/2025, 20:12 - Ann changed the subject to "a: b"',
            "04/02/2025, 08:00 - Ben: four <This message was edited>",
            "04/02/2025, 08:01 - +49 170 1234567: five",
        ],
        "x",
    )
    assert said(script) == [("ANN", "one two: three"), ("BEN", "four"), ("+49 170 1234567", "five")]
    assert len(script.scenes) == 2
    notes = [e.text for scene in script.scenes for e in scene.elements if isinstance(e, Direction)]
    assert len(notes) == 4


def test_irc_events_are_no_speech() -> None:
    lines = [
        "20:10 -!- ann has joined #x",
        "20:11 <ann> hi",
        "20:12 <ben> ho",
        "--- Day changed Tue Feb 04 2025",
        "20:13 <ann> bye",
    ]
    script = read_log(lines, "x")
    assert said(script) == [("ANN", "hi"), ("BEN", "ho"), ("ANN", "bye")] and len(script.scenes) == 2


@pytest.mark.parametrize(
    "text",
    [
        "ANNA: Hi.\nBEN: At 12:45 then.\nANNA: Fine.",
        "INT. HALL - 12:45\n\nANNA\nHi.\n\nINT. YARD - 13:00\n\nBEN\nHo.",
        "ACT 1 12:30\n\nANNA. Hi.\n\nBEN. Ho.",
        "We met at 12:45.\nIt was 13:00 when she left.\nThe train of 14:10 was late.",
        "[Scene: 1]\nANNA: Hi.\n[12:30]\nBEN: Ho.\nANNA: Well.",
    ],
)
def test_other_texts_are_no_logs(text: str) -> None:
    assert not is_log(text.split("\n"))


def test_the_samples_are_no_logs() -> None:
    for file in find_scripts("samples"):
        assert not is_log(file.read_text(encoding="utf-8").split("\n")), file.name


@pytest.mark.parametrize(
    "line",
    [
        "03/02/2025, 20:11" + " " * 90_000 + "x",
        "A " * 45_000 + "1:23",
        "-" * 90_000 + "2025 1:23",
        "A" * 90_000 + " 1:23 x",
        "<" * 90_000,
        "12:45 " + "<a" * 40_000,
        "12:45 From " + "x to " * 20_000,
        "12:45 " + "\t" * 90_000 + ":",
    ],
    ids=["spaces", "words", "dashes", "letters", "angles", "nicks", "zoom", "tabs"],
)
def test_long_lines_are_read_in_bounded_time(line: str) -> None:
    start = time.perf_counter()
    read_log([line] * 3, "x")
    assert time.perf_counter() - start < 2
