"""The journal that long jobs continue from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpg_fast.judges.journal import Journal

#: line ends of Unicode that end no line of JSON Lines, and a character of four bytes
STRANGE = "one\u2028two\u2029three\x85four\x0bfive\x1csix \U0001f600"


def test_texts_come_back_whatever_they_hold(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.jsonl", {"job": STRANGE}, ("id",))
    first.append([{"id": STRANGE, "text": STRANGE}, {"id": "b", "text": "\r\n"}])
    again = Journal(tmp_path / "j.jsonl", {"job": STRANGE}, ("id",))
    assert again.rows == first.rows and again[(STRANGE,)]["text"] == STRANGE


def test_a_line_left_unfinished_is_dropped_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    Journal(file, {}, ("id",)).append([{"id": 1, "text": "ä\u2028"}])
    whole = file.read_bytes()
    for cut in range(1, 12):  # also in the middle of a character
        file.write_bytes(whole + '{"id": 2, "ü\u2028'.encode()[:cut])
        again = Journal(file, {}, ("id",))
        assert list(again.rows) == [(1,)] and file.read_bytes() == whole
    again.append([{"id": 2}, {"id": 1, "text": "new"}])
    assert Journal(file, {}, ("id",)).rows == {(1,): {"id": 1, "text": "new"}, (2,): {"id": 2}}


def test_another_job_is_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path / "j.jsonl", {"judge": "a", "weights": 1}, ("id",))
    with pytest.raises(ValueError, match=r"another job .other judge.;"):
        Journal(tmp_path / "j.jsonl", {"judge": "b", "weights": 1}, ("id",))
    (tmp_path / "k.jsonl").write_text("no JSON\n")
    with pytest.raises(ValueError, match="not a journal"):
        Journal(tmp_path / "k.jsonl", {}, ("id",))
