"""Lessons for a writer: the builder's prompts with hand-written replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personified.data.lessons import WriterLesson
from dpg_fast.personified.data.prompts import GoldenAnswer, UserTurn
from dpg_fast.personified.data.slots import PersonifySettings, split_of
from dpg_fast.text.records import read_records
from tests.support import ROOT

for module in ("openai", "py3langid", "sklearn", "yaml"):
    pytest.importorskip(module)
SHIPPED = ROOT / "recipes" / "characters"
CHARACTERS = [SHIPPED / "marit_oss", SHIPPED / "anselm_voss"]


def examples(folder: Path) -> list[dict[str, str]]:
    lines = [line for path in folder.glob("*/examples.jsonl") for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines if line.strip()]


def lessons(out: Path, *arguments: str) -> list[WriterLesson]:
    result = CliRunner().invoke(app, ["data", "personified", "lessons", *arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return list(read_records(out, WriterLesson))


def test_every_training_example_gives_a_user_turn_and_an_answer(tmp_path: Path) -> None:
    found = lessons(tmp_path / "lessons.jsonl", *map(str, CHARACTERS))
    written = [row for folder in CHARACTERS for row in examples(folder)]
    answers = {row["response"] for row in written}
    questions = {row["question"] for row in written if "question" in row}
    steps: dict[str, int] = {"question": 0, "answer": 0}
    settings = PersonifySettings()
    for lesson in found:
        name, step = lesson.id.rsplit(" ", 1)
        steps[step] += 1
        assert split_of(name.split("@")[0], settings) == "train"
        assert [turn.role for turn in lesson.prompt] == ["system", "user", "assistant", "user"]
        reply = lesson.completion[0].content
        if step == "question":
            assert UserTurn.model_validate_json(reply).text in questions
        else:
            assert GoldenAnswer.model_validate_json(reply).response in answers
        assert reply not in [turn.content for turn in lesson.prompt]
    own = sum("question" in row for row in written)
    assert 0.7 * own < steps["question"] < 0.9 * own  # the rest are test records
    assert steps["answer"] > steps["question"]  # and those to the other stage's questions


def test_demonstrations_are_no_test_records_either(tmp_path: Path) -> None:
    settings = PersonifySettings()
    tests = set()
    for row in examples(CHARACTERS[0]):
        stage = row.get("paragraph", "/").split("/")[0]
        if "kind" in row and split_of(f"{stage}-{row['kind']}-{row['id']}", settings) == "test":
            tests |= {row["question"], row["response"]}
    found = lessons(tmp_path / "lessons.jsonl", str(CHARACTERS[0]), "--shots", "2")
    shown = "\n".join(
        json.loads(turn.content).get("response", json.loads(turn.content).get("text", ""))
        for lesson in found
        for turn in lesson.prompt
        if turn.role == "assistant"
    )
    assert len(tests) > 20 and not [text for text in tests if text in shown]


def test_the_prompts_are_those_of_build(tmp_path: Path) -> None:
    few, many = (
        lessons(tmp_path / f"{words}.jsonl", str(CHARACTERS[0]), "--shots", "0", "--knowledge-words", words)
        for words in ("60", "1300")
    )
    for short, long in zip(few, many, strict=True):
        assert short.id == long.id
        a, b = (len(lesson.prompt[-1].content.split()) for lesson in (short, long))
        assert b > a + 500 if short.id.endswith("answer") else a == b


def test_a_character_without_examples_or_twice_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for path in CHARACTERS[0].rglob("*"):
        if path.is_file() and path.name != "examples.jsonl":
            copy = bare / path.relative_to(CHARACTERS[0])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    out = tmp_path / "lessons.jsonl"
    for folders, expected in (([bare], "examples.jsonl"), ([CHARACTERS[0]] * 2, "another folder")):
        arguments = ["data", "personified", "lessons", *map(str, folders), "--out", str(out)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and expected in result.output.replace("\n", " "), result.output
    assert not out.exists()
