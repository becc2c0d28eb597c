"""Systems' conversations beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.llm import LLMClient, LLMSettings
from dpg_fast.simulate.compare import compare, count_terms, derive_terms, read_terms
from dpg_fast.text.records import DialogueRecord, Turn, write_records
from tests.llm.server import Answer, last_user, serve
from tests.support import ROOT


def _record(*texts: str) -> DialogueRecord:
    names = ("Ada", "Bo")
    turns = [
        Turn(role="assistant" if i % 2 == 0 else "user", content=t, name=names[i % 2]) for i, t in enumerate(texts)
    ]
    return DialogueRecord(messages=turns, source="test")


RICH = [
    _record(
        "The tide turns, the ferries wait.",
        "No, the ferry does not wait.",
        "You are wrong. The high water waits for nobody.",
    ),
    _record("A rope and a bell.", "I do not agree about the rope."),
]
POOR = [_record("Such a nice day.", "Yes, nice day.", "Yes, a nice day it is."), _record("So nice.", "Exactly.")]


def test_terms_are_counted_whole() -> None:
    found = count_terms("High water! The ferries, the ferry; highwater. Bells, bell", ("high water", "ferry", "bell"))
    assert found == {"high water": 1, "ferry": 1, "bell": 2}  # "ferries" is no plural in s


def test_figures_by_hand() -> None:
    found = compare({"rich": RICH, "poor": POOR}, terms=("tide", "ferry", "rope", "bell", "high water"), resamples=200)
    rich, poor = found.systems["rich"], found.systems["poor"]
    assert rich.distinct == 5 and poor.distinct == 0
    assert rich.terms == {"rope": 2, "tide": 1, "ferry": 1, "high water": 1, "bell": 1}
    assert rich.term_range is not None and rich.term_range.estimate == 2.5  # three, and two
    assert rich.disagreement is not None and rich.disagreement.estimate == 1.0
    assert poor.agreement is not None and poor.agreement.estimate == 1.0
    assert poor.echo is not None and poor.echo.estimate == 0.25
    words = 6 + 6 + 9 + 5 + 7
    assert rich.words.estimate == pytest.approx(words / 5)
    assert rich.term_count is not None and rich.term_count.estimate == pytest.approx(100 * 6 / words)


def test_echo_is_of_the_same_speaker() -> None:
    own = [_record("one two three four", "hello", "one two three four")]
    other = [_record("one two three four", "one two three four")]
    found = compare({"own": own, "other": other}, resamples=10).systems
    assert found["own"].echo is not None and found["own"].echo.estimate == 1.0
    assert found["other"].echo is None and found["own"].term_count is None


def test_derived_terms_are_frequent_and_uncommon() -> None:
    texts = ["The barometer fell. The weather is bad.", "A barometer and a lantern.", "The lantern, the barometer."]
    assert derive_terms(texts, ["What is the weather like?"]) == ("barometer", "lantern")
    with pytest.raises(ValueError, match="no word"):
        derive_terms(["one", "two"], [])


def test_a_judge_may_tell_agreement(tmp_path: Path) -> None:
    def script(body: dict, number: int) -> Answer:  # type: ignore[type-arg]
        stance = "agrees" if "rope" in last_user(body) else "neither"
        return Answer(json.dumps({"reason": "r", "stance": stance}))

    with serve(script) as server:
        client = LLMClient(LLMSettings("judge", server.url, api_key="k" * 12), tmp_path / "r.sqlite")
        found = compare({"rich": RICH}, client=client, resamples=10)
        client.cache.close()
    figures = found.systems["rich"]
    assert figures.agreement is not None and figures.agreement.estimate == pytest.approx(1 / 3)
    assert "judge over an API" in found.agreement_by


def test_the_commands_judge_is_reached_with_headers_and_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai-secret-0123456789")
    monkeypatch.setenv("AZURE_KEY", "azure-secret-0123456789")
    for name, records in (("rich", RICH), ("poor", POOR)):
        write_records(tmp_path / f"{name}.jsonl", records)

    def script(body: dict, number: int) -> Answer:  # type: ignore[type-arg]
        if "api-version=7" not in body["path"] or body["headers"].get("api-key") != "azure-secret-0123456789":
            return Answer(status=404, error="Resource not found")
        return Answer(json.dumps({"reason": "r", "stance": "agrees"}))

    words = ["simulate", "compare", str(tmp_path / "rich.jsonl"), str(tmp_path / "poor.jsonl")]
    words += ["--cache", str(tmp_path / "r.sqlite"), "--out", str(tmp_path / "f.json")]
    azure = ["--header", "api-key=AZURE_KEY", "--query", "api-version=7"]
    with serve(script) as server:
        asked = ["--judge-model", "m", "--judge-url", server.url]
        assert CliRunner().invoke(app, [*words, *asked]).exit_code == 2
        result = CliRunner().invoke(app, [*words, *asked, *azure])
    assert result.exit_code == 0 and "Agreement by m over an API" in result.output, result.output
    assert b"secret" not in b"".join(p.read_bytes() for p in tmp_path.iterdir()) + result.output.encode()
    for alone in (azure[:2], azure[2:], ["--judge-url", "http://127.0.0.1:1/v1"]):
        result = CliRunner().invoke(app, [*words, *alone])
        assert result.exit_code == 2 and "--judge-model" in result.output


def test_the_command_writes_figures_and_page(tmp_path: Path) -> None:
    for name, records in (("rich", RICH), ("poor", POOR)):
        write_records(tmp_path / name / "dialogues.jsonl", records)
    (tmp_path / "terms.txt").write_text("# of the sea\ntide\nrope\nTide\n")
    words = ["simulate", "compare", str(tmp_path / "rich" / "dialogues.jsonl"), f"p={tmp_path}/poor/dialogues.jsonl"]
    words += [
        "--terms",
        str(tmp_path / "terms.txt"),
        "--out",
        str(tmp_path / "f.json"),
        "--report",
        str(tmp_path / "page"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "f.json").read_text())
    assert set(content["systems"]) == {"rich", "p"} and content["terms"] == ["tide", "rope"]
    assert "held-out" in content["agreement_by"] and (tmp_path / "page" / "report.html").is_file()


def test_terms_from_material_and_scenarios() -> None:
    from dpg_fast.cli.simulate.run import CompareOptions, find_terms

    terms, origin = find_terms(CompareOptions(material=(ROOT / "recipes" / "characters" / "marit_oss",)))
    assert {"ferry", "barometer"} & set(terms) and "marit_oss" in origin
    terms, _ = find_terms(CompareOptions(scenarios=(ROOT / "recipes" / "scenarios",)))
    assert "tide" in terms
    with pytest.raises(ValueError, match="name one of them"):
        find_terms(CompareOptions(terms=Path("x"), scenarios=(Path("y"),)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["{a}"], "two files"),
        (["{a}", "{a}"], "same name"),
        (["{a}", "x={none}"], "No such file"),
        (["{a}", "x={empty}"], "no conversation in the file of x"),
        (["{a}", "x={bad}"], "bad.jsonl, line 1"),
    ],
)
def test_bad_input(tmp_path: Path, files: list[str], message: str) -> None:
    write_records(tmp_path / "a.jsonl", RICH)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    places = {name: str(tmp_path / f"{name}.jsonl") for name in ("a", "none", "empty", "bad")}
    result = CliRunner().invoke(app, ["simulate", "compare", *(file.format(**places) for file in files)])
    assert result.exit_code == 2 and message in result.output, result.output


def test_term_files(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_terms(file)
    file.write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="no term"):
        read_terms(file)
