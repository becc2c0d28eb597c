"""The evaluation: figures on answers whose scores are known, methods on a tiny model, the report, resuming."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.evaluation import (
    BareModel,
    DescriptionPrompt,
    SimplePrompt,
    TraitPlan,
    WrappedModel,
    method_figures,
    run_evaluation,
)
from dpg_fast.evaluation.activation_addition import ActivationAddition, ActivationSettings
from dpg_fast.evaluation.contrast import ContrastPrompt
from dpg_fast.evaluation.lineup import Lineup, of_adapter
from dpg_fast.evaluation.methods import MARKERS, AdjectivePrompt
from dpg_fast.evaluation.questions import held_out_questions
from dpg_fast.evaluation.report import verdict, write_evaluation_report
from dpg_fast.judges.choice import JudgeChoice
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.assets import load_descriptions, load_questions
from tests.llm.server import Answer, serve
from tests.model.test_wrapper import random_table

E, N = Trait.EXTRAVERSION, Trait.NEUROTICISM
QUESTIONS = {E: ["A party?", "A stranger?", "Alone at home?"], N: ["A dark road?", "A letter?"]}
SETTINGS = AnswerSettings(system="Be.", max_new_tokens=6, batch_size=8)


@dataclass
class Reads:
    """Reads scores out of answers that are JSON; says nothing about others."""

    calls: list[tuple[str, ...]] = field(default_factory=list)
    fails: bool = False

    def judge_all(self, pairs: Sequence[tuple[str, str]], *, traits: Any = None, progress: Any = None) -> Any:
        self.calls.append(tuple(trait.letter for trait in traits))
        return [_Verdict({} if self.fails else self._read(answer, traits)) for _, answer in pairs]

    def judge(self, question: str, answers: Sequence[str], *, traits: Any = None) -> Any:
        return self.judge_all([(question, answer) for answer in answers], traits=traits)

    def _read(self, answer: str, traits: Sequence[Trait]) -> dict[Trait, float]:
        if not answer.startswith("{"):
            return dict.fromkeys(traits, float(len(answer) % 7) - 3)
        return {trait: json.loads(answer)[trait.letter] for trait in traits}

    def describe(self) -> str:
        return "reads scores"


@dataclass
class _Verdict:
    scores: Mapping[Trait, float]
    reason: str | None = None


class Obedient(BareModel):
    """Shows what is asked for: extraversion in full, neuroticism backwards, and half of E in N."""

    name = "obedient"

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        self.asked += len(questions)
        return [
            json.dumps({"E": p["E"], "N": -p["N"] / 5 + p["E"] / 2, "q": question}) if p else "neutral"
            for question, p in zip(questions, personalities, strict=True)
        ]


class Silent(BareModel):
    """Answers without a model."""

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        return [json.dumps({"E": 1.0, "N": 0.0}) for _ in questions]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> BareModel:
    method = BareModel(None, None, SETTINGS)
    monkeypatch.setattr(BareModel, "answer", Silent.answer)
    return method


def scorer(model: Any, tokenizer: Any, judge: Any = None) -> Scorer:
    return Scorer(judge or Reads(), model, tokenizer, system="")


def test_figures_of_known_answers(tiny_llama: Any, byte_tokenizer: Any, bare: BareModel, tmp_path: Path) -> None:
    plan = TraitPlan(QUESTIONS, [-5, -2, 0, 2, 5])
    judge = Reads()
    results = run_evaluation([bare, Obedient()], scorer(tiny_llama, byte_tokenizer, judge), plan, tmp_path, {})
    found = method_figures(results, "obedient")
    good, wrong = found.traits[E], found.traits[N]
    assert [level.score for level in good.levels] == [-5, -2, 1, 2, 5]  # level 0 is the bare model's
    assert good.spearman.estimate == pytest.approx(1.0) and good.spearman_means == pytest.approx(1.0)
    assert (good.difference.estimate, good.difference.low, good.difference.high) == (10, 10, 10)
    assert (good.high, good.low, good.variance_high, good.trait_score) == (5, 1, 0, 10)
    assert wrong.difference.estimate == -2 and wrong.spearman.estimate < -0.8
    assert found.cross is not None
    assert found.cross[E][N].estimate == 5 and found.cross[N][E].estimate == 0
    assert found.trait_score == pytest.approx((10 + 6 - 0.8) / 2)
    still = method_figures(results, "bare")
    assert still.trait_score == 6 and math.isnan(still.traits[E].spearman.estimate)
    assert "works:" in verdict(E, good, plan.ends) and "excludes 0 by 10.00" in verdict(E, good, plan.ends)
    assert "wrong way" in verdict(N, wrong, plan.ends)
    assert "not shown" in verdict(E, still.traits[E], plan.ends)
    # each question once for each trait, with all methods' answers together; the other trait at the ends alone
    assert sorted(judge.calls) == [("E",)] * 5 + [("N",)] * 5
    middle = tmp_path / "scores" / "obedient.jsonl"
    assert {row["measure"] for row in map(json.loads, middle.open().readlines()[1:]) if row["level"] == 2.0} == {
        "fluency",
        "extraversion",
        "neuroticism",
    }
    assert sum('"measure": "extraversion"' in line for line in middle.open()) == 3 * 4 + 2 * 2


def test_interval_that_includes_zero_is_said_so(
    tiny_llama: Any, byte_tokenizer: Any, bare: BareModel, tmp_path: Path
) -> None:
    class Moody(Obedient):
        name = "moody"

        def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
            return [
                json.dumps({"E": (p["E"] if p else 0) * (1 if len(q) % 2 else -1), "N": 0.0})
                for q, p in zip(questions, personalities, strict=True)
            ]

    questions = {E: ["a", "bb", "ccc", "dddd"]}
    results = run_evaluation(
        [bare, Moody()], scorer(tiny_llama, byte_tokenizer), TraitPlan(questions, [-5, 5]), tmp_path, {}
    )
    figures = method_figures(results, "moody").traits[E]
    assert figures.difference.low < 0 < figures.difference.high
    assert "includes 0" in verdict(E, figures, (-5.0, 5.0))


def test_evaluation_resumes_extends_and_retries(
    tiny_llama: Any, byte_tokenizer: Any, bare: BareModel, tmp_path: Path
) -> None:
    class Dies(Obedient):
        def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
            if self.asked >= 4:
                raise KeyboardInterrupt
            return super().answer(questions, personalities)

    plan = TraitPlan(QUESTIONS, [-5, 5])
    use = scorer(tiny_llama, byte_tokenizer)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation([bare, Dies()], use, plan, tmp_path, {}, batch_size=2)
    second = Obedient()
    run_evaluation([bare, second], scorer(tiny_llama, byte_tokenizer, Reads(fails=True)), plan, tmp_path, {})
    assert second.asked == 10 - 4
    judge = Reads()
    results = run_evaluation([bare, second], scorer(tiny_llama, byte_tokenizer, judge), plan, tmp_path, {})
    assert judge.calls and second.asked == 6  # what failed was judged again, nothing was generated again
    assert method_figures(results, "obedient").traits[E].difference.estimate == 10
    judge.calls.clear()
    run_evaluation([bare, second], scorer(tiny_llama, byte_tokenizer, judge), plan, tmp_path, {})
    assert not judge.calls
    wider = TraitPlan(QUESTIONS, [-5, -1, 5])
    run_evaluation([bare, second], scorer(tiny_llama, byte_tokenizer, judge), wider, tmp_path, {})
    assert second.asked == 6 + 5
    with pytest.raises(ValueError, match="another run"):
        run_evaluation([bare, second], use, plan, tmp_path, {"model": "other"})
    with pytest.raises(ValueError, match="bare model comes first"):
        run_evaluation([second], use, plan, tmp_path, {})


def test_report_and_raw_numbers(tiny_llama: Any, byte_tokenizer: Any, bare: BareModel, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = run_evaluation([bare, Obedient()], scorer(tiny_llama, byte_tokenizer), TraitPlan(QUESTIONS), tmp_path, {})
    figures = [method_figures(results, name) for name in ("bare", "obedient")]
    asked = ("extraversion", 5.0, QUESTIONS[E][0])
    results.rows["obedient"][asked]["answer"] = "<script>alert(5)</script>"  # type: ignore[index]
    page = write_evaluation_report(results, figures, tmp_path, judge="reads scores", settings={"model": "toy"})
    html = page.read_text()
    assert "Capability was left out" in html and "Capability was left out" in (tmp_path / "report.md").read_text()
    assert "&lt;script&gt;alert(5)&lt;/script&gt;" in html and "<script" not in html
    assert "extraversion works" in html and "obedient, extraversion +5" in html and html.count("data:image/png") == 3
    assert str(tmp_path) not in html and json.loads((tmp_path / "report.json").read_text())["figures"]["bare"]
    text = (tmp_path / "report.md").read_text()
    for expected in (
        "extraversion works: from -5 to +5",
        "neuroticism goes the wrong way",
        "Only 2 questions",
        "reads scores",
    ):
        assert expected in text
    assert str(tmp_path) not in text
    raw = json.loads((tmp_path / "results.json").read_text())
    assert len(raw["answers"]) == 2 * 11 * 5
    assert raw["figures"]["obedient"]["cross"]["extraversion"]["neuroticism"]["estimate"] == 5
    assert raw["figures"]["obedient"]["traits"]["extraversion"]["trait_score"] == 10
    for picture in ("sweep.png", "cross_trait.png"):
        assert (tmp_path / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# ---------------------------------------------------------------- methods


def test_prompts_say_what_is_asked_for() -> None:
    simple, described = SimplePrompt(None, None, SETTINGS), DescriptionPrompt(None, None, SETTINGS)
    assert simple.persona(Personality("E-5 N+2")) == "You are extremely introverted, somewhat neurotic."
    assert simple._systems([None, Personality("O+3")]) == ["Be.", "You are quite open. Be."]
    text = described.persona(Personality("E+1"))
    assert load_descriptions("E+", "search")[0].text in text and "only slightly" in text
    judged = {row.text for pole in POLES for row in load_descriptions(pole, "judge")}
    assert not any(person in described.persona(Personality("O5 C5 E5 A5 N5")) for person in judged)


def test_adjectives_are_graded() -> None:
    method = AdjectivePrompt(None, None, SETTINGS)
    assert method.persona(Personality()) == ""
    texts = {level: method.persona(Personality({"E": level})) for level in (-5, -3, 1, 4)}
    assert texts[-5].startswith(
        "Respond in a way that matches this description: \"I'm extremely unfriendly, extremely silent"
    )
    assert "\"I'm unfriendly, silent, timid" in texts[-3]
    assert "a bit friendly" in texts[1] and "very friendly" in texts[4]
    for high, low in MARKERS.values():
        assert len(high) == len(low) == len(MARKERS["O"][0]) and not set(high) & set(low)


def test_contrasted_prompts_answer_each_as_its_own_person(tiny_llama: Any, byte_tokenizer: Any) -> None:
    settings = dataclasses.replace(SETTINGS, repetition_penalty=1.0)
    method = ContrastPrompt(tiny_llama, byte_tokenizer, settings, strength=3.0)
    questions = ["A party?", "Why?", "A party?", "A party?"]
    people = [Personality("E+5"), Personality("N-5 O+3"), None, Personality("E-5")]
    method.prepare()
    together = method.answer(questions, people)
    alone = [method.answer([question], [person])[0] for question, person in zip(questions, people, strict=True)]
    assert together == alone and len(set(together)) == 4
    bare = BareModel(tiny_llama, byte_tokenizer, settings)
    assert together[2] == bare.answer(questions[2:3], [None])[0]
    with pytest.raises(ValueError, match="several prompts speak at once"):
        method.examinee(Personality("E+5"))


def test_wrapped_methods_leave_the_base_untouched(tiny_llama: Any, byte_tokenizer: Any) -> None:
    architecture = find_architecture(tiny_llama)
    table = random_table(architecture.num_layers, architecture.intermediate)
    hypernet = HyperNetwork(HypernetConfig(rank=2), architecture.sites)
    hypernet.randomize_(torch.Generator().manual_seed(0))
    bare = BareModel(tiny_llama, byte_tokenizer, SETTINGS)
    before = bare.answer(["A party?"], [Personality("E+5")])
    said = {}
    for name, parts in {
        "neurons": {"steering": table, "calibration": Calibration(dict.fromkeys(POLES, 2.0))},
        "hypernetwork": {"hypernet": hypernet},
    }.items():
        method = WrappedModel(name, tiny_llama, byte_tokenizer, SETTINGS, **parts)  # type: ignore[arg-type]
        assert method.neutral_is_bare == (name == "neurons")
        with pytest.raises(RuntimeError, match="prepare"):
            method.answer(["A party?"], [None])
        method.prepare()
        said[name] = method.answer(["A party?"] * 2, [Personality("E+5"), None])
        method.close()
        assert said[name][1] == before[0] != said[name][0]
        assert bare.answer(["A party?"], [None]) == before


def test_activation_addition_adds_the_difference_of_means(tiny_llama: Any, byte_tokenizer: Any) -> None:
    method = ActivationAddition(tiny_llama, byte_tokenizer, SETTINGS, layer=0, prompts=2, traits=[E])
    method.prepare()
    assert method._directions is not None
    direction = method._directions[E.position]
    assert direction.norm() > 0 and method._directions[N.position].norm() == 0
    states: list[torch.Tensor] = []
    after = tiny_llama.model.layers[1]
    handle = after.register_forward_pre_hook(
        lambda m, a, k: states.append((a or (k["hidden_states"],))[0]), with_kwargs=True
    )
    plain = method.answer(["A party?"], [None])
    still = list(states)
    states.clear()
    moved = method.steer(["A party?"] * 2, [Pole(E, True), Pole(E, False)], [0.0, 3.0])
    handle.remove()
    assert moved[0] == plain[0]
    assert torch.allclose(states[0][0], still[0][0], atol=1e-5)  # the prompt
    # the first generated token is the same in both rows: its state differs by what was added
    added = states[1][1, 0] - states[1][0, 0]
    assert torch.allclose(added, -3.0 * direction, atol=1e-4)
    with pytest.raises(ValueError, match="layers 0 to 1"):
        ActivationAddition(tiny_llama, byte_tokenizer, SETTINGS, layer=2)


def test_methods_are_built_of_what_the_adapter_has(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    architecture = find_architecture(tiny_llama)
    table = random_table(architecture.num_layers, architecture.intermediate)
    model = PersonalityModel.from_model(tiny_llama, steering=table)
    model.save_pretrained(tmp_path / "adapter")
    model.unload()
    for names, message in (
        (["hypernet"], "no hypernet"),
        (["adapter"], "both neurons"),
        (["magic"], "accepted: prompt"),
    ):
        with pytest.raises(ValueError, match=message):
            of_adapter(names, tmp_path / "adapter")
    every = of_adapter(None, tmp_path / "adapter")
    assert every.names == [
        "bare",
        "simple prompt",
        "description prompt",
        "persona prompt",
        "graded adjectives",
        "contrasted prompts",
        "activation addition",
        "neurons",
    ]
    settings = ActivationSettings(prompts=1, questions=2, most=1.0, steps=2)
    lineup = of_adapter(["activation", "prompt"], tmp_path / "adapter", activation=settings)
    use = scorer(tiny_llama, byte_tokenizer)
    options: dict[str, Any] = {"scorer": use, "output": tmp_path, "traits": [E]}
    methods = lineup.build(tiny_llama, byte_tokenizer, SETTINGS, lineup.locate(), **options)
    assert [method.name for method in methods] == ["bare", "simple prompt", "activation addition"] == lineup.names
    with pytest.raises(ValueError, match="needs a scorer"):
        Lineup(activation=settings).build(tiny_llama, byte_tokenizer, SETTINGS, {})
    methods[2].prepare()
    fitted = methods[2].calibration  # type: ignore[attr-defined]
    assert set(fitted.curves) == {Pole(E, True), Pole(E, False)}
    asked = {
        json.loads(line)["question"] for line in (tmp_path / "activation_fit" / "answers.jsonl").open().readlines()[1:]
    }
    assert asked == {q.question for q in load_questions(E, "fit")[:2]}


def test_questions_are_held_out() -> None:
    found = held_out_questions([E, N], 3)
    assert {len(texts) for texts in found.values()} == {3}
    seen = {q.question for split in ("search", "fit") for q in load_questions(split=split)}  # type: ignore[arg-type]
    assert not seen & {text for texts in found.values() for text in texts}
    with pytest.raises(ValueError, match="12 test questions"):
        held_out_questions([E], 13)
    with pytest.raises(ValueError, match="both sides of 0"):
        TraitPlan(QUESTIONS, [0, 5])
    assert math.isclose(TraitPlan(QUESTIONS, [5, -5, 5]).ends[0], -5)


# ---------------------------------------------------------------- judges


def test_an_api_judges_and_rates_fluency(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("GATEWAY_KEY", "open-sesame")

    def script(request: dict[str, Any], before: int) -> Answer:
        about = request["messages"][0]["content"]
        return Answer(json.dumps({"explanation": "so", "rating": 4 if "fluent an answer" in about else 5}))

    with serve(script) as server:
        extra: dict[str, Any] = {"headers": {"api-key": "GATEWAY_KEY"}, "query": {"api-version": "3"}}
        judge = JudgeChoice("openai", "toy", server.url, **extra).make(None, None, tmp_path / "replies.sqlite")
        use, said = Scorer(judge, tiny_llama, byte_tokenizer, system=""), ("A party?", ["I dance.", ""])
        rows = [a | b for a, b in zip(use.judge_traits(*said, [E]), use.fluency(*said), strict=True)]
    assert rows[0]["scores"] == {"extraversion": 5.0} and rows[0]["rated_fluency"] == 4 and rows[0]["tokens"] == 8
    assert all(request["headers"]["api-key"] == "open-sesame" for request in server.requests)
    assert all(request["path"].endswith("?api-version=3") for request in server.requests)
    assert rows[1]["scores"] == {} and rows[1]["empty"] and rows[1]["reason"] == "the answer is empty"


def test_judge_options_that_do_not_belong_together() -> None:
    for options, message in (
        ({"kind": "oracle"}, "likelihood, openai"),
        ({"kind": "openai"}, "--judge-model"),
        ({"model": "gpt"}, "--judge openai"),
        ({"headers": {"api-key": "KEY"}}, "--judge openai"),
        ({"query": {"api-version": "3"}}, "--judge openai"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgeChoice(**options)
