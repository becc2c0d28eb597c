"""Screenplays as pages: numbered headings, columns, empty lines that hold spaces, stand too often or are missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.data.scripts import Script, read_script
from dpg_fast.data.scripts.headings import screenplay_heading
from dpg_fast.data.scripts.layout import lay_out

CASES = Path(__file__).parent / "layouts"


def said(script: Script) -> list[tuple[str, str]]:
    return [(speech.speaker, speech.words) for speech in script.speeches()]


def read(text: str, folder: Path, name: str = "script.txt") -> Script:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return read_script(file)


# --- single files ---


@pytest.mark.parametrize(
    ("name", "scenes", "speeches"),
    [
        (
            "01_scene_numbers_play.txt",
            [("", None), ("OLD HARBOUR - EVENING", "1"), ("INT. KITCHEN - DAY", "2"), ("EXT. YARD - DAY", "3")],
            [("ROSA", "Did you feed the cat?"), ("KARL", "Yes, twice."), ("ROSA", "Good.")],
        ),
        (
            "01_scene_numbers_refused.txt",
            [("INT. KITCHEN - DAY", "2"), ("EXT. YARD - DAY", "3")],
            [("ROSA", "Did you feed the cat?"), ("KARL", "Yes, twice."), ("ROSA", "Good.")],
        ),
        (
            "04_double_spaced.txt",
            [("INT. KITCHEN - DAY", None)],
            [("ROSA", "Did you feed the cat?"), ("KARL", "Yes."), ("ROSA", "Good."), ("KARL", "Bye.")],
        ),
        (
            "19_page_breaks.txt",
            [("INT. KITCHEN - DAY", None)],
            [("ROSA", "Did you feed the cat, or did you forget again?"), ("KARL", "I fed it."), ("ROSA", "Good.")],
        ),
    ],
)
def test_real_layouts(name: str, scenes: list[tuple[str, str | None]], speeches: list[tuple[str, str]]) -> None:
    script = read_script(CASES / name)
    assert script.format == "fountain" and not script.problems
    assert [(scene.heading, scene.label) for scene in script.scenes] == scenes
    assert said(script) == speeches


def test_a_thousand_cues_in_a_row_without_an_empty_line(tmp_path: Path) -> None:
    lines = [
        "INT. KITCHEN - DAY",
        "",
        "ROSA",
        "One.",
        "",
        "KARL",
        "Two.",
        "",
        "ROSA",
        "Three.",
        "",
        "KARL",
        "Four.",
        "",
    ]
    for i in range(1100):
        lines += [("ROSA", "KARL")[i % 2], f"Line {i}."]
    script = read("\n".join(lines), tmp_path)
    assert said(script)[4:] == [(("ROSA", "KARL")[i % 2], f"Line {i}.") for i in range(1100)]
    assert len(said(script)) == 1104


def test_empty_lines_with_spaces_end_a_speech_where_most_hold_some(tmp_path: Path) -> None:
    text = "INT. HALL - DAY\n  \nROSA\nYes.\n  \nShe goes.\n  \nEXT. YARD - DAY\n  \nKARL\nNo.\n  \nHe stays."
    script = read(text, tmp_path)
    assert said(script) == [("ROSA", "Yes."), ("KARL", "No.")]
    assert [scene.heading for scene in script.scenes] == ["INT. HALL - DAY", "EXT. YARD - DAY"]


def test_typed_fountain_keeps_a_speech_together_with_two_spaces_up_to_a_heading(tmp_path: Path) -> None:
    text = "INT. HALL - DAY\n\nROSA\nYes.\n  \nAnd no.\n\nKARL\nWell.\n  \nEXT. YARD - DAY\n\nIt rains.\n\nROSA\nAh."
    script = read(text, tmp_path, "script.fountain")
    assert said(script) == [("ROSA", "Yes. And no."), ("KARL", "Well."), ("ROSA", "Ah.")]
    assert len(script.scenes) == 2


def test_indentation_means_nothing_where_the_marks_of_fountain_say_what_is_what(tmp_path: Path) -> None:
    text = "!BANG\n\n@Rosa\nYes.\n\n    KARL\n  No.\n\n    BEN ^\n  Well.\n\n  ROSA\n    Ah.\n\n.HALL #1#\n\n    KARL\n  Oh."
    words = [("ROSA", "Yes."), ("KARL", "No."), ("BEN", "Well."), ("ROSA", "Ah."), ("KARL", "Oh.")]
    assert said(read(text, tmp_path, "script.fountain")) == words


@pytest.mark.parametrize(
    ("text", "heading", "label"),
    [
        ("INT. HALL - DAY", "INT. HALL - DAY", None),
        ("12 INT. HALL - DAY", "INT. HALL - DAY", "12"),
        ("12A.  EXT. SEA   12A", "EXT. SEA", "12A"),
        ("A12   INT./EXT. CAR - NIGHT      A12   *", "INT./EXT. CAR - NIGHT", "A12"),
        ("7  OLD HARBOUR  7", "OLD HARBOUR", "7"),
        ("INT. HALL - DAY #4-B#", "INT. HALL - DAY", "4-B"),
        ("INT. ROOM 12", "INT. ROOM 12", None),
        ("EXTERIOR COTTAGE", "EXTERIOR COTTAGE", None),
    ],
)
def test_headings_of_screenplays(text: str, heading: str, label: str | None) -> None:
    assert screenplay_heading(text) == (heading, label)


@pytest.mark.parametrize(
    "text", ["12  CONTINUED:  12", "12 OMITTED 12", "International law", "Exterior lights go on", "12", ""]
)
def test_what_is_no_heading(text: str) -> None:
    assert screenplay_heading(text) is None


# --- an imitation of a corpus of scanned, copied and exported screenplays ---

NAMES = ["ROSA", "KARL", "MRS. LIND", "OLD FISHERMAN", "DR. K", "ZOË", "VOICE ON RADIO", "BEN", "GUARD #2", "ANNA-LISE"]
WORDS = [
    "the",
    "a",
    "lamp",
    "boat",
    "cat",
    "harbour",
    "waits",
    "slowly",
    "asks",
    "sees",
    "under",
    "over",
    "old",
    "door",
    "rain",
    "letter",
    "never",
    "again",
    "we",
    "you",
    "they",
]
PLACES = ["KITCHEN", "YARD", "HARBOUR", "ROSA'S ROOM", "BOAT"]


@dataclass
class Sheet:
    """A screenplay that is being typed, and what it holds."""

    rng: random.Random
    action: int = 0
    words: int = 0
    names: int = 0
    centred: bool = False
    empty: str = ""
    between: int = 0  # empty lines between a name and its words, and all other lines
    tight: bool = False
    numbered: bool = False
    paged: bool = False
    lines: list[str] = field(default_factory=list)
    cues: list[tuple[int, str, str]] = field(default_factory=list)

    def sentence(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(3, 9))).capitalize() + self.rng.choice(
            [".", "?", "!"]
        )

    def put(self, text: str, column: int) -> None:
        self.lines += [" " * column + text, *[self.empty] * self.between]

    def gap(self) -> None:
        if not self.tight and not self.between:
            self.lines.append(self.empty)

    def heading(self, number: int) -> None:
        text = f"{self.rng.choice(['INT.', 'EXT.'])} {self.rng.choice(PLACES)} - {self.rng.choice(['DAY', 'NIGHT'])}"
        self.gap()
        self.put(f"{number}   {text}    {number}" if self.numbered else text, self.action)
        self.gap()

    def page(self) -> None:
        """The end of a page, anywhere."""
        number = self.rng.randint(2, 120)
        self.lines += ["", " " * 60 + f"{number}.", "", *self.rng.choice([["CONTINUED:", ""], []])]

    def speech(self) -> None:
        name = self.rng.choice(NAMES)
        column = max(self.words + 4, self.names - len(name) // 2) if self.centred else self.names
        self.cues.append((len(self.lines) + 1, name, ""))
        self.put(name + self.rng.choice(["", "", "", " (V.O.)", " (CONT'D)"]), column)
        if self.rng.random() < 0.2:
            self.put("(quietly)", (self.words + self.names) // 2)
        spoken = [self.sentence() for _ in range(self.rng.randint(1, 1 if self.between else 3))]
        for i, text in enumerate(spoken):
            if i and self.paged and self.rng.random() < 0.3:
                self.page()
            self.put(text, self.words)
        self.cues[-1] = (*self.cues[-1][:2], " ".join(spoken))
        self.gap()


def write_sheet(kind: str, seed: int) -> Sheet:
    rng = random.Random(f"{kind} {seed}")
    sheet = Sheet(rng, **LAYOUTS[kind])
    left = rng.choice([0, 4, 10]) if sheet.names else 0
    sheet.action += left
    sheet.words += left
    sheet.names += left
    for number in range(1, 16):
        sheet.heading(number)
        for _ in range(rng.randint(2, 7)):
            if rng.random() < 0.4 and not sheet.tight:
                for _ in range(rng.randint(1, 1 if sheet.between else 3)):
                    sheet.put(sheet.sentence(), sheet.action)
                sheet.gap()
            if rng.random() < 0.05:
                sheet.put(rng.choice(["CUT TO:", "DISSOLVE TO:", "ANGLE ON ROSA"]), sheet.action)
                sheet.gap()
            sheet.speech()
    return sheet


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "numbered": {"words": 10, "names": 22, "numbered": True},
    "numbered, centred names": {"words": 10, "names": 30, "numbered": True, "centred": True, "paged": True},
    "spaces in empty lines": {"words": 10, "names": 22, "empty": "          "},
    "spaces in empty lines, flat": {"empty": "    "},
    "action beneath words": {"names": 15, "empty": "   "},
    "no empty lines, columns": {"words": 10, "names": 22, "tight": True},
    "no empty lines, flat": {"tight": True},
    "double-spaced, columns": {"words": 10, "names": 22, "between": 1},
    "double-spaced, flat": {"between": 1},
    "triple-spaced, flat": {"between": 2},
    "pages": {"words": 10, "names": 22, "paged": True},
}


def sheets() -> Iterator[tuple[str, Sheet]]:
    for kind in LAYOUTS:
        for seed in range(4):
            yield kind, write_sheet(kind, seed)


def test_an_imitation_of_a_corpus(tmp_path: Path) -> None:
    good = 0
    count = 0
    for kind, sheet in sheets():
        script = read("\n".join(sheet.lines), tmp_path)
        found = {speech.line: speech for speech in script.speeches()}
        cues = [line for line, name, _ in sheet.cues if line in found and found[line].cue == name]
        assert len(found) <= 1.02 * len(sheet.cues) + 1, kind  # nothing else is a speech
        right = [line for line, _, words in sheet.cues if line in found and found[line].words == words]
        assert len(right) >= 0.95 * len(cues), kind
        assert sum(bool(scene.heading) for scene in script.scenes) == 15, kind
        enough = len(cues) >= 0.9 * len(sheet.cues)
        assert enough or any("look like names" in problem.what for problem in script.problems), kind
        good += enough
        count += 1
    assert count == 48 and good >= 0.95 * count


def test_layouts_have_names() -> None:
    kinds = {kind: lay_out(list(enumerate(write_sheet(kind, 0).lines, 1))).kind for kind in LAYOUTS}
    assert kinds["plain"] == kinds["spaces in empty lines, flat"] == "plain"
    assert kinds["no empty lines, flat"] == "tight"
    assert kinds["double-spaced, flat"] == kinds["triple-spaced, flat"] == "spaced"
    assert {kinds[kind] for kind in LAYOUTS if "names" in LAYOUTS[kind]} == {"columns"}


# --- what is lost is said ---


def test_a_file_in_which_nobody_speaks_says_so(tmp_path: Path) -> None:
    text = "INT. HALL - DAY\n\nA lamp burns.\n\n" * 20
    script = read(text, tmp_path)
    assert not said(script) and "no speech was found (20 scenes" in script.problems[0].what


def test_a_file_of_which_hardly_anything_is_spoken_says_so(tmp_path: Path) -> None:
    text = "INT. HALL - DAY\n\nROSA\nYes.\n\nKARL\nNo.\n\n" + "Rosa Did you feed the cat? Karl Yes, twice. " * 100
    assert any("2 of the file" in problem.what for problem in read(text, tmp_path).problems)


def test_names_that_were_not_taken_for_cues_are_counted(tmp_path: Path) -> None:
    text = "INT. HALL - DAY\n\n" + "The lamp burns.\nROSA\nYes, we all know the way home.\n\n" * 30
    script = read(text, tmp_path, "script.fountain")
    assert not said(script)
    assert any("30 lines look like names" in problem.what for problem in script.problems)
