"""Settings files, overrides and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.train import load_settings
from dpg_fast.train.run import trainer_arguments

YAML = """
output: out
data: {lessons: lessons, visits: 3}
hypernet: {rank: 4, targets: [q_proj, down_proj]}
teaching: {people: 4, teacher: {strength: 0.5}}
trainer: {learning_rate: 3e-3, max_steps: 7}
"""


def test_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(YAML)
    settings = load_settings(
        file, ["hypernet.rank=2", "trainer.learning_rate=1e-4", "data.records=[a.jsonl]", "dtype=float32"]
    )
    assert settings.hypernet.rank == 2 and settings.hypernet.targets == ("q_proj", "down_proj")
    assert settings.data.records == (Path("a.jsonl"),) and settings.data.visits == 3
    assert settings.teaching.teacher.strength == 0.5
    arguments = trainer_arguments(settings)
    assert arguments.learning_rate == 1e-4 and arguments.max_steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hypernet.size=3", "unknown settings hypernet.size"),
        ("hypernet.rank=0", "rank"),
        ("data.redraw=2", "redraw"),
        ("data.visits=often", "data.visits must be int"),
        ("dtype=int8", "dtype is one of"),
        ("teaching.people=true", "teaching.people must be int"),
        ("hypernet", "name=value"),
        ("output.x=1", "not a section"),
        ("trainer.output_dir=x", "called output"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, override: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(YAML)
    with pytest.raises(ValueError, match=message):
        load_settings(file, [override])


def test_unknown_trainer_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learning_rat"):
        trainer_arguments(load_settings(None, ["output=o", "data.lessons=l", "trainer.learning_rat=1"]))
