"""The capability guard inside an evaluation: every method sits the tasks, and the report says what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, Personality
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.compat.transformers import cache_argument, output_cache
from dpg_fast.evaluation import BareModel, SimplePrompt, TraitPlan, WrappedModel, method_figures, run_evaluation
from dpg_fast.evaluation.activation_addition import ActivationAddition
from dpg_fast.evaluation.capability import Capability, CapabilityPlan, CapabilityRun, MethodCapability, Share, _share
from dpg_fast.evaluation.report import cost_sentence, write_evaluation_report
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration
from dpg_fast.personality.scores import POLES, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.util.stats import Interval
from tests.evaluation.test_evaluation import Reads
from tests.model.test_wrapper import random_table

E = Trait.EXTRAVERSION
PLAN = TraitPlan({E: ["A party?"]}, [-5, 5])
SETTINGS = AnswerSettings(system="Be.", max_new_tokens=3)


def methods(base: Any, tokenizer: Any) -> list[Any]:
    architecture = find_architecture(base)
    table = random_table(architecture.num_layers, architecture.intermediate)
    hypernet = HyperNetwork(HypernetConfig(rank=2), architecture.sites)
    hypernet.randomize_(torch.Generator().manual_seed(0))
    calibration = Calibration(dict.fromkeys(POLES, 2.0))
    addition = ActivationAddition(base, tokenizer, SETTINGS, layer=0, prompts=1, traits=[E])
    addition.calibration = Calibration(dict.fromkeys(POLES, 30.0))
    return [
        BareModel(base, tokenizer, SETTINGS),
        SimplePrompt(base, tokenizer, SETTINGS),
        addition,
        WrappedModel("neurons", base, tokenizer, SETTINGS, steering=table, calibration=calibration),
        WrappedModel("hypernetwork", base, tokenizer, SETTINGS, hypernet=hypernet),
    ]


@pytest.mark.slow  # lm_eval and datasets take their time to be imported
def test_every_method_sits_the_tasks_and_the_report_says_so(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    from dpg_fast.evaluation.harness import model as harness

    seen: dict[str, list[str]] = {}
    scores: dict[str, list[float]] = {}
    current = ["?"]
    original = harness.PersonalityLM.loglikelihood

    def watch(self: Any, requests: Any, disable_tqdm: bool = True) -> Any:
        found = original(self, requests, disable_tqdm)
        seen.setdefault(current[0], []).extend(request.args[0] for request in requests)
        scores.setdefault(current[0], []).extend(value for value, _ in found)
        return found

    monkeypatch.setattr(harness.PersonalityLM, "loglikelihood", watch)
    made = methods(tiny_llama, byte_tokenizer)
    plan = CapabilityPlan(["facts", "words"], items=2)

    def run() -> Capability:
        exam = CapabilityRun(made, byte_tokenizer, PLAN, plan, tmp_path, {"model": "toy"})
        return exam.run(lambda what, done, total: current.__setitem__(0, what.split(":")[0]))

    found = run()
    assert set(found.methods) == {method.name for method in made} == set(seen)
    assert found.people == ["E-5", "E+5"] and found.items == {"facts": 2, "words": 2}
    assert found.methods["bare"].mean.change is None and found.methods["bare"].worst is None
    # 2 tasks x 2 questions x 4 choices, once bare and twice by each method; each gives other probabilities than the bare model
    assert {name: len(texts) for name, texts in seen.items()} == {name: 16 if name == "bare" else 32 for name in seen}
    assert all("Answer the question." in text for texts in seen.values() for text in texts)
    assert "You are extremely introverted. Answer the question." in seen["simple prompt"][0]
    for name in set(seen) - {"bare"}:
        assert not np.allclose(scores[name][:8], scores["bare"][:8], rtol=1e-3), name
    # a second run does nothing, another plan is another job
    kept = dict(seen)
    seen.clear()
    assert run() == found and not seen
    wider = CapabilityPlan(["facts", "words", "arithmetic"], items=2)
    CapabilityRun(made, byte_tokenizer, PLAN, wider, tmp_path, {"model": "toy"}).run()
    assert sum(map(len, seen.values())) == sum(map(len, kept.values())) // 2
    with pytest.raises(ValueError, match="another run"):
        CapabilityRun(made, byte_tokenizer, PLAN, CapabilityPlan(items=3), tmp_path, {"model": "toy"})


def test_shares_are_paired_and_items_are_resampled() -> None:
    bare = np.array([1.0] * 8 + [0.0] * 2)
    same = np.stack([bare, bare])
    assert _share([same], [bare]) == Share(0.8, Interval(0.0, 0.0, 0.0, 0.95, 2000))
    worse = np.stack([bare, np.zeros(10)])
    found = _share([worse, same], [bare, bare])
    assert found.value == pytest.approx((0.4 + 0.8) / 2) and found.change is not None
    assert found.change.estimate == pytest.approx(-0.2)
    assert found.change.low < -0.2 < found.change.high < 0
    one = MethodCapability({}, found, {"E-5": Share(0.4, None), "E+5": Share(0.8, None)})
    assert one.worst == "E-5"
    assert cost_sentence(one).startswith("right answers to tasks: 60.0%, change against the bare model -20.0 [")


def test_the_report_shows_costs(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = methods(tiny_llama, byte_tokenizer)[:2]
    scorer = Scorer(Reads(), tiny_llama, byte_tokenizer, system="")
    results = run_evaluation(made, scorer, PLAN, tmp_path, {})
    change = Interval(-0.25, -0.3125, -0.125, 0.95, 2000)
    tasks = {"facts": Share(0.5, change)}
    capability = Capability(
        {
            "bare": MethodCapability({"facts": Share(0.75, None)}, Share(0.75, None), {}),
            "simple prompt": MethodCapability(
                tasks, Share(0.5, change), {"E-5": Share(0.4375, change), "E+5": Share(0.5625, change)}
            ),
        },
        {"facts": 16},
        ["E-5", "E+5"],
        CapabilityPlan(["facts"]),
    )
    figures = [method_figures(results, method.name) for method in made]
    page = write_evaluation_report(results, figures, tmp_path, judge="j", settings={}, capability=capability)
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        for expected in (
            "What steering costs",
            "75.0%",
            "50.0%",
            "-25.0 [-31.2, -12.5]",
            "E-5: 43.8%",
            "facts (n = 16)",
        ):
            assert expected in text, expected
        assert "left out" not in text
    raw = json.loads((tmp_path / "results.json").read_text())["capability"]
    assert raw["methods"]["simple prompt"]["mean"]["change"]["estimate"] == -0.25


def test_added_vectors_reach_exactly_the_steered_tokens(tiny_llama: Any, byte_tokenizer: Any) -> None:
    method = methods(tiny_llama, byte_tokenizer)[2]
    method.prepare()
    model = method.examinee(Personality("E+5")).model
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        bare = tiny_llama(ids).logits
        whole = model(ids, personality=Personality("E+5"), steer_from=0).logits
        late = model(ids, personality=Personality("E+5"), steer_from=3)
        first = model(ids[:, :3], personality=Personality("E+5"), steer_from=3, use_cache=True)
        cached = cache_argument(model, output_cache(first))
        rest = model(ids[:, 3:], personality=Personality("E+5"), steer_from=3, **cached)
    assert torch.equal(late.logits[:, :3], bare[:, :3]) and not torch.allclose(late.logits[:, 3], bare[:, 3])
    assert not torch.allclose(whole[:, 0], bare[:, 0])
    assert torch.allclose(rest.logits, late.logits[:, 3:], atol=1e-4)
    assert torch.equal(tiny_llama(ids).logits, bare)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "at least one"),
        ({"tasks": ["facts", "facts"]}, "each once"),
        ({"tasks": ["sentences"]}, "by prompt"),
        ({"items": 0}, "at least 1"),
        ({"steer_tokens": "some"}, "accepted"),
    ],
)
def test_plans_that_cannot_be_sat_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CapabilityPlan(**options)


def test_unknown_tasks_are_refused_before_any_work(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    made = methods(tiny_llama, byte_tokenizer)[:1]
    made[0].prepare = SimpleNamespace()  # is never called
    with pytest.raises(ValueError, match="unknown task 'nonsense'"):
        CapabilityRun(made, byte_tokenizer, PLAN, CapabilityPlan(["nonsense"]), tmp_path, {})
    assert not (tmp_path / "capability").exists()
