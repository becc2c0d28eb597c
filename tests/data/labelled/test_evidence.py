"""Datasets by the judge that quotes its evidence: missing traits, imputation, centres, and the command from end to end."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.data.labelled import Centre
from dpg_fast.personality.scores import Trait
from dpg_fast.text.records import DialogueRecord, read_records
from tests.llm.server import Answer, FakeServer, serve

pytest.importorskip("openai")


def test_a_centre_of_what_was_judged() -> None:
    rows = [(1.0, None, 2.0, 0.0, 4.0), (3.0, None, None, 0.0, 4.0), (None, 5.0, None, 0.0, 4.0)]
    centre = Centre.of(rows)
    assert centre.mean == (2.0, 5.0, 2.0, 0.0, 4.0) and centre.spread == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert centre.judged == (2, 1, 1, 3, 3)
    assert centre.filled(rows[1]) == (3.0, 5.0, 2.0, 0.0, 4.0)
    assert centre.distance(rows[0]) == pytest.approx(math.sqrt(5 / 4))
    assert centre.distance((None, 3.0, None, None, None)) == pytest.approx(2 * math.sqrt(5))
    assert math.isnan(centre.distance((None,) * 5))
    with pytest.raises(ValueError, match="judged in none"):
        Centre.of([(1.0, None, 2.0, 0.0, 4.0)])


def test_outliers_need_five_judgements_of_their_trait() -> None:
    rows = [(0.0, float(i % 2) if i < 4 else None, 0.0, 0.0, 0.0) for i in range(8)]
    centre = Centre.of(rows)
    assert not centre.is_outlier((0.0, 5.0, 0.0, 0.0, 0.0)) and centre.is_outlier((5.0, None, 0.0, 0.0, 0.0))
    odd = Centre.of([*rows, (5.0, 1.0, None, None, None)])
    assert odd.mean[0] == 0 and odd.count == 8  # left out with its other traits


CHAT = [  # what Anna says, and Ben
    ("Shout it to everybody, this is a party for all of us tonight!", "Hush, I would like to be alone now, truly."),
    ("Come and shout with me, the more the merrier, I say!", "Nobody asks me, and I tidy my desk alone in peace."),
    (
        "We never plan a thing, we simply dance until the morning!",
        "Alone is well, since silence is what I like the most.",
    ),
    (
        "The weather is what it is and this is Tuesday after all.",
        "Well, the train leaves at nine from the second platform.",
    ),
]


def script_file(folder: Path) -> Path:
    text = "".join(
        f"INT. ROOM {i} - DAY\n\nANNA\n{said}\n\nBEN\n{answered}\n\n" for i, (said, answered) in enumerate(CHAT)
    )
    (folder / "chat.fountain").write_text(text, encoding="utf-8")
    return folder / "chat.fountain"


def judged(body: dict[str, Any], number: int) -> Answer:
    """Extraversion from every line but those about trains and weather, openness with a wrong quotation, neuroticism never."""
    user = body["messages"][1]["content"]
    (words,) = re.findall(r"<target-[0-9a-f]{16}>\n(.*?)\n</", user, re.S)
    quote = {"quotes": [" ".join(words.split()[:3])], "confidence": "high"}
    nothing = {"quotes": [], "level": None, "confidence": "low"}
    found = {trait.value: quote | {"level": 1} for trait in Trait}
    found["extraversion"] = quote | {"level": 4 if "!" in words else -3}
    found["neuroticism"] = nothing if words.startswith(("We never", "Alone")) else quote | {"level": 2}
    if words.startswith(("The weather", "Well, the train")):
        found |= {"openness": quote | {"level": 3, "quotes": ["never said at all"]}}
        found |= {"extraversion": nothing, "agreeableness": nothing}
    return Answer(json.dumps(found))


def build(folder: Path, server: FakeServer, *more: str) -> tuple[list[DialogueRecord], list[dict[str, Any]], str]:
    arguments = ["data", "scripts", "build", str(script_file(folder)), "--out", str(folder / "data"), "--no-plots"]
    arguments += ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--turns", "2", "--before", "1"]
    arguments += ["--test-characters", "0", "--test-scenes", "0", "--min-words", "5", *more]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "OPENAI_API_KEY": "sk-1"})
    assert result.exit_code == 0, result.output
    records = list(read_records(folder / "data" / "train.jsonl", DialogueRecord))
    dropped = (folder / "data" / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return records, [json.loads(line) for line in dropped], result.output


def test_missing_traits_are_imputed_or_the_segment_dropped(tmp_path: Path) -> None:
    with serve(judged) as server:
        records, dropped, _ = build(tmp_path, server)
        assert len(server.requests) == 8 + 2  # one call a segment, and one more where a quotation is not found
        prompts = [body["messages"][1]["content"] for body in server.requests]
        assert not any("ANNA" in text or "BEN" in text for text in prompts)
        assert any("speaker_b" in text for text in prompts)
        again, _, _ = build(tmp_path, server)
        assert len(server.requests) == 10 and again == records
        all_kept, none_dropped, _ = build(tmp_path, server, "--max-missing", "4")
        assert len(server.requests) == 10 and len(all_kept) == 8 and not none_dropped  # other settings, same judgements
    assert len(records) == 6 and [row["reason"] for row in dropped] == ["no evidence"] * 2
    assert dropped[0]["detail"] == "of openness, extraversion, agreeableness"
    for record in records:
        assert record.origin is not None and record.judge is not None and record.judge.scores is not None
        assert record.judge.prompt_version.startswith("evidence") and record.personality is not None
        loud = record.character == "ANNA"
        open_trait = any(turn.content.startswith(("We never", "Alone")) for turn in record.messages[-1:])
        assert record.origin.imputed == (["neuroticism"] if open_trait else [])
        assert record.judge.scores == (1, 1, 4 if loud else -3, 1, None if open_trait else 2)
        assert record.personality == (1, 1, 4 if loud else -3, 1, 2)
    card = (tmp_path / "data" / "README.md").read_text(encoding="utf-8")
    assert "the judge found no evidence of one to 4 traits" in card
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["imputed"] == 4


def test_a_trait_without_any_evidence_leaves_no_label(tmp_path: Path) -> None:
    def never(body: dict[str, Any], number: int) -> Answer:
        found = json.loads(str(judged(body, number).content))
        return Answer(json.dumps(found | {"neuroticism": {"quotes": [], "level": None, "confidence": "low"}}))

    arguments = ["data", "scripts", "build", str(script_file(tmp_path)), "--out", str(tmp_path / "data"), "--no-plots"]
    with serve(never) as server:
        arguments += [
            "--judge",
            "openai",
            "--judge-model",
            "m",
            "--judge-url",
            server.url,
            "--turns",
            "2",
            "--before",
            "1",
        ]
        arguments += ["--min-words", "5"]
        dry = CliRunner().invoke(app, [*arguments, "--dry-run"], env={"OPENAI_API_KEY": "sk-1"})
        assert dry.exit_code == 0 and not server.requests
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "OPENAI_API_KEY": "sk-1"})
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "data" / "train.jsonl").exists()
    assert "and the character has no centre" in (tmp_path / "data" / "dropped.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "npti"], "goes with --judge openai"),
        (["--judge", "openai", "--judge-model", "m", "--protocol", "x"], "unknown protocol"),
        (["--max-missing", "5"], "from 0 to 4"),
    ],
)
def test_what_does_not_go_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["data", "scripts", "build", "samples", "--out", str(tmp_path / "data"), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and message in result.output.replace("\n", " ")
