"""Folders go on past files that cannot be read, and say what they left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.data.scripts import read_corpus, read_script
from dpg_fast.data.scripts.corpus import doubtful_merges

CASES = Path(__file__).parent / "cases"


def test_a_folder_goes_on_past_what_is_no_script(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    shutil.copytree(CASES / "07_folder_with_stray_text", folder)
    (folder / "notes.rtf").write_text("{\\rtf1 }")
    (folder / "poster.jpg").write_bytes(b"\xff\xd8")
    (folder / "film.aliases.json").write_text("{}")
    corpus = read_corpus(folder)
    assert [(script.name, script.format) for script in corpus.scripts] == [("draft", "fdx"), ("film", "fountain")]
    assert corpus.speeches == 4
    assert set(corpus.unread) == {"LICENSE.txt", "empty.txt"} and "is empty" in corpus.unread["empty.txt"]
    assert corpus.passed_over == {".rtf": 1, ".jpg": 1}

    result = CliRunner().invoke(app, ["data", "scripts", "read", str(folder), "--out", str(tmp_path / "x.jsonl")])
    told = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "2 of 4 files read: 4 speeches, 13 words, 4 speakers" in told
    for part in ("LICENSE.txt: neither scene headings", "empty.txt: is empty", "1 .jpg, 1 .rtf"):
        assert part in told
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 4


def test_a_folder_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Only prose.")
    (tmp_path / "b.fountain").write_text("\n \n")
    with pytest.raises(ValueError, match=r"none of the 2 files of .* could be read; a\.txt: neither"):
        read_corpus(tmp_path)
    with pytest.raises(ValueError, match="unknown format 'plays'"):
        read_corpus(tmp_path, format="plays")


@pytest.mark.parametrize("ending", ["fountain", "srt", "vtt", "jsonl", "json", "csv", "txt", "fdx"])
@pytest.mark.parametrize("content", ["", "\n  \n", "\ufeff"])
def test_an_empty_file_says_so(ending: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{ending}"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"a.{ending} is empty"):
        read_script(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.fountain", "INT. HALL - DAY\n\nNobody says a word.\n" * 3),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nNobody is named.\n"),
        ("a.jsonl", '{"title": "no turns"}\n'),
        ("a.json", '{"name": "package", "version": 1}'),
        ("a.csv", "speaker,text\n,\n"),
        ("a.txt", "[20:11] <ann>\n"),
    ],
)
def test_a_file_that_yields_nothing_says_so_and_the_status_is_1(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    format = "chats" if name.endswith(".txt") else None
    assert any("no speech was found" in problem.what for problem in read_script(file, format=format).problems)
    options = ["--format", format] if format else []
    result = CliRunner().invoke(app, ["data", "scripts", "read", str(file), *options])
    assert result.exit_code == 1 and "no speech was found" in " ".join(result.output.split())


def test_a_file_that_yields_far_less_than_its_size_suggests_says_so(tmp_path: Path) -> None:
    file = tmp_path / "a.fountain"
    action = "He walks along the long road and says nothing at all.\n\n" * 60
    file.write_text(f"INT. HALL - DAY\n\n{action}ANNA\nHi.\n")
    assert "little speech was found: 1 of the file's 666 words" in [p.what for p in read_script(file).problems]
    file.write_text("INT. HALL - DAY\n\n" + "ANNA\nI have a great deal to say to you about this.\n\nHe nods.\n\n" * 40)
    assert not read_script(file).problems


def test_merges_of_a_rare_name_with_a_frequent_one_are_doubtful(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(
        "\n".join(["ACT I", "", *["MARK: Yes.", "", "ANNA: No.", ""] * 30, "ACT II", "", "MARK JAYNE: Well."])
    )
    script = read_script(file)
    if script.merged:
        assert doubtful_merges(script) == list(script.merged.items())
    script.merged = {"MARK": "MARK JAYNE"}
    assert doubtful_merges(script) == [("MARK", "MARK JAYNE")]
    script.merged = {"MARK": "ANNA"}
    assert doubtful_merges(script) == []
