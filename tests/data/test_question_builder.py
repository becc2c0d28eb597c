"""Building questions: the command line against a real local server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.data.questions.builder import BuildSettings, question_calls
from dpg_fast.data.questions.examples import description_turns, shown_questions
from dpg_fast.data.questions.rules import check_description, check_question
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import load_questions
from dpg_fast.text.facets import FACETS, TOPICS
from dpg_fast.text.records import DroppedRecord, QuestionRecord, read_records
from tests.llm.server import Answer, last_user, serve

pytest.importorskip("openai")
runner = CliRunner()
PLACES = [
    "attic",
    "bakery",
    "cellar",
    "dock",
    "elevator",
    "forest",
    "garage",
    "harbour",
    "island",
    "jungle",
    "kiosk",
    "library",
    "market",
    "nursery",
    "office",
]
THINGS = [
    "an umbrella",
    "a letter",
    "a map",
    "three coins",
    "a violin",
    "a ladder",
    "old shoes",
    "a lamp",
    "a radio",
    "some bread",
    "a kite",
    "a clock",
]


def good_question(number: int) -> str:
    place, thing = PLACES[number % len(PLACES)], THINGS[number % len(THINGS)]
    return f"Behind the {place} somebody hands over {thing}, number {number}, and walks away. Would you follow {number} steps?"


def good_description(number: int) -> str:
    sentence = (
        f"You sort {number} letters before breakfast at the {PLACES[number % 15]} and hum {number} songs on your way."
    )
    return f"{sentence} In the evening {number + 100} neighbours hear about {THINGS[number % 12]} from you, one by one."


def script(body: dict[str, Any], number: int) -> Answer:
    if "portraits" in last_user(body):
        return Answer(json.dumps({"descriptions": [good_description(10 * number + i) for i in range(5)]}))
    texts = [good_question(10 * number + i) for i in range(2)]
    bad = [
        "Do you like it?",
        good_question(0),
        f"When are you disagreeable, agreeable or both on day {number} of a trip?",
    ]
    return Answer(json.dumps({"questions": [*texts, *bad]}))


def build(url: str, output: Path, *more: str) -> Any:
    arguments = [
        "questions",
        "build",
        "--out",
        str(output),
        "--writer-model",
        "m",
        "--writer-url",
        url,
        "--traits",
        "A",
        "--concurrency",
        "1",
    ]
    return runner.invoke(app, [*arguments, *more], env={"COLUMNS": "200"})


def test_build_writes_files_reports_drops_and_resumes(tmp_path: Path) -> None:
    output, prices = tmp_path / "out", tmp_path / "prices.json"
    prices.write_text(json.dumps({"models": {"m": {"input": 1.0, "output": 2.0}}}))
    options = ("--count", "10", "--descriptions", "4", "--prices", str(prices))
    with serve(script) as server:
        dry = build(server.url, output, *options, "--dry-run")
        assert dry.exit_code == 0, dry.output
        assert not output.exists() and not server.requests
        assert re.search(r"to send\W+5\b", dry.output) and "USD" in dry.output
        result = build(server.url, output, *options)
        assert result.exit_code == 0, result.output
        sent = len(server.requests)
        kept = [record.question for record in read_records(output / "Agreeableness.jsonl", QuestionRecord)]
        assert len(kept) == len(set(kept)) == 10
        dropped = list(read_records(output / "dropped.jsonl", DroppedRecord))
        reasons = {record.reason for record in dropped if record.kind == "question"}
        assert {"too short", "repeats words", "names a trait"} <= reasons
        assert all(record.similar_to for record in dropped if record.reason == "repeats words")
        lines = [json.loads(line) for line in (output / "descriptions.jsonl").read_text().splitlines()]
        assert len(lines) == 4 and all(set(line) == {"Agreeableness", "Agreeableness_reversed"} for line in lines)
        manifest = json.loads((output / "manifest.json").read_text())
        (questions, high, low) = manifest["parts"]
        assert questions["kept"] == 10 and questions["generated"] == 10 + sum(questions["dropped"].values())
        assert high["generated"] == high["kept"] + sum(high["dropped"].values()) == 5
        assert low["kept"] == 4 and manifest["served_by"] == ["m-served"]
        assert manifest["cost"]["total"] == pytest.approx(sent * (100 + 20) / 1e6)
        assert "not PersonalityBench" in manifest["what"]
        before = {p.name: p.read_bytes() for p in output.glob("*.jsonl")}
        assert build(server.url, output, *options).exit_code == 0
        assert len(server.requests) == sent
        assert {p.name: p.read_bytes() for p in output.glob("*.jsonl")} == before
        assert json.loads((output / "manifest.json").read_text())["cost"]["this_run"] == 0
        third = build(server.url, tmp_path / "third", *options, "--avoid", str(output / "Agreeableness.jsonl"))
        again = [r.question for r in read_records(tmp_path / "third" / "Agreeableness.jsonl", QuestionRecord)]
        assert not set(again) & set(kept), third.output


def by_example(body: dict[str, Any], number: int) -> Answer:
    """Repeats an example it was shown now and then, and writes a question or portrait of its own otherwise."""
    turns = body["messages"]
    assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * 2, "user"]
    shown = [json.loads(turn["content"]) for turn in turns if turn["role"] == "assistant"]
    (key,) = {name for example in shown for name in example}
    schema = body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == [key]
    assert ("portrait" in turns[-1]["content"]) == (key == "description")
    if key == "description":
        return Answer(json.dumps({key: good_description(number)}))
    return Answer(json.dumps({key: shown[0][key] if number % 4 == 3 else good_question(number)}))


def test_examples_stand_in_for_instructions(tmp_path: Path) -> None:
    options = ("--count", "6", "--descriptions", "2", "--examples", "2", "--spare", "2", "--rounds", "1")
    with serve(by_example) as server:
        result = build(server.url, tmp_path, *options)
        assert result.exit_code == 0, result.output
        sent = [request for request in server.requests if "portrait" not in last_user(request)]
    assert len(sent) == 12  # spare 2 asks for twice as many
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["prompt_version"] == "situations-by-example-1" and manifest["settings"]["examples"] == 2
    dropped = list(read_records(tmp_path / "dropped.jsonl", DroppedRecord))
    repeated = [record for record in dropped if record.reason == "repeats words"]
    own = {text for _, _, text in shown_questions(Trait.AGREEABLENESS)}
    assert repeated and all(record.text in own for record in repeated)  # what was shown is never kept
    calls = question_calls(Trait.AGREEABLENESS, BuildSettings(per_call=1, examples=5), 0, 12)
    for facet, call in zip(FACETS[Trait.AGREEABLENESS] * 2, calls, strict=True):
        *others, asked = (turn["content"] for turn in call.messages if turn["role"] == "user")
        assert facet.high in asked and len(others) == 5 and not any(facet.high in text for text in others)
    assert len({json.dumps(call.messages[1:-1]) for call in calls}) > 6  # other examples, or another order, each time


def test_examples_pass_the_rules_and_show_their_facets() -> None:
    for trait in Trait:
        shown = shown_questions(trait)
        assert [facet for facet, _, _ in shown] == list(FACETS[trait])
        assert all(check_question(text, trait) is None for _, _, text in shown)
        assert not {topic for _, topic, _ in shown} & set(TOPICS)
        # the package's questions come in FACETS' order, four to a facet
        order = [row.question for row in load_questions(trait, "search")]
        assert [order.index(text) // 4 for _, _, text in shown] == list(range(6))
    for pole in POLES:
        turns = description_turns(pole, 5, str, "0")
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 5
        texts = [json.loads(turn["content"])["description"] for turn in turns[1::2]]
        assert all(check_description(text) is None for text in texts)
        assert all(Pole.parse(turn["content"]).trait is not pole.trait for turn in turns[::2])


def test_failed_calls_and_shortfalls_are_reported(tmp_path: Path) -> None:
    def refusing(body: dict[str, Any], number: int) -> Answer:
        return Answer(None, refusal="No questions today.") if number % 2 else script(body, number)

    with serve(refusing) as server:
        result = build(server.url, tmp_path, "--count", "12", "--descriptions", "0", "--rounds", "1")
    assert result.exit_code == 1
    assert "Fewer than wanted" in result.output and "refused" in result.output
    failed = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["parts"][0]["failed_calls"] == len(failed) == 1
    assert failed[0]["kind"] == "refused" and failed[0]["item"].startswith("agreeableness: ")
    assert not (tmp_path / "descriptions.jsonl").exists()


def test_embeddings_drop_repeated_meaning(tmp_path: Path) -> None:
    def embedding(body: dict[str, Any], number: int) -> Answer:
        if body["path"].endswith("/embeddings"):
            rows = [{"index": i, "embedding": [1.0, 0.0], "object": "embedding"} for i in range(len(body["input"]))]
            return Answer(body={"object": "list", "model": "e", "data": rows, "usage": None})
        return script(body, number)

    options = ("--count", "3", "--descriptions", "0", "--rounds", "1", "--embedding-model", "e")
    with serve(embedding) as server:
        assert build(server.url, tmp_path, *options).exit_code == 1
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["parts"][0]["kept"] == 1 and manifest["parts"][0]["dropped"]["repeats meaning"] == 1


def test_calls_cross_every_facet_with_every_topic_before_they_repeat() -> None:
    settings = BuildSettings(per_call=3)
    grid = len(TOPICS) * 6
    calls = question_calls(Trait.OPENNESS, settings, 0, grid + 6)
    assert len({call.item for call in calls[:grid]}) == grid
    assert {call.draw for call in calls[:grid]} == {0} and {call.draw for call in calls[grid:]} == {1}
    assert question_calls(Trait.OPENNESS, settings, 5, 3) == calls[5:8]
    for facet, call in zip(FACETS[Trait.OPENNESS], calls, strict=False):
        text = call.messages[1]["content"]
        assert facet.high in text and facet.low in text and "{" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--traits", "XY"), "O, C, E, A, N"),
        (("--count", "0", "--descriptions", "0"), "at least one"),
        (("--writer-url", "nowhere"), "http://"),
        (("--prices", "missing.json"), "missing.json"),
        (("--similarity", "2"), "similarities"),
        (("--examples", "6"), "0 to 5"),
        (("--examples", "2", "--per-call", "3"), "per_call must be 1"),
        (("--spare", "0.5"), "at least 1"),
    ],
)
def test_bad_input_is_refused_in_words(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = build("http://127.0.0.1:9/v1", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "out").exists()


def test_check_counts_and_names_bad_lines(tmp_path: Path) -> None:
    for trait in Trait:
        (tmp_path / f"{trait.value.capitalize()}.jsonl").write_text(json.dumps({"question": good_question(1)}) + "\n")
    row = {t.value.capitalize() + end: "You." for t in Trait for end in ("", "_reversed")}
    (tmp_path / "descriptions.jsonl").write_text(json.dumps(row) + "\n")
    result = runner.invoke(app, ["questions", "check", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "openness" in result.output
    (tmp_path / "Openness.jsonl").write_text('{"question": ""}\n')
    result = runner.invoke(app, ["questions", "check", str(tmp_path)])
    assert result.exit_code == 2 and "Openness.jsonl, line 1" in result.output
    result = runner.invoke(app, ["questions", "fetch", str(tmp_path), "--part", "all"])
    assert result.exit_code == 2 and "search" in result.output
