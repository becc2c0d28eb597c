"""Blind pairs: what the sheet hides, and what a filled sheet scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.evaluation.witnesses.pairs import score_pairs, write_pairs

QUESTIONS = [f"Question {n}?" for n in range(6)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    answers = [
        {"method": method, "trait": trait, "level": level, "question": question, "answer": said, "scores": {}}
        for method in ("bare", "ours", "still")
        for trait in ("extraversion", "neuroticism")
        for level in (-5.0, 0.0, 5.0)
        for question in QUESTIONS
        for said in [f"={method} {trait} {level:g}" if method == "ours" else "the same"]
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps({"levels": [-5.0, 0.0, 5.0], "answers": answers}))
    return tmp_path / "run"


def read(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(newline="") as file:
        return list(csv.DictReader(file))


def fill(sheet: Path, marks: list[str]) -> None:
    rows = read(sheet)
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([{**row, "higher": mark} for row, mark in zip(rows, marks, strict=True)])


def high_side(row: dict[str, str]) -> str:
    return "A" if row["A"].endswith(" 5") else "B"


def test_the_sheet_hides_the_sides_and_is_scored(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    sheet, count, alike = write_pairs(results, out)
    rows = read(sheet)
    assert (count, alike) == (12, 12) == (len(rows), 2 * len(QUESTIONS))  # "still" says the same at both ends
    assert {high_side(row) for row in rows} == {"A", "B"} and not any(row["higher"] for row in rows)
    assert not {"method", "level"} & set(rows[0]) and all(row["A"].startswith(" =") for row in rows)  # no formulas
    assert [row["question"] for row in rows] != sorted(row["question"] for row in rows)
    right = [high_side(row) for row in rows]
    wrong = "B" if right[0] == "A" else "a"
    marks = [wrong, "?", *(mark.lower() for mark in right[2:])]
    fill(sheet, marks)
    found = score_pairs(sheet, out / "key.json").methods
    ours, still = found["ours"]["all"], found["still"]["all"]
    assert (ours.right, ours.wrong, ours.open, ours.alike) == (10, 1, 1, 0)
    assert (still.right, still.wrong, still.open, still.alike, still.share) == (0, 0, 12, 12, None)
    share = ours.share
    assert share is not None and share[0] == pytest.approx(10 / 11)
    assert share[1:] == pytest.approx((0.6226, 0.9838), abs=1e-3)  # Wilson's interval of 10 of 11
    assert found["ours"]["extraversion"].right + found["ours"]["neuroticism"].right == 10


def test_files_that_do_not_belong_together_are_refused(results: Path, tmp_path: Path) -> None:
    sheet, _, _ = write_pairs(results, tmp_path / "a", methods=["ours"], limit=2)
    key = tmp_path / "a" / "key.json"
    assert len(read(sheet)) == 4
    for marks, message in ((["A"] * 3 + [""], "higher is A, B or [?], not 'empty'"), (["A"] * 3 + ["x"], "not 'X'")):
        fill(sheet, marks)
        with pytest.raises(ValueError, match=message):
            score_pairs(sheet, key)
    fill(sheet, ["A"] * 4)
    lines = sheet.read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:-1]), "rows were left out"),
        ("\n".join([*lines, lines[-1]]), "there twice"),
        ("x,y\n1,2", "no columns pair and higher"),
    ):
        sheet.write_text(text + "\n")
        with pytest.raises(ValueError, match=message):
            score_pairs(sheet, key)
    for options, message in (({"methods": ["ghost"]}, "ghost; it has ours, still"), ({}, "there already")):
        with pytest.raises(ValueError, match=message):
            write_pairs(results, tmp_path / ("b" if options else "a"), **options)  # type: ignore[arg-type]


def test_the_commands(results: Path, tmp_path: Path) -> None:
    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, ["assess", *map(str, arguments)], env={"COLUMNS": "200"})

    out = tmp_path / "pairs"
    written = run("pairs", results, "--out", out, "--methods", "ours")
    assert written.exit_code == 0 and "12 pairs written" in written.output
    fill(out / "sheet.csv", [high_side(row) for row in read(out / "sheet.csv")])
    scored = run("score-pairs", out, "--out", tmp_path / "scores.json")
    assert scored.exit_code == 0 and "12 / 0 / 0" in scored.output
    assert json.loads((tmp_path / "scores.json").read_text())["ours"]["all"]["right"] == 12
    refused = run("pairs", results, "--out", out)
    assert refused.exit_code == 2 and "there already" in refused.output
