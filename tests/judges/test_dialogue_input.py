"""What `assess judge` reads: messages of any usual form, own ids, scripts; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.data.scripts import read_corpus
from dpg_fast.data.scripts.display import show_corpus
from dpg_fast.judges.dialogue_input import read_dialogues
from dpg_fast.judges.dialogue_run import JudgedItem, read_items

INPUTS = Path(__file__).parent / "inputs"
ANSWER = "Yes, twice, and I enjoyed it."


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def target_texts(item: JudgedItem[Any]) -> tuple[str, ...]:
    assert item.subject is not None, item.problem
    return item.subject.target_texts


@pytest.mark.parametrize("name", ["21_judge_bom.jsonl", "21_judge_openai.jsonl", "21_judge_tool.jsonl"])
def test_cases(name: str) -> None:
    (item,) = read_items(INPUTS / name)
    assert target_texts(item) == (ANSWER,)


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
            ]
        },
        {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": ANSWER}]},
        {
            "messages": [{"role": "developer", "content": "Be kind."}, {"role": "assistant", "content": ANSWER}],
            "tools": [{"type": "x"}],
        },
        {
            "messages": [
                {"role": "function", "content": "ok"},
                {"role": "assistant", "content": ANSWER, "tool_calls": None},
            ],
            "metadata": {},
        },
    ],
)
def test_forms_of_training_sets(row: dict[str, Any], tmp_path: Path) -> None:
    plain = {"messages": [{"role": "assistant", "content": ANSWER}]}
    first, second = read_items(write(tmp_path / "a.jsonl", row | {"id": "mine-7"}, plain))
    assert target_texts(first) == target_texts(second) == (ANSWER,)
    assert first.place["id"] == "mine-7" and "id" not in second.place


def test_an_id_does_not_change_what_is_judged(tmp_path: Path) -> None:
    row = {"messages": [{"role": "assistant", "content": ANSWER}], "source": "x"}
    first, second = read_items(write(tmp_path / "a.jsonl", row, row | {"id": 3, "source": "y"}))
    assert second.key == f"{first.key}-2"


def test_the_output_of_scripts_is_judged_scene_by_scene(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ACT I\n\nAnna: Hi.\nBen: Ho.\n\nACT II\n\nBen: Alone.\n\nACT III\n\nAnna: Well.\n")
    show_corpus(read_corpus(tmp_path / "a.txt"), out=tmp_path / "x.jsonl")
    items = list(read_items(tmp_path / "x.jsonl", "Anna"))
    assert [target_texts(item) for item in items] == [("Hi.",), ("Well.",)]
    assert [item.place["id"] for item in items] == ["a, scene 1", "a, scene 3"]
    with pytest.raises(ValueError, match="name who is judged with --target"):
        list(read_dialogues(tmp_path / "x.jsonl"))
    with pytest.raises(ValueError, match="nobody named 'Otto' speaks; speakers: ANNA, BEN"):
        list(read_dialogues(tmp_path / "x.jsonl", "Otto"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.jsonl is empty: there is nothing to judge"),
        ("\ufeff\n \n", r"a\.jsonl is empty"),
        ("[1]", r"a\.jsonl, line 1: messages are missing or empty; expected .*messages"),
        ('{"messages": []}', "line 1: messages are missing"),
        ('{"messages": [{"role": "assistant", "content": null}]}', "no message holds words"),
        (
            '{"messages": [{"role": "narrator", "content": "x"}]}',
            r"messages\.0\.role: 'narrator' is unknown; accepted: system",
        ),
        ('{"messages": [{"role": "user", "content": {"a": 1}}]}', r"messages\.0\.content: neither a text nor a list"),
        ('{"messages": ["Hi"]}', r"messages\.0: a message is an object"),
        (
            '{"messages": [{"role": "user", "content": "x"}], "charcter": "Ann"}',
            "unknown key 'charcter'; is 'character' meant",
        ),
        ('{"messages": [{"role": "user", "content": "x"}], "personality": [9, 0, 0, 0, 0]}', "personality"),
    ],
)
def test_what_is_no_dialogue_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list(read_dialogues(tmp_path / "a.jsonl"))
