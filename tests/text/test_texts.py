from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_personalitybench, load_questions

ASKING = frozenset(
    (
        "a",
        "an",
        "the",
        "and",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "how",
        "what",
        "do",
        "does",
        "you",
        "your",
        "feel",
    )
)


def ngrams(text: str, n: int, leave_out: frozenset[str] = frozenset()) -> set[tuple[str, ...]]:
    words = [word for word in re.findall(r"[a-z0-9']+", text.lower()) if word not in leave_out]
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def overlap(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Shared share of the smaller set."""
    return len(a & b) / min(len(a), len(b))


def test_there_are_enough_questions_of_each_kind() -> None:
    assert len(load_questions()) >= 300
    for trait in Trait:
        assert len(load_questions(trait)) >= 60
        for split, least in (("search", 20), ("fit", 10), ("holdout", 10), ("validation", 12)):
            rows = load_questions(trait.letter, split)  # type: ignore[arg-type]
            assert len(rows) >= least
            assert all((row.trait, row.split) == (trait, split) for row in rows)


def test_questions_are_open_and_of_moderate_length() -> None:
    questions = load_questions()
    assert len({row.id for row in questions}) == len({row.question for row in questions}) == len(questions)
    for row in questions:
        assert 10 <= len(row.question.split()) <= 35, row
        assert "?" in row.question or row.question.startswith("Describe") or "Describe" in row.question, row


def test_no_two_questions_are_near_duplicates() -> None:
    grams = [(row.id, ngrams(row.question, 2, ASKING)) for row in load_questions()]
    for (a, x), (b, y) in combinations(grams, 2):
        assert overlap(x, y) < 0.35, (a, b, x & y)


@pytest.mark.parametrize("pole", POLES, ids=str)
def test_descriptions(pole: Pole) -> None:
    rows = load_descriptions(pole)
    assert len(rows) >= 18
    assert len({row.id for row in rows}) == len(rows)
    for split, least in (("search", 4), ("judge", 3), ("holdout", 3), ("validation", 4)):
        part = load_descriptions(str(pole), split)  # type: ignore[arg-type]
        assert len(part) >= least
        assert len(part) == len(load_descriptions(pole.opposite, split))  # type: ignore[arg-type]
    for row in rows:
        assert 20 <= len(row.text.split()) <= 45, row
        assert len(re.findall(r"[.!?](?:\s|$)", row.text)) <= 2, row
        assert re.search(r"\b(you|your)\b", row.text, re.IGNORECASE), row
        assert pole.trait.value not in row.text.lower(), row  # behaviour, not the label
    for a, b in combinations(rows, 2):
        assert overlap(ngrams(a.text, 4), ngrams(b.text, 4)) < 0.35, (a, b)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="search, fit, holdout, validation"):
        load_questions(split="judge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="search, judge, holdout, validation"):
        load_descriptions("E+", "fit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown trait"):
        load_questions("humour")
    with pytest.raises(ValueError, match="pole"):
        load_descriptions("E")


def test_personalitybench_files(tmp_path: Path) -> None:
    for number, trait in enumerate(Trait):
        lines = [json.dumps({"question": f" {trait} {i}? "}) for i in range(number + 1)]
        (tmp_path / f"{trait.value.capitalize()}.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    row = {t.value.capitalize() + end: f"{t.letter}{end}" for t in Trait for end in ("", "_reversed")}
    (tmp_path / "descriptions.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row), encoding="utf-8")
    bench = load_personalitybench(tmp_path)
    assert bench.questions[Trait.AGREEABLENESS] == tuple(f"agreeableness {i}?" for i in range(4))
    assert bench.descriptions[Pole.parse("N-")] == ("N_reversed", "N_reversed")
    assert set(bench.descriptions) == set(POLES)
    (tmp_path / "Openness.jsonl").write_text('{"question": "a?"}\n{"text": "b?"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"Openness.jsonl, line 2: needs the key 'question'"):
        load_personalitybench(tmp_path)
    (tmp_path / "Openness.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Openness.jsonl, line 1: not JSON"):
        load_personalitybench(tmp_path)
    (tmp_path / "Openness.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        load_personalitybench(tmp_path)
