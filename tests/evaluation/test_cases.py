"""Whole personalities: who is asked what, figures of known scores, resuming, the report, the plain-LoRA baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, Personality
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.evaluation.case_report import build_case_report, write_case_report
from dpg_fast.evaluation.cases import Case, JudgedCases, case_figures, compare_methods, newcomers, run_cases, scripted
from dpg_fast.evaluation.methods import BareModel, LoraAdapter
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.personas import score_text
from dpg_fast.text.records import DialogueRecord, Turn

SETTINGS = AnswerSettings(system="Be.", max_new_tokens=6, batch_size=8)
QUESTIONS = {trait: [f"{trait.value} one?", f"{trait.value} two?"] for trait in Trait}


@dataclass
class Reads:
    """Reads a score out of an answer that is a list of five numbers."""

    questions: list[str] = field(default_factory=list)

    def judge_all(self, pairs: Sequence[tuple[str, str]], *, traits: Any = None, progress: Any = None) -> Any:
        self.questions.append(pairs[0][0])
        return [_Verdict({t: json.loads(answer)[t.position] for t in traits}) for _, answer in pairs]

    def judge(self, question: str, answers: Sequence[str], *, traits: Any = None) -> Any:
        return self.judge_all([(question, answer) for answer in answers], traits=traits)

    def describe(self) -> str:
        return "reads scores"


@dataclass
class _Verdict:
    scores: Mapping[Trait, float]
    reason: str | None = None


class Says(BareModel):
    """Says its scores, times a factor."""

    def __init__(self, name: str, factor: float) -> None:
        self.name, self.factor, self.asked = name, factor, 0  # type: ignore[misc]

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        self.asked += len(questions)
        return [json.dumps([s * self.factor for s in p.scores]) for p in personalities if p is not None]


def test_new_personalities_are_balanced_and_asked_about_every_trait() -> None:
    cases = newcomers(20, QUESTIONS)
    people = {case.personality for case in cases}
    assert len(cases) == 100 and len(people) > 15
    for trait in Trait:
        levels = [p["OCEAN"[trait.position]] for p in (case.personality for case in cases if case.traits == (trait,))]
        assert {level: levels.count(level) for level in set(levels)} == {-5: 5, -2: 5, 2: 5, 5: 5}
    assert newcomers(20, QUESTIONS) == cases != newcomers(20, QUESTIONS, seed=1)
    with pytest.raises(ValueError, match="at least one person"):
        newcomers(0, QUESTIONS)


def test_scripted_cases_are_last_answered_turns() -> None:
    def record(scores: Any, *texts: str) -> DialogueRecord:
        turns = [Turn(role="user" if i % 2 == 0 else "assistant", content=text) for i, text in enumerate(texts)]
        return DialogueRecord(messages=turns, personality=scores, source="test")

    cases = scripted(
        [record((1, 0, 0, 0, 0), "A?", "a", "B?", "b"), record(None, "C?", "c"), record((2, 0, 0, 0, 0), "D?")]
    )
    assert [case.question for case in cases] == ["B?"] and cases[0].traits == tuple(Trait)
    with pytest.raises(ValueError, match="no record"):
        scripted([record(None, "C?", "c")])


def test_obedience_and_defiance_are_told_apart_and_nothing_is_done_twice(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path
) -> None:
    cases = newcomers(12, QUESTIONS)
    judge = Reads()
    scorer = Scorer(judge, tiny_llama, byte_tokenizer, system="")
    methods = [Says("obedient", 1.0), Says("defiant", -0.5)]
    found_cases = run_cases(methods, scorer, cases, tmp_path, {})
    judged = {name: own.scores for name, own in found_cases.items()}
    assert case_figures(cases, judged["obedient"], resamples=20).mean.estimate == pytest.approx(1.0)
    assert case_figures(cases, judged["defiant"], resamples=20).mean.estimate == pytest.approx(-1.0)
    assert case_figures(cases, judged["obedient"], resamples=20).compared.mean.exact == 1.0
    found = compare_methods(cases, judged["obedient"], judged["defiant"], resamples=50)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert np.isfinite(judged["obedient"]).sum() == len(cases)

    asked, calls = methods[0].asked, len(judge.questions)
    again = run_cases(methods, scorer, cases, tmp_path, {})
    assert methods[0].asked == asked and len(judge.questions) == calls
    np.testing.assert_array_equal(again["defiant"].scores, judged["defiant"])
    obedient = again["obedient"]
    assert obedient.answers[0] == json.dumps(list(cases[0].personality.scores))
    total, tokens = obedient.log_likelihoods.sum(), obedient.tokens.sum()
    assert obedient.perplexity == pytest.approx(np.exp(-total / tokens)) and obedient.perplexity > 1
    assert obedient.tokens[0] == len(obedient.answers[0]) and obedient.empty == 0


def test_the_bare_model_is_asked_each_question_once(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def note(questions: Sequence[str], people: Sequence[Personality | None]) -> list[str]:
        asked.extend(questions)
        return [json.dumps([len(question)] * 5) for question in questions]

    bare = BareModel(tiny_llama, byte_tokenizer, SETTINGS)
    bare.answer = note  # type: ignore[method-assign]
    cases = newcomers(6, QUESTIONS)
    scorer = Scorer(Reads(), tiny_llama, byte_tokenizer, system="")
    found = run_cases([bare], scorer, cases, tmp_path, {})["bare"]
    assert sorted(asked) == sorted(text for texts in QUESTIONS.values() for text in texts)
    assert found.answers == [json.dumps([len(case.question)] * 5) for case in cases]


def test_interval_widens_with_noise() -> None:
    random = np.random.default_rng(0)
    cases = newcomers(40, QUESTIONS)
    asked = np.array([case.personality.scores for case in cases])
    mask = np.array([[t in case.traits for t in Trait] for case in cases])
    noisy = np.where(mask, np.clip(asked * 0.3 + random.normal(0, 2, asked.shape), -5, 5), np.nan)
    found = case_figures(cases, noisy, resamples=200).mean
    assert 0.1 < found.low < found.estimate < found.high < 0.9


def judged(scores: Any) -> JudgedCases:
    count = len(scores)
    return JudgedCases(["<b>x"] * count, scores, np.full(count, -3.0), np.full(count, 2.0), np.zeros(count))


def test_report_names_methods_and_figures(tmp_path: Path) -> None:
    cases = [
        Case(Personality([5, -5, 2, -2, 5]), "A?", tuple(Trait)),
        Case(Personality([-5, 5, -2, 2, -5]), "B?", tuple(Trait)),
    ]
    good = np.array([case.personality.scores for case in cases])
    report = build_case_report(cases, {"one": judged(-good), "two": judged(good)}, "two", resamples=50)
    path = write_case_report(
        "Task", cases, report, {"one": "says", "two": "says too"}, tmp_path, judge="J", settings={"a": 1}
    )
    text = (tmp_path / "report.md").read_text()
    assert "# Task" in text and "## two beside the others" in text and "+2.00" in text
    assert "<script" not in path.read_text() and "&lt;b&gt;x" in path.read_text()
    stored = json.loads((tmp_path / "report.json").read_text())["figures"]
    assert stored["two"]["mean_spearman"]["estimate"] == pytest.approx(1.0)
    assert (tmp_path / "levels.png").stat().st_size > 1000


def test_plain_lora_reads_scores_in_the_prompt(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    network = HyperNetwork(HypernetConfig(rank=2, codes=1, depth=0), find_architecture(tiny_llama).sites)
    network.randomize_(torch.Generator().manual_seed(0), std=0.3)
    network.to_peft(Personality(), tmp_path / "lora", base_model="tiny")
    method = LoraAdapter(tiny_llama, byte_tokenizer, SETTINGS, tmp_path / "lora")
    person = Personality("O5 C-2.5")
    assert "openness +5.0, conscientiousness -2.5, extraversion +0.0" in score_text(person)
    with pytest.raises(RuntimeError, match="prepare"):
        method.answer(["Hi?"], [person])
    method.prepare()
    answers = method.answer(["Hi?", "Hi?", "Hi?"], [person, Personality("O-5"), None])
    method.close()
    bare = BareModel(tiny_llama, byte_tokenizer, SETTINGS).answer(["Hi?"], [None])
    assert answers[2] == bare[0] and answers[0] != answers[2]
