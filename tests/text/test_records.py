from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.personality.scores import Personality
from dpg_fast.text.records import DialogueRecord, JudgeNote, QuestionRecord, Turn, read_records, write_records

TURNS = [Turn(role="user", content="Hi\u2028there"), Turn(role="assistant", content="")]


def test_dialogues_come_back_as_written(tmp_path: Path) -> None:
    records = [
        DialogueRecord(messages=TURNS, source="made up"),
        DialogueRecord(
            messages=TURNS,
            personality=(1.5, -5, 0, 5, 0),
            character="Ada",
            stage="youth",
            source="book",
            judge=JudgeNote(model="m", prompt_version="1", cost=0.25, currency="USD"),
        ),
    ]
    assert write_records(tmp_path / "a.jsonl", iter(records)) == 2
    assert list(read_records(tmp_path / "a.jsonl", DialogueRecord)) == records
    assert records[1].get_personality() == Personality([1.5, -5, 0, 5, 0])
    assert records[0].get_personality() is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"messages": [], "source": "s"}', "messages"),
        ('{"messages": [{"role": "robot", "content": "x"}], "source": "s"}', "messages.0.role"),
        ('{"messages": [{"role": "user", "content": "x"}], "source": "s", "personality": [1, 2]}', "personality"),
        (
            '{"messages": [{"role": "user", "content": "x"}], "source": "s", "personality": [6, 0, 0, 0, 0]}',
            "personality.0",
        ),
        ('{"messages": [{"role": "user", "content": "x"}], "source": "s", "persona": 1}', "persona"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "source"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    good = DialogueRecord(messages=TURNS, source="s").model_dump_json()
    (tmp_path / "a.jsonl").write_text(f"{good}\n\n{line}\n{good}\n", encoding="utf-8")
    reader = read_records(tmp_path / "a.jsonl", DialogueRecord)
    assert next(reader).source == "s"
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: ") as caught:
        next(reader)
    assert message in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1"):
        list(read_records(tmp_path / "a.jsonl", QuestionRecord))


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_records(path, [QuestionRecord(question="old?")])

    def failing():  # type: ignore[no-untyped-def]
        yield QuestionRecord(question="new?")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_records(path, failing())
    assert [r.question for r in read_records(path, QuestionRecord)] == ["old?"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
