"""What a run continues from, and what it refuses to continue from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dpg_fast.text.records import DialogueRecord, Turn, write_records
from dpg_fast.train import LessonSettings, TeacherSettings, load_settings, make_lessons, run_training, text_sources
from dpg_fast.train.resume import last_whole_checkpoint


@pytest.fixture
def project(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> Path:
    """A base model, two records and settings of a run of four steps."""
    tiny_llama.save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    _write_records(tmp_path, "Yes!")
    settings = {
        "output": str(tmp_path / "out"),
        "model": str(tmp_path / "base"),
        "dtype": "float32",
        "data": {"records": str(tmp_path / "records.jsonl"), "visits": 4},
        "hypernet": {"rank": 2, "codes": 2, "hidden": 8, "depth": 1},
        "trainer": {
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "max_steps": 4,
            "save_steps": 1,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def _write_records(folder: Path, said: str) -> None:
    turns = [Turn(role="user", content="Well?"), Turn(role="assistant", content=said)]
    records = [DialogueRecord(messages=turns, personality=(0, 0, e, 0, 0), source="test") for e in (4, -4)]
    write_records(folder / "records.jsonl", records)


def test_a_checkpoint_that_a_killed_run_left_unfinished_is_passed_over(project: Path) -> None:
    assert last_whole_checkpoint(project / "out") is None
    run_training(load_settings(project / "run.yaml", ["trainer.max_steps=2"]))
    assert last_whole_checkpoint(project / "out") == str(project / "out" / "checkpoint-2")
    unfinished = project / "out" / "checkpoint-3"  # as it is when the process dies while the Trainer writes it
    unfinished.mkdir()
    (unfinished / "hypernet.safetensors").write_bytes(
        (project / "out" / "checkpoint-2" / "hypernet.safetensors").read_bytes()
    )
    (project / "out" / "checkpoint-10").mkdir()
    (project / "out" / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 1')
    assert last_whole_checkpoint(project / "out") == str(project / "out" / "checkpoint-2")
    run_training(load_settings(project / "run.yaml"))
    state = json.loads((project / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4 and [row["step"] for row in state["log_history"] if "loss" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trainer.learning_rate=0.02", "trainer.learning_rate"),
        ("hypernet.rank=4", "hypernet.rank"),
        ("data.visits=8", "data.visits"),
        ("trainer.seed=7", "trainer.seed"),
    ],
)
def test_checkpoints_of_another_run_are_refused(project: Path, override: str, named: str) -> None:
    run_training(load_settings(project / "run.yaml", ["trainer.max_steps=1"]))
    with pytest.raises(ValueError, match=f"another run, which differs in {named}"):
        run_training(load_settings(project / "run.yaml", [override]))
    run_training(load_settings(project / "run.yaml", ["trainer.logging_steps=2"]))  # what is learnt stays the same


def test_other_records_or_weights_are_refused_too(project: Path, tiny_llama: Any) -> None:
    run_training(load_settings(project / "run.yaml", ["trainer.max_steps=1"]))
    _write_records(project, "No!")
    with pytest.raises(ValueError, match=r"content of data.records"):
        run_training(load_settings(project / "run.yaml"))
    _write_records(project, "Yes!")
    torch.nn.init.normal_(tiny_llama.model.embed_tokens.weight)
    tiny_llama.save_pretrained(project / "base")
    with pytest.raises(ValueError, match="base model's weights"):
        run_training(load_settings(project / "run.yaml"))


def test_records_are_looked_at_before_anything_is_loaded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr("dpg_fast.train.run.load_base", load)
    with pytest.raises(FileNotFoundError, match=r"none.jsonl"):
        run_training(load_settings(project / "run.yaml", [f"data.records={project / 'none.jsonl'}"]))
    (project / "bad.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 1"):
        run_training(load_settings(project / "run.yaml", [f"data.records={project / 'bad.jsonl'}"]))
    turns = [Turn(role="user", content="Well?"), Turn(role="assistant", content="So.")]
    write_records(project / "open.jsonl", [DialogueRecord(messages=turns, source="test")])
    with pytest.raises(ValueError, match=r"no record of .*open.jsonl has a personality"):
        run_training(load_settings(project / "run.yaml", [f"data.records={project / 'open.jsonl'}"]))


def test_lessons_of_another_base_model_are_refused(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    settings = LessonSettings(questions=1, people=1, teacher=TeacherSettings(max_new_tokens=2, candidates=4))
    make_lessons(tiny_llama, byte_tokenizer, tmp_path, settings)
    make_lessons(tiny_llama, byte_tokenizer, tmp_path, settings)
    torch.nn.init.normal_(tiny_llama.model.embed_tokens.weight)
    with pytest.raises(ValueError, match="the weights differ"):
        make_lessons(tiny_llama, byte_tokenizer, tmp_path, settings)


def test_recorded_dialogue_gets_the_instruction_that_answers_are_asked_with(byte_tokenizer: Any) -> None:
    plain = [Turn(role="user", content="Well?"), Turn(role="assistant", content="So.")]
    own = [Turn(role="system", content="Be brief."), *plain]

    def text(turns: list[Turn], system: str | None) -> str:
        record = DialogueRecord(messages=turns, personality=(1, 0, 0, 0, 0), source="test")
        (source,) = text_sources([record], byte_tokenizer, system=system)
        learnt = source.finished.tokens[source.finished.positions + 1]
        assert byte_tokenizer.decode(learnt).startswith("So.")
        return str(byte_tokenizer.decode(source.finished.tokens))

    assert "Be brief." in text(plain, "Be brief.") and text(plain, "Be brief.") == text(own, "Be kind.")
    assert "Be brief." not in text(plain, None)
