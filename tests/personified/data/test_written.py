"""Examples written by hand: read, shown to the model, put among the records; and several candidates for an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.personified.data.material import load_character
from dpg_fast.personified.data.pairs import stage_pairs
from dpg_fast.personified.data.record import LostItem, split_reply
from dpg_fast.personified.data.writing import read_personified
from dpg_fast.personified.data.written import choose, load_examples
from dpg_fast.text.records import read_records
from tests.llm.server import Answer, last_user, serve
from tests.personified.data.annotator import Annotator, schema, write_character
from tests.support import ROOT

for module in ("openai", "py3langid", "sklearn", "yaml"):
    pytest.importorskip(module)
SHIPPED = ROOT / "recipes" / "characters"
OWN: dict[str, Any] = {
    "source": "written",
    "id": "w1",
    "kind": "error",
    "paragraph": "early/knowledge/texts.txt#1",
    "question": "Did you learn your trade from a king in Hallam?",
    "analysis": "They speak of a king, and it was a baker; I set it right.",
    "stance": "corrects",
    "response": "No king ever taught me a thing, it was a baker, and he was strict.",
}
OTHER: dict[str, Any] = {
    "source": "written",
    "id": "w1",
    "asked_of": "early",
    "analysis": "They ask the old woman; I have forgotten who it was.",
    "stance": "does not know",
    "response": "I could not tell you any more, so many people taught me things.",
}
SECOND = OWN | {
    "id": "w2",
    "paragraph": "early/knowledge/texts.txt#2",
    "question": "You never met any sailor, did you?",
}
LATE = OWN | {
    "id": "w9",
    "paragraph": "late/style/texts.txt#1",
    "question": "You were born in a palace, people tell me?",
}


def write(folder: Path, early: list[dict[str, Any]], late: list[dict[str, Any]]) -> Path:
    if not folder.exists():
        write_character(folder)
    for stage, rows in (("early", early), ("late", late)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / stage / "examples.jsonl").write_text(text, encoding="utf-8")
    return folder


def build(folder: Path, url: str, *more: str, code: int = 0) -> str:
    arguments = [
        "data",
        "personified",
        "build",
        str(folder / "ada"),
        "--out",
        str(folder / "out"),
        "--writer-model",
        "m",
    ]
    arguments += ["--writer-url", url, "--general", "0", "--cross", "0", "--no-verify", "--rounds", "1", *more]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + result.stderr
    return result.output + result.stderr


@pytest.mark.parametrize("name", ["marit_oss", "anselm_voss"])
def test_the_shipped_examples_pass_the_rules_and_give_pairs(name: str, tmp_path: Path) -> None:
    character = load_character(SHIPPED / name)
    for kind in ("knowledge", "style"):
        assert sum(len(getattr(stage, kind)) for stage in character.stages) >= 40
    examples = load_examples(SHIPPED / name, character)
    out = tmp_path / name
    arguments = ["data", "personified", "build", str(SHIPPED / name), "--out", str(out), "--writer-model", "none"]
    arguments += [
        "--writer-url",
        "http://127.0.0.1:9/v1",
        "--items",
        "0",
        "--general",
        "0",
        "--cross",
        "0",
        "--written",
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    records, cross = read_personified(out)
    assert not list(read_records(out / "lost.jsonl", LostItem))
    assert len(records) + len(cross) == len(examples)
    assert all(r.annotation.model == "written" and not r.annotation.verified for r in (*records, *cross))
    for stage in ("early", "late"):
        assert sum(r.stage == stage for r in records) >= 38
        assert {r.kind for r in records if r.stage == stage} == {"ordinary", "thought", "error"}
        assert sum(r.stage == stage for r in cross) >= 8
    assert len(stage_pairs(records, cross).pairs) >= 20


def test_examples_are_shown_as_turns_of_a_chat_and_fenced(tmp_path: Path) -> None:
    write(tmp_path / "ada", [OWN, SECOND], [LATE])
    with serve(Annotator()) as server:
        build(tmp_path, server.url, "--shots", "3", "--items", "4", "--error", "1", "--ordinary", "0", "--thought", "0")
        bodies = server.requests
    shown = 0
    for body in bodies:
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", *["user", "assistant"] * ((len(roles) - 2) // 2), "user"]
        for asked, said in zip(body["messages"][1:-1:2], body["messages"][2:-1:2], strict=True):
            shown += 1
            assert "-" in asked["content"] and "<" in asked["content"]  # in a fence
            reply = json.loads(said["content"])
            assert reply.get("stance", "corrects") == "corrects"
            if schema(body) == "UserTurn":  # the paragraph asked about is not among those shown
                assert asked["content"].split("\n\n", 1)[1] != last_user(body).split("\n\n", 1)[1]
        if len(roles) > 2 and schema(body) == "GoldenAnswer":
            assert "observatory" not in body["messages"][0]["content"]  # the examples by another person make way
    assert shown > 4


def test_candidates_until_one_passes(tmp_path: Path) -> None:
    write_character(tmp_path / "ada")

    def script(body: dict[str, Any], number: int) -> Answer:
        answer = Annotator()(body, number)
        if schema(body) == "GoldenAnswer":
            tries[last_user(body)] = tries.get(last_user(body), 0) + 1
            if tries[last_user(body)] < 3:
                known = last_user(body).split("\n\n")[0].splitlines()[2]
                return Answer(json.dumps(json.loads(answer.content or "") | {"response": known}))  # a mere copy
        return answer

    tries: dict[str, int] = {}
    with serve(script) as server:
        few = build(tmp_path, server.url, "--items", "2", "--candidates", "2", code=1)
        assert "copies its source" in few and "What fell" in few
        tries.clear()
        (tmp_path / "out" / "replies.sqlite").unlink()
        build(tmp_path, server.url, "--items", "2", "--candidates", "3")
        asked = len(server.requests)
        build(tmp_path, server.url, "--items", "2", "--candidates", "3")
        assert len(server.requests) == asked  # candidates are stored as well
    assert set(tries.values()) == {3}
    records, _ = read_personified(tmp_path / "out")
    assert len(records) == 4 and not list(read_records(tmp_path / "out" / "lost.jsonl", LostItem))
    refused = list(read_records(tmp_path / "out" / "refused.jsonl", LostItem))
    assert len(refused) == 8 and {item.reason for item in refused} == {"copies its source"}


@pytest.mark.parametrize("part", ["analysis", "response"])
def test_a_demonstration_handed_back_is_a_copy(tmp_path: Path, part: str) -> None:
    write(tmp_path / "ada", [OWN, SECOND], [LATE])
    with serve(Annotator(GoldenAnswer={"response": OWN[part]})) as server:
        printed = build(tmp_path, server.url, "--items", "2", "--shots", "1", code=1)
    assert "copies its source" in printed


def test_a_demonstrated_question_is_a_repetition(tmp_path: Path) -> None:
    write(tmp_path / "ada", [OWN, SECOND], [LATE])
    with serve(Annotator(UserTurn={"text": OWN["question"]})) as server:
        printed = build(tmp_path, server.url, "--items", "2", "--shots", "1", code=1)
    assert "repeats a question" in printed


def test_written_records_stand_beside_generated_ones(tmp_path: Path) -> None:
    write(tmp_path / "ada", [OWN, SECOND], [LATE, OTHER])
    with serve(Annotator()) as server:
        build(tmp_path, server.url, "--items", "3", "--written")
    records, cross = read_personified(tmp_path / "out")
    hand = [r for r in records if r.annotation.model == "written"]
    assert sorted(r.id for r in hand) == ["early-error-w1", "early-error-w2", "late-error-w9"]
    assert len(records) == 9 and all(r.annotation.model == "m" for r in records if r not in hand)
    first = next(r for r in hand if r.id == "early-error-w1")
    assert first.source == OWN["paragraph"] in first.knowledge
    assert split_reply(first.answer) == (OWN["analysis"], OWN["response"])
    assert [(r.id, r.stage, r.asked_of, r.question) for r in cross] == [
        ("early-error-w1@late", "late", "early", OWN["question"])
    ]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["written_by_hand"] == 3


def test_shots_avoid_the_paragraph_that_is_asked_about(tmp_path: Path) -> None:
    character = load_character(write(tmp_path / "ada", [OWN, SECOND], [LATE]))
    examples = load_examples(tmp_path / "ada", character)
    early = character.stages[0]
    assert {s.question for s in choose(examples, early, "error", None, 5, "a")} == {OWN["question"], SECOND["question"]}
    only = choose(examples, early, "error", early.knowledge[0], 5, "a")
    assert [shot.question for shot in only] == [SECOND["question"]]
    assert choose(examples, early, "ordinary", None, 5, "a") == []


@pytest.mark.parametrize(
    ("early", "late", "message"),
    [
        ([OWN | {"paragraph": "early/knowledge/none.txt#1"}], [LATE], "line 1: stage 'early' has no paragraph"),
        ([OWN, OWN], [LATE], "line 2: the id 'w1' is taken"),
        ([OWN | {"source": "smollm2"}], [LATE], "line 1: source: Input should be 'written'"),
        ([{k: v for k, v in OWN.items() if k != "kind"}], [LATE], "kind, paragraph and question are needed"),
        ([OWN], [LATE, OTHER | {"question": "Who?"}], "are those of the other stage's example"),
        ([OWN], [LATE, OTHER | {"id": "w7"}], "line 2: another stage 'early' with an example 'w7' is wanted"),
        ([OWN], [], "no written examples for the stages late"),
    ],
)
def test_wrong_examples(tmp_path: Path, early: list[dict[str, Any]], late: list[dict[str, Any]], message: str) -> None:
    write(tmp_path / "ada", early, late)
    printed = build(tmp_path, "http://127.0.0.1:9/v1", "--items", "2", "--written", code=2)
    assert message in " ".join(printed.split())


@pytest.mark.parametrize("line", [b"{not json\n", b"\xff\xfe\x00"])
def test_a_line_that_is_not_json(tmp_path: Path, line: bytes) -> None:
    write(tmp_path / "ada", [OWN], [LATE])
    (tmp_path / "ada" / "early" / "examples.jsonl").write_bytes(line)
    printed = build(tmp_path, "http://127.0.0.1:9/v1", "--items", "2", "--shots", "1", code=2)
    found = "examples.jsonl, line 1: Invalid JSON" if line.startswith(b"{") else "examples.jsonl: not UTF-8 text"
    assert found.split()[0].split("/")[-1] in printed and found.partition(" ")[2] in " ".join(printed.split())
