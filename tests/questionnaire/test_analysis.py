"""Results of sessions with known answers, their files, and the commands."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.judges.results import common_people, load_scores, save_scores
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.questionnaire.analysis import analyse, tables
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import Inventory, Item, bundled_inventory
from dpg_fast.questionnaire.scoring import keyed
from dpg_fast.questionnaire.session import AdministrationSettings, Answer, Respondent, Session, population
from dpg_fast.util.results import write_results

runner = CliRunner()


def session(noise: float, *, people: int = 8, forms: int = 4, bias: float = 0.0, seed: int = 0) -> Session:
    """People who rate as their scores say, plus noise and a liking for agreement."""
    inventory = bundled_inventory()
    respondents = population(people, seed=1)
    found = Session(
        inventory, respondents, make_forms(inventory, forms), AdministrationSettings(method="generate"), "m"
    )
    rng = np.random.default_rng(seed)
    for respondent in respondents:
        assert isinstance(respondent.personality, Personality)
        for form in found.forms:
            for item in inventory.items:
                level = 3 + respondent.personality[item.trait.letter] * 2 / 5
                rating = keyed(item, level, 5) + bias + noise * rng.normal()
                answer = Answer(respondent.label, form.number, item.id, "ok", float(np.clip(rating, 1, 5)))
                found.answers[answer.key] = answer
    return found


def test_consistent_people_are_reliable_and_found() -> None:
    result = analyse(session(0.3), resamples=100)
    for trait in Trait:
        row = result["reliability"][trait.value]
        assert row["alpha"]["estimate"] > 0.95 and row["retest"]["estimate"] > 0.95
        assert row["icc_2_1"]["low"] <= row["icc_2_1"]["estimate"] <= row["icc_2_k"]["estimate"]
        assert (row["people"], row["items"]) == (8, 12)
    assert result["prompted"]["mean"]["mae"] < 0.5 and result["prompted"]["mean"]["pearson"] > 0.98
    assert abs(result["quality"]["acquiescence"]) < 0.1
    json.dumps(result, allow_nan=False)
    text = io.StringIO()
    for table in tables(result):
        Console(file=text, width=200).print(table)
    assert "p08" in text.getvalue() and "ICC(2,k)" in text.getvalue()


def test_careless_people_are_not() -> None:
    result = analyse(session(50.0), resamples=100)
    assert max(row["alpha"]["estimate"] for row in result["reliability"].values()) < 0.9
    assert result["items"]["icc_2_1"]["estimate"] < 0.2
    yes = analyse(session(0.1, bias=0.8), resamples=20)
    assert yes["quality"]["acquiescence"] > 0.3
    same = analyse(session(0.1), resamples=20)
    pairs = zip(yes["respondents"], same["respondents"], strict=True)
    assert max(abs(a["scores"]["openness"] - b["scores"]["openness"]) for a, b in pairs) < 1.5


def test_one_person_has_scores_and_a_reason() -> None:
    alone = session(0.3, people=1)
    result = analyse(alone, resamples=20)
    assert result["reliability"]["openness"]["reason"].startswith("1 person")
    assert len(tables(result)) == 3  # no table of reliability
    assert result["items"]["icc_2_1"]["estimate"] > 0.2  # over items, which differ by key at least


def test_refusals_are_counted_and_left_out() -> None:
    inventory = Inventory("two", tuple(Item(f"e{n}", f"I {n}.", Trait.EXTRAVERSION) for n in range(2)))
    forms = make_forms(inventory, 2)
    found = Session(inventory, [Respondent("a")], forms, AdministrationSettings(method="generate"), "m")
    for form, item, status, rating in ((0, "e0", "ok", 5.0), (0, "e1", "refusal", None), (1, "e0", "invalid", None)):
        answer = Answer("a", form, item, status, rating)  # type: ignore[arg-type]
        found.answers[answer.key] = answer
    result = analyse(found)
    assert result["quality"]["refusals"] == result["quality"]["invalid"] == pytest.approx(1 / 3)
    assert result["respondents"][0]["scores"] == {"extraversion": 5}
    assert result["quality"]["places"] == [0, 0, 0, 0, 1] and result["quality"]["labels"]["E"] == 1
    silent = replace(found, answers={})
    assert analyse(silent)["respondents"][0]["scores"] == {}


def test_result_files_read_back(tmp_path: Path) -> None:
    result = analyse(session(0.3), resamples=20)
    write_results(tmp_path / "q" / "results.json", result)
    loaded = load_scores(tmp_path / "q")
    assert loaded.labels == tuple(f"p{n:02d}" for n in range(1, 9)) and loaded.scores.shape == (8, 5)
    scores = np.arange(10.0).reshape(2, 5) / 2
    scores[0, 1] = np.nan
    save_scores(tmp_path / "j.json", "judge", ["p02", "x"], scores, model="m")
    judged = load_scores(tmp_path / "j.json")
    assert np.array_equal(judged.scores, scores, equal_nan=True)
    labels, both = common_people([loaded, judged, judged])
    assert labels == ["p02"] and list(both) == [loaded.method, "judge 2", "judge 3"]
    assert np.array_equal(both[loaded.method], loaded.scores[1:2])
    with pytest.raises(ValueError, match=r"scores lie in -5..5"):
        save_scores(tmp_path / "k.json", "judge", ["a"], np.full((1, 5), 6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ("{}", '"schema": 1'),
        ('{"schema": 1, "method": "m"}', "at least one"),
        ('{"schema": 1, "method": "m", "respondents": [{"label": "a"}]}', 'respondent 1 needs "scores"'),
        ('{"schema": 1, "method": "m", "respondents": [{"label": "a", "scores": {"Q": 1}}]}', "unknown trait 'Q'"),
        ('{"schema": 1, "method": "m", "respondents": [{"label": "a", "scores": {"E": 9}}]}', "E = 9 is not a score"),
    ],
)
def test_damaged_result_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json") as error:
        load_scores(tmp_path / "r.json")
    assert message in str(error.value)


# ------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--personality", "E+7", "--adapter", "smollm2"], "-5..5"),
        (["--personality", "E+5"], "need an adapter"),
        (["--inventory", "nosuch"], "is not an inventory"),
        (["--inventory", "ipip-50"], "do not come with this package"),
        (["--sex", "x"], "sex is M, F or N"),
        (["--temperature", "1"], "a temperature belongs to"),
        (["--personality", "E+5", "--through", "adjectives", "--adapter", "smollm2"], "leave --adapter out"),
    ],
)
def test_questionnaire_refuses_bad_input_before_loading(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr("dpg_fast.cli.assess._load", load)
    result = runner.invoke(app, ["assess", "questionnaire", "--out", str(tmp_path / "o"), *arguments])
    assert result.exit_code == 2 and message in result.output


def test_questionnaire_and_compare_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Any, byte_tokenizer: Any
) -> None:
    from dpg_fast.hypernet import HypernetConfig
    from dpg_fast.model import PersonalityModel

    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    model.hypernet.randomize_(__import__("torch").Generator().manual_seed(0))  # type: ignore[union-attr]
    monkeypatch.setattr("dpg_fast.cli.assess._load", lambda *_: (model, byte_tokenizer))
    inventory = bundled_inventory()
    replace(inventory, items=inventory.items[:10]).save(tmp_path / "ten.jsonl")
    common = ["assess", "questionnaire", "--adapter", "smollm2", "--population", "4", "--inventory"]
    common += [str(tmp_path / "ten.jsonl"), "--forms", "2", "--personality", "E+5"]
    for method in ("logprobs", "generate"):
        out = tmp_path / method
        result = runner.invoke(app, [*common, "--method", method, "--out", str(out)], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        content = json.loads((out / "results.json").read_text())
        assert [p["label"] for p in content["respondents"]] == ["base", "E+5", "p01", "p02", "p03", "p04"]
        assert content["quality"]["answers"] == 6 * 2 * 10 and "Reliability over people" in result.output
    again = runner.invoke(app, [*common, "--method", "logprobs", "--forms", "3", "--out", str(tmp_path / "logprobs")])
    assert again.exit_code == 2 and "another run" in " ".join(again.output.split())
    folders = [str(tmp_path / method) for method in ("logprobs", "generate")]
    result = runner.invoke(
        app,
        ["assess", "compare", *folders, "--resamples", "50", "--out", str(tmp_path / "c.json")],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output
    assert "Multitrait-multimethod" in result.output and "Largest disagreements" in result.output
    compared = json.loads((tmp_path / "c.json").read_text())
    assert len(compared["agreement"]) == 5 and "Agreement of methods" in result.output
    assert compared["validity"]["people"] == 6 and len(compared["disagreements"]) == 10
    assert runner.invoke(app, ["assess", "compare", folders[0]]).exit_code == 2


def test_people_told_in_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Any, byte_tokenizer: Any
) -> None:
    monkeypatch.setattr("dpg_fast.cli.assess._load", lambda *_: (tiny_llama, byte_tokenizer))
    inventory = bundled_inventory()
    replace(inventory, items=inventory.items[:4]).save(tmp_path / "four.jsonl")
    arguments = ["--through", "adjectives", "--personality", "E-5", "--forms", "2"]
    paths = ["--inventory", str(tmp_path / "four.jsonl"), "--out", str(tmp_path / "o"), "--report", str(tmp_path / "r")]
    result = runner.invoke(app, ["assess", "questionnaire", *arguments, *paths])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "o" / "results.json").read_text())
    told = content["respondents"][1]
    assert told["system"] == "You are extremely introverted." and told["personality"] is None
    assert told["target"]["extraversion"] == -5 and content["prompted"]["traits"] and content["cost"]["answers"] == 16
    assert "adjectives in the prompt" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_the_bare_model_is_no_member_of_the_population() -> None:
    """Somebody unlike all others would make noise look reliable."""
    found = session(4.0, people=8, forms=2)
    noise = analyse(found, resamples=10)["reliability"]["openness"]
    found.respondents = [Respondent("base"), *found.respondents]
    for form in found.forms:
        for item in found.inventory.items:
            answer = Answer("base", form.number, item.id, "ok", keyed(item, 5, 5))
            found.answers[answer.key] = answer
    again = analyse(found, resamples=10)["reliability"]["openness"]
    assert again == noise and again["people"] == 8
    few = replace(found, respondents=found.respondents[:3])  # the bare model and two people
    openness = analyse(few, resamples=10)
    assert openness["reliability"]["openness"]["reason"] == "2 people with complete answers; 3 are needed"
    assert (
        openness["prompted"]["traits"]["openness"]["pearson"] is None
    )  # of two people it is 1 or -1, whoever they are
    found.respondents = [replace(r, personality=None) for r in found.respondents]
    assert analyse(found, resamples=10)["reliability"]["openness"]["people"] == 9
