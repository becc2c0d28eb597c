"""Labelled datasets: splits, centres, outliers, augmentation, files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.data.labelled import Centre, LabelSettings, Prepared, build, prepare
from dpg_fast.data.labelled.augment import DialogueRequest, Writer, clean, make_requests
from dpg_fast.data.labelled.build import Dataset
from dpg_fast.data.labelled.files import write_dataset
from dpg_fast.data.labelled.judging import DialogueScorer
from dpg_fast.data.scripts import merge_speakers
from dpg_fast.data.scripts.fountain import read_fountain
from dpg_fast.data.scripts.script import Script
from dpg_fast.data.scripts.segments import SegmentSettings
from dpg_fast.text.records import DialogueRecord, read_records
from tests.data.labelled.words_judge import LOUD, QUIET, WordsJudge, level

CUT = SegmentSettings(turns=4, before=1, min_words=3)
#: each has a voice: how many loud (or quiet, if negative) words in each speech
PEOPLE = {"ANNA": 3, "BEN": -3, "CLEO": 2, "DAN": -2, "EVA": 1, "FINN": -1, "GUS": 4, "HAL": -4, "IDA": 2, "JON": -2}


def words(name: str, number: int, strength: int | None = None) -> str:
    """A speech of that person, different for each number."""
    voice = PEOPLE[name] if strength is None else strength
    marks = " ".join((LOUD if voice > 0 else QUIET)[i % 3] for i in range(abs(voice)))
    return f"{marks} {name.lower()}{number} speaks of thing{number} and matter{number * 7} again".strip()


def script(scenes: int = 12, outlier: bool = False) -> Script:
    """Pairs of people in turn, so that everybody has several scenes."""
    names = list(PEOPLE)
    text = []
    for number in range(scenes * len(names) // 2):
        one, two = names[number % len(names)], names[(number + 1 + number // len(names)) % len(names)]
        text.append(f"INT. ROOM {number} - DAY\n\n{one}\n{words(one, number)}\n\n{two}\n{words(two, number + 1000)}\n")
    if outlier:
        text.append(f"INT. ODD - DAY\n\nANNA\n{words('ANNA', 7777, -5)}\n\nBEN\nhush nobody alone one two three\n")
    return read_fountain("\n".join(text).split("\n"), "play")


def scorer(folder: Path, judge: WordsJudge | None = None) -> tuple[DialogueScorer, WordsJudge]:
    judge = judge or WordsJudge()
    return DialogueScorer(lambda: judge, {"kind": "words"}, folder / "scores.jsonl", "words"), judge


class Echo:
    """Writes in the first example's manner, except every third text, which is out of character."""

    def __init__(self) -> None:
        self.asked: list[DialogueRequest] = []

    def write(self, requests: Sequence[DialogueRequest]) -> list[str | None]:
        self.asked += requests
        return [self._one(request) for request in requests]

    def _one(self, request: DialogueRequest) -> str:
        name = request.character[1]
        strength = -5 if PEOPLE[name] > 0 else 5
        return words(name, 5000 + request.number, strength if request.number % 3 == 2 else None)


def built(folder: Path, settings: LabelSettings, source: Script | None = None) -> tuple[Prepared, Dataset]:
    prepared = prepare([source or script()], settings)
    writer = Writer(Echo, {"kind": "echo"}, folder / "generated.jsonl") if settings.generate else None
    return prepared, build(prepared, settings, scorer(folder)[0], writer)


def test_a_test_character_is_new(tmp_path: Path) -> None:
    settings = LabelSettings(CUT, test_characters=0.2, test_scenes=0.2, generate=2)
    prepared, dataset = built(tmp_path, settings)
    held_out = {name for _, name in prepared.held_out}
    assert len(held_out) == 2
    train, scene, character = (dataset.records[split] for split in ("train", "test_scene", "test_character"))
    assert train and scene and character
    assert {record.character for record in character} <= held_out
    assert not {record.character for record in train + scene} & held_out
    for record in train:  # they do not even speak there
        assert not any(f"{name}:" in turn.content for turn in record.messages for name in held_out)
    places = [
        {(r.origin.script, r.origin.scene) for r in part if r.origin and not r.origin.generated}
        for part in (train, scene)
    ]
    assert not places[0] & places[1]
    rows = {row.character: row for row in dataset.characters}
    assert all((rows[name].nearest is not None) == (name in held_out) for name in rows)
    assert all(rows[name].generated == 0 for name in held_out)


def test_a_test_character_near_a_training_characters_centre_is_shown_and_can_be_left_out(tmp_path: Path) -> None:
    settings = LabelSettings(CUT, test_characters=0.4, test_scenes=0.0)
    prepared, dataset = built(tmp_path, settings)
    rows = {row.character: row for row in dataset.characters}
    tested = [row for row in dataset.characters if row.split == "test_character"]
    for row in tested:  # people differ in extraversion alone, so the distance is the difference of their voices
        apart = {name: abs(PEOPLE[row.character] - PEOPLE[name]) for name in rows if rows[name].split == "train"}
        assert row.nearest == pytest.approx(min(apart.values())) and row.new
        assert apart[str(row.nearest_character)] == min(apart.values())
    found = sorted({round(row.nearest or 0) for row in tested})
    assert len(found) > 1, "somebody near and somebody far are needed"
    strict, dataset = built(tmp_path, replace(settings, min_distance=found[-1]))
    left = {row.character for row in tested if row.nearest is not None and row.nearest >= found[-1] - 1e-9}
    assert strict.split == prepared.split and {r.character for r in dataset.records["test_character"]} == left
    reasons = [row for row in dataset.dropped if row.reason == "not a new personality"]
    assert {row.target for row in reasons} == {row.character for row in tested} - left
    assert all(" from " in row.detail for row in reasons)
    manifest = write_dataset(
        tmp_path / "out", dataset, strict, replace(settings, min_distance=found[-1]), "j", {}, plots=False
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert manifest["dropped"]["not a new personality"] == len(reasons) and "left out" in card
    _, dataset = built(tmp_path, replace(settings, min_distance=100))
    assert not dataset.records["test_character"] and not (dataset.unjudged)


def test_a_test_character_is_not_heard_in_a_group_either() -> None:
    text = "\n".join(
        f"INT. ROOM {n} - DAY\n\nBEN\n{words('BEN', n)}\n\nANNA AND BEN\nYes!\n\nCLEO\n{words('CLEO', n)}\n\n"
        f"INT. HALL {n} - DAY\n\nANNA LEE\n{words('ANNA', n)}\n"
        for n in range(8)
    )
    source = merge_speakers(read_fountain(text.split("\n"), "play"))
    for seed in range(20):
        prepared = prepare([source], LabelSettings(CUT, test_characters=0.34, test_scenes=0.0, seed=seed))
        if ("play", "ANNA LEE") in prepared.held_out:
            break
    assert ("play", "ANNA LEE") in prepared.held_out
    training = [s for s in prepared.segments if prepared.split[s.id] == "train"]
    assert all("ANNA AND BEN" not in segment.speakers for segment in training)
    assert any(row.detail == "ANNA LEE" for row in prepared.dropped)


def test_a_test_scene_holds_characters_of_the_training_alone() -> None:
    for seed in range(12):
        prepared = prepare([script(4)], LabelSettings(CUT, test_characters=0.2, test_scenes=0.5, seed=seed))
        parts = {s: {x.key for x in prepared.segments if prepared.split[x.id] == s} for s in ("train", "test_scene")}
        assert parts["test_scene"] <= parts["train"]
        if any(row.reason == "a test scene of somebody not in training" for row in prepared.dropped):
            return
    pytest.fail("no draw left anybody without training segments, so nothing was tested")


def test_mixed_scenes_can_be_kept(tmp_path: Path) -> None:
    strict, kept = (
        prepare([script()], LabelSettings(CUT, test_characters=0.3, keep_mixed=keep)).split.values()
        for keep in (False, True)
    )
    assert list(strict).count("train") < list(kept).count("train")


def test_generated_examples_come_from_training_segments() -> None:
    settings = LabelSettings(CUT, test_characters=0.2, test_scenes=0.3, generate=3)
    prepared = prepare([script()], settings)
    requests = make_requests(prepared, settings)
    assert requests and all(prepared.split[s.id] == "train" for request in requests for s in request.examples)
    assert len({request.id for request in requests}) == len(requests)


def test_what_lies_far_from_the_centre_is_dropped(tmp_path: Path) -> None:
    settings = LabelSettings(CUT, test_characters=0.0, test_scenes=0.0, generate=3)
    _, dataset = built(tmp_path, settings)
    generated = [r for r in dataset.records["train"] if r.origin is not None and r.origin.generated]
    assert len(generated) == 2 * len(dataset.characters)
    for record in generated:
        assert record.origin is not None and record.origin.distance is not None
        assert record.origin.distance <= 0.5 * math.sqrt(5) + 1e-9
    far = [row for row in dataset.dropped if row.reason == "far from the centre"]
    assert len(far) == len(dataset.characters)
    assert all((row.kept, row.generated) == (2, 3) for row in dataset.characters)


def test_labels_and_centres(tmp_path: Path) -> None:
    _, dataset = built(tmp_path, LabelSettings(CUT, test_characters=0.0, test_scenes=0.0))
    for row in dataset.characters:
        assert row.centre is not None and row.centre[2] == pytest.approx(PEOPLE[row.character])
        assert row.centre[0] == row.centre[1] == row.centre[3] == row.centre[4] == 0
    for record in dataset.records["train"]:
        answer = "\n".join(turn.content for turn in record.messages if turn.role == "assistant")
        assert record.personality is not None and record.personality[2] == level(answer)
        assert record.judge is not None and record.judge.model == "words"
        assert record.messages[0].role == "user" and record.messages[-1].role == "assistant"


def test_outliers_are_dropped_or_flagged(tmp_path: Path) -> None:
    for handled in ("drop", "keep"):
        settings = LabelSettings(CUT, test_characters=0.0, test_scenes=0.0, outliers=handled)  # type: ignore[arg-type]
        _, dataset = built(tmp_path, settings, script(outlier=True))
        (anna,) = [row for row in dataset.characters if row.character == "ANNA"]
        assert anna.outliers == 1 and anna.centre is not None and anna.centre[2] == pytest.approx(3)
        flagged = [record for record in dataset.records["train"] if record.origin is not None and record.origin.outlier]
        dropped = [row for row in dataset.dropped if row.reason == "outlier"]
        assert (len(flagged), len(dropped)) == ((0, 1) if handled == "drop" else (1, 0))


@pytest.mark.parametrize(("label", "integers"), [("centre", False), ("centre", True), ("segment", True)])
def test_label_options(label: str, integers: bool, tmp_path: Path) -> None:
    settings = LabelSettings(CUT, label=label, integers=integers)  # type: ignore[arg-type]
    _, dataset = built(tmp_path, settings)
    for record in dataset.records["train"]:
        assert record.personality is not None and record.origin is not None and record.origin.centre is not None
        wanted = record.origin.centre if label == "centre" else record.origin.scores
        assert record.personality == pytest.approx([round(x) for x in wanted] if integers else wanted)


def test_repetitions_go_and_the_one_for_testing_stays() -> None:
    source = script()
    text = "\n\nINT. AGAIN - DAY\n\nANNA\n" + words("ANNA", 0) + "\n"
    again = read_fountain(text.split("\n"), "play")
    again.scenes[0].number = 999
    source.scenes += again.scenes
    prepared = prepare([source], LabelSettings(CUT, test_scenes=0.5, seed=3))
    answers = [segment.answer for segment in prepared.segments]
    assert answers.count(words("ANNA", 0)) == 1
    assert [row.reason for row in prepared.dropped].count("repeats words") == 1


def test_nothing_is_judged_or_written_twice(tmp_path: Path) -> None:
    settings = LabelSettings(CUT, generate=2)
    prepared = prepare([script()], settings)
    first, judge = scorer(tmp_path)
    echo = Echo()
    build(prepared, settings, first, Writer(lambda: echo, {"k": 1}, tmp_path / "g.jsonl"))
    asked = len(judge.asked)
    first.store.close()  # as when the process ends
    again, second = scorer(tmp_path)
    other = Echo()
    build(prepared, settings, again, Writer(lambda: other, {"k": 1}, tmp_path / "g.jsonl"))
    assert asked and not second.asked and echo.asked and not other.asked


def test_a_grown_folder_costs_only_what_is_new(tmp_path: Path) -> None:
    settings = LabelSettings(CUT)
    first, judge = scorer(tmp_path)
    one = script()
    build(prepare([one], settings), settings, first, None)
    before = len(judge.asked)
    two = script(scenes=6)
    two.name = "sequel"
    for scene in two.scenes:
        for speech in scene.speeches:
            speech.parts = [
                replace(p, text=p.text.replace("thing", "item").replace("matter", "topic")) for p in speech.parts
            ]
    prepared = prepare([one, two], settings)
    build(prepared, settings, first, None)
    assert before < len(judge.asked) <= before + sum(s.script == "sequel" for s in prepared.segments) + 60
    assert len({pair for pair in judge.asked}) == len(judge.asked)


def test_what_was_written_stays_when_the_folder_grows(tmp_path: Path) -> None:
    settings = LabelSettings(CUT, generate=1)
    requests = make_requests(prepare([script()], settings), settings)
    count = {"calls": 0}

    class Numbered:
        def write(self, batch: Sequence[DialogueRequest]) -> list[str | None]:
            count["calls"] += 1
            return [f"text {count['calls']}" for _ in batch]

    Writer(Numbered, {}, tmp_path / "g.jsonl").write(requests[1:4])
    writer = Writer(Numbered, {}, tmp_path / "g.jsonl")
    writer.write(requests[:8])
    assert [writer.words(request) for request in requests[:5]] == ["text 2", "text 1", "text 1", "text 1", "text 2"]


def test_another_judges_scores_are_refused(tmp_path: Path) -> None:
    scorer(tmp_path)
    with pytest.raises(ValueError, match="another run"):
        DialogueScorer(WordsJudge, {"kind": "other"}, tmp_path / "scores.jsonl", "x")


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="--min-segments"):
        prepare([script(scenes=1)], LabelSettings(CUT, min_segments=50))


@pytest.mark.parametrize(
    "options",
    [
        {"min_segments": 0},
        {"test_characters": 1.0},
        {"test_scenes": -0.1},
        {"similarity": 0},
        {"near": 0},
        {"label": "x"},
        {"outliers": "x"},
        {"generate": -1},
    ],
)
def test_bad_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r'must|is "|are "'):
        LabelSettings(**options)  # type: ignore[arg-type]


SCORES = st.tuples(*[st.floats(-5, 5)] * 5)


@given(st.lists(SCORES, min_size=1, max_size=12))
def test_a_centre_lies_among_its_segments(rows: list[tuple[float, float, float, float, float]]) -> None:
    centre = Centre.of(rows)
    for i in range(5):
        column = [row[i] for row in rows]
        assert min(column) - 1e-9 <= centre.mean[i] <= max(column) + 1e-9
        assert 0 <= centre.spread[i] <= 5 + 1e-9
    assert centre.count <= len(rows) and centre.judged == (len(rows),) * 5 and centre.radius >= 0.5 * math.sqrt(5)


def test_a_centre_by_hand() -> None:
    rows = [(0.0, 0.0, x, 0.0, 0.0) for x in (1.0, 2.0, 3.0, 2.0, 2.0, -5.0)]
    centre = Centre.of(rows)
    assert centre.mean[2] == pytest.approx(2.0) and centre.count == 5
    assert centre.spread[2] == pytest.approx(math.sqrt(0.4))
    assert centre.is_outlier(rows[-1]) and not centre.is_outlier(rows[0])
    with pytest.raises(ValueError, match="no segments"):
        Centre.of([])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MARGOT: Well, yes!", "Well, yes!"),
        ('"Well, yes!"', "Well, yes!"),
        ("(laughs) Well. [exits] Yes! And then I", "Well. Yes!"),
        ("*sighs*\nFine.", "Fine."),
        ("Well, yes! MARGOT: And no.\nTOBIAS: No?", "Well, yes!"),
        ("Yes! </thought> No.", "Yes! No."),
        ("no end of a sentence", "no end of a sentence"),
        ("[exits]", None),
    ],
)
def test_generated_text_is_cleaned(text: str, expected: str | None) -> None:
    assert clean(text) == expected


def test_files_card_and_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("matplotlib")
    settings = LabelSettings(CUT, test_characters=0.2, test_scenes=0.2, generate=2)
    prepared, dataset = built(tmp_path / "work", settings)
    out = tmp_path / "data"
    manifest = write_dataset(out, dataset, prepared, settings, "Counts words.", {"judge": {"kind": "words"}})
    for split, count in manifest["records"].items():
        records = list(read_records(out / f"{split}.jsonl", DialogueRecord))
        assert len(records) == count > 0
        assert records == dataset.records[split]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == manifest["records"]
    row = loaded["test_character"][0]
    assert set(row) == set(DialogueRecord.model_fields) and len(row["personality"]) == 5
    assert row["messages"][-1]["role"] == "assistant" and row["origin"]["generated"] is False
    card = (out / "README.md").read_text(encoding="utf-8")
    for text in ("Counts words.", "test_character", "| ANNA |", "scores.png", "dpg_fast's own"):
        assert text in card
    assert str(tmp_path) not in card + json.dumps(manifest)
    for name in ("scores.png", "characters.png"):
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_empty_split_leaves_no_file_behind(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for share, there in ((0.2, True), (0.0, False)):
        settings = LabelSettings(CUT, test_characters=share, test_scenes=share)
        prepared, dataset = built(tmp_path / "work", settings)
        write_dataset(tmp_path / "data", dataset, prepared, settings, "Counts words.", {}, plots=False)
        assert (tmp_path / "data" / "test_scene.jsonl").exists() is there
    loaded = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
