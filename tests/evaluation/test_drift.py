"""Drift: a scripted chat judged turn by turn."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.evaluation.drift import USER_TURNS, measure_drift, slopes
from dpg_fast.evaluation.drift_run import read_drift, read_turns
from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.judges.results import load_scores
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.questionnaire.session import Respondent

runner = CliRunner()


@dataclass
class Found:
    scores: dict[Trait, float]
    reason: str | None = None


class LengthJudge:
    """Reads extraversion off the answer's length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def judge_all(self, pairs: Sequence[tuple[str, str]], *, traits: Any = None, progress: Any = None) -> list[Found]:
        self.pairs += pairs
        return [Found({Trait.EXTRAVERSION: len(answer) % 10 - 5.0}) for _, answer in pairs]

    def judge(self, question: str, answers: Sequence[str], *, traits: Any = None) -> list[Found]:
        return self.judge_all([(question, answer) for answer in answers])

    def describe(self) -> str:
        return "a stand-in"


def test_every_turn_is_answered_in_the_conversation_and_judged(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch_generator())
    judge = LengthJudge()
    turns = ("Hi?", "And then?", "So?")
    people = [("base", None), ("loud", Personality("E+5")), ("text", "E-5")]
    found = measure_drift(model, byte_tokenizer, judge, people, turns=turns, max_new_tokens=6, resamples=50)
    assert judge.pairs == [(turn, found.answers[p][t]) for t, turn in enumerate(turns) for p in range(3)]
    assert found.scores.shape == (3, 3, 5) and np.isnan(found.scores[:, :, 0]).all()
    assert set(found.slopes) == {Trait.EXTRAVERSION}
    # the third answer of the second person, generated alone from the conversation so far
    said = found.answers[1]
    chat = [
        {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": said[0]},
        {"role": "user", "content": "And then?"}, {"role": "assistant", "content": said[1]},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    alone = model.chat(
        chat, personality="E+5", tokenizer=byte_tokenizer, max_new_tokens=6, do_sample=False, repetition_penalty=1.1
    )
    assert alone == said[2]
    gaps = np.abs(found.scores[1:, :, 2] - np.array([[5], [-5]])).mean(axis=0)
    assert found.distances == pytest.approx(gaps)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["scores"][0][0][0] is None
    text = io.StringIO()
    Console(file=text, width=120).print(found.table())
    assert "extraversion" in text.getvalue()


def torch_generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def test_slopes_find_a_trend_and_its_uncertainty() -> None:
    rng = np.random.default_rng(0)
    scores = np.full((6, 10, 5), math.nan)
    scores[:, :, 0] = 0.3 * np.arange(10) - 1
    scores[:, :, 4] = rng.normal(size=(6, 10))
    scores[2, 3, 0] = math.nan
    found = slopes(scores, resamples=200)
    assert set(found) == {Trait.OPENNESS, Trait.NEUROTICISM}
    assert found[Trait.OPENNESS].estimate == pytest.approx(0.3) == pytest.approx(found[Trait.OPENNESS].low)
    assert found[Trait.NEUROTICISM].low < found[Trait.NEUROTICISM].estimate < found[Trait.NEUROTICISM].high
    single = slopes(scores[:1], resamples=200)[Trait.NEUROTICISM]
    assert (
        single.estimate == pytest.approx(np.polyfit(np.arange(10), scores[0, :, 4], 1)[0]) and single.low < single.high
    )


def test_drift_needs_people_and_turns(tiny_llama: Any, byte_tokenizer: Any) -> None:
    assert len(USER_TURNS) == len(set(USER_TURNS)) >= 10
    model = PersonalityModel.from_model(tiny_llama)
    with pytest.raises(ValueError, match="two turns"):
        measure_drift(model, byte_tokenizer, LengthJudge(), [("a", None)], turns=["Hi"])


def test_a_killed_chat_goes_on(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    model = PersonalityModel.from_model(tiny_llama)
    people = [Respondent("base"), Respondent("told", system="You are loud.", asked=Personality("E+5"))]
    turns, judge = ("Hi?", "And then?", "So?"), LengthJudge()
    options: dict[str, Any] = {"turns": turns, "max_new_tokens": 6, "resamples": 20, "directory": tmp_path}
    whole = measure_drift(model, byte_tokenizer, judge, people, **options)
    assert whole.answers[0] != whole.answers[1]  # the instruction counts
    assert whole.targets[1][2] == 5 and math.isnan(whole.targets[0][2])
    for name, lines in (("answers", 2), ("scores", 1)):  # killed after the first answers
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:lines]))
    done: list[tuple[str, int, int]] = []
    again = measure_drift(model, byte_tokenizer, judge, people, progress=lambda *step: done.append(step), **options)
    assert again.answers == whole.answers and np.array_equal(again.scores, whole.scores, equal_nan=True)
    assert done[-1] == ("scores", 3, 3) and ("answers", 3, 3) in done
    with pytest.raises(ValueError, match="another run"):
        measure_drift(model, byte_tokenizer, judge, people[:1], **options)


def test_failed_calls_of_a_judge_are_made_again(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    class Failing(LengthJudge):
        def judge_all(self, pairs: Any, *, traits: Any = None, progress: Any = None) -> list[Found]:
            found = super().judge_all(pairs)
            return [Found({}, "no reply")] * len(pairs) if pairs[0][0] == "So?" else found

    model = PersonalityModel.from_model(tiny_llama)
    options: dict[str, Any] = {"turns": ("Hi?", "So?"), "max_new_tokens": 4, "resamples": 5, "directory": tmp_path}
    first = measure_drift(model, byte_tokenizer, Failing(), [("base", None)], **options)
    assert np.isnan(first.scores[0, 1]).all()
    judge = LengthJudge()
    second = measure_drift(model, byte_tokenizer, judge, [("base", None)], **options)
    assert np.isfinite(second.scores[0, 1, 2]) and [turn for turn, _ in judge.pairs] == ["So?"]


def test_command_and_report(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    model = PersonalityModel.from_model(tiny_llama)
    monkeypatch.setattr("dpg_fast.cli.assess._load", lambda *_: (model, byte_tokenizer))
    monkeypatch.setattr("dpg_fast.judges.choice.JudgeChoice.make", lambda *_: LengthJudge())
    turns = tmp_path / "turns.txt"
    turns.write_text("Hi?\n\n<script>alert(1)</script>\nAnd?\n", encoding="utf-8")
    common = ["assess", "drift", "--user-turns", str(turns), "--max-new-tokens", "4", "--personality", "E+5"]
    first = runner.invoke(app, [*common, "--through", "adjectives", "--out", str(tmp_path / "a")])
    assert first.exit_code == 0, first.output
    more = ["--out", str(tmp_path / "b"), "--beside", str(tmp_path / "a"), "--report", str(tmp_path / "r")]
    second = runner.invoke(app, [*common, "--through", "description", *more])
    assert second.exit_code == 0, second.output
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in html and "<script" not in html and html.count("data:image/png") == 1
    assert "adjectives" in html and "description" in html
    content = json.loads((tmp_path / "a" / "drift.json").read_text())
    assert content["labels"] == ["base", "E+5"] and len(content["turns"]) == 3 and content["targets"][1][2] == 5
    assert load_scores(tmp_path / "a").labels == ("base", "E+5")
    bad = runner.invoke(app, [*common, "--limit", "2", "--out", str(tmp_path / "c")])
    assert bad.exit_code == 2 and "need an adapter" in bad.output
    with pytest.raises(ValueError, match="two turns"):
        read_turns(turns, 1)
    with pytest.raises(ValueError, match=r"no drift\.json"):
        read_drift(tmp_path / "a" / "results.json")
