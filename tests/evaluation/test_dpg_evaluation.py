"""DPG's comparison: who is new, interpolation of known scores, an API's answers, and all tasks from end to end."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.evaluation.api_prompt import APIPrompt
from dpg_fast.evaluation.cases import JudgedCases, newcomers
from dpg_fast.evaluation.dpg.interpolation import line_cases, line_figures, parse_line
from dpg_fast.evaluation.dpg.newness import Newness, Trained, describe_newness, load_trained
from dpg_fast.evaluation.dpg.plan import DPGPlan, plan_costs
from dpg_fast.evaluation.dpg.run import DPGRun, newness_groups
from dpg_fast.evaluation.dpg.summary import write_summary
from dpg_fast.evaluation.figures import mean_spearman
from dpg_fast.evaluation.lineup import BOTH, HYPERNETWORK, Lineup, named
from dpg_fast.evaluation.methods import LORA
from dpg_fast.judges.choice import JudgeChoice
from dpg_fast.judges.scoring import Scorer
from dpg_fast.llm import LLMClient, LLMError, LLMSettings, PriceTable
from dpg_fast.model import Calibration
from dpg_fast.personality.scores import POLES, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.records import DialogueRecord, Turn, write_records
from tests.evaluation.test_evaluation import Reads
from tests.llm.server import Answer, serve
from tests.model.test_wrapper import random_table

SETTINGS = AnswerSettings(system="Be.", max_new_tokens=6, batch_size=16)
QUESTIONS = {trait: [f"{trait.value} one?", f"{trait.value} two?"] for trait in Trait}
E, N = Trait.EXTRAVERSION, Trait.NEUROTICISM


# ---------------------------------------------------------------- who is new


def test_newness_at_two_levels(tmp_path: Path) -> None:
    save_file({"levels": torch.tensor([[5.0, 5, 5, 5, 5], [2.0, -2, 2, -2, 0]])}, tmp_path / "a.safetensors")
    record = DialogueRecord(
        messages=[Turn(role="user", content="Hi")], personality=(-5, 5, 5, 5, 5), character="Ann", source="t"
    )
    write_records(tmp_path / "train.jsonl", [record])
    trained = load_trained([tmp_path, tmp_path / "train.jsonl"])
    assert len(trained.scores) == 3 and trained.lessons == 2 and trained.characters == {"Ann"}
    known, near, new = Personality([5, 5, 4.6, 5, 5]), Personality([2, 2, 2, 2, 2]), Personality([-5, -5, 5, 5, 5])
    assert not trained.is_new(known, Newness.PERSON) and not trained.is_new(known, Newness.COMBINATION)
    assert trained.is_new(near, Newness.PERSON) and not trained.is_new(near, Newness.COMBINATION)
    assert trained.is_new(new, Newness.COMBINATION)
    assert trained.distance(Personality([5, 5, 5, 5, 2])) == 3
    text = describe_newness([known, near, new], trained)
    assert "2 are new as persons" in text and "1 in the combination" in text and "2 of these are a teacher's" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no lessons"):
        load_trained([tmp_path / "empty"])


def test_new_people_are_chosen_among_those_that_are_new() -> None:
    taken = [case.personality.scores for case in newcomers(6, QUESTIONS)]
    trained = Trained(np.array(taken))
    cases = newcomers(6, QUESTIONS, trained=trained)
    assert len({case.personality for case in cases}) == 6
    assert not {case.personality.scores for case in cases} & set(taken)
    assert newcomers(6, QUESTIONS, trained=Trained(np.zeros((1, 5)))) == newcomers(6, QUESTIONS)
    everywhere = Trained(np.array(list(product((-1.0, 1.0), repeat=5))))
    assert newcomers(6, QUESTIONS, trained=everywhere) == newcomers(6, QUESTIONS)
    with pytest.raises(ValueError, match=r"only 0 of 6 .* combination"):
        newcomers(6, QUESTIONS, trained=everywhere, new_as=Newness.COMBINATION)
    half = Trained(np.array([case.personality.scores for case in cases[:15]]))
    groups = newness_groups("new", [*cases, *newcomers(6, QUESTIONS)], half)
    assert sum(groups["new as person"]) == 30 + 15


# ---------------------------------------------------------------- interpolation


def judged_as(scores: Any, cases: Any) -> JudgedCases:
    count = len(cases)
    return JudgedCases(["x"] * count, scores, np.full(count, -3.0), np.full(count, 2.0), np.zeros(count))


def test_interpolation_of_known_scores() -> None:
    line = parse_line("E-5 N2 > E+5 N-2")
    assert line.people[0] == Personality("E-5 N2") and line.people[10] == Personality("E5 N-2")
    assert line.people[5].is_neutral and line.traits == (E, N)
    cases = line_cases(line, QUESTIONS)
    assert len(cases) == 11 * 2 * 2
    scores = np.array(
        [[c.personality.scores[t.position] if c.traits == (t,) else np.nan for t in Trait] for c in cases]
    )
    steady = line_figures(line, cases, judged_as(scores, cases), resamples=50)
    for trait in (E, N):
        found = steady[trait]
        assert found.spearman.estimate == pytest.approx(1) and found.ordered.estimate == 1 and found.wrong == 0
        np.testing.assert_allclose(found.means, found.asked)
    assert steady[E].change.estimate == 10 and steady[N].change.estimate == 4
    back = line_figures(line, cases, judged_as(-scores, cases), resamples=50)
    assert back[N].spearman.estimate == pytest.approx(-1) and back[N].wrong == pytest.approx(0.4)
    bumpy = scores.copy()
    bumpy[[i for i, c in enumerate(cases) if c.traits == (E,) and c.personality.extraversion == 1], E.position] -= 3
    found = line_figures(line, cases, judged_as(bumpy, cases), resamples=50)[E]
    assert found.wrong == pytest.approx(2) and 0.8 < found.ordered.estimate < 1
    flat = line_figures(line, cases, judged_as(np.zeros_like(scores), cases), resamples=50)[E]
    assert flat.ordered.estimate == 0.5 and flat.change.estimate == 0


@pytest.mark.parametrize("text", ["E-5", "E-5 > E5 > E0", "E5 > E5", "E-5 > E9"])
def test_pairs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_line(text)


# ---------------------------------------------------------------- an API that is only prompted


def client(url: str, path: Path, **options: Any) -> LLMClient:
    settings = LLMSettings("strong", url, max_retries=0, parameters={"temperature": 0})
    return LLMClient(
        settings, path, prices=PriceTable.load({"models": {"strong": {"input": 1, "output": 2}}}), **options
    )


def test_an_api_answers_in_character_and_is_paid_once(byte_tokenizer: Any, tmp_path: Path) -> None:
    def script(request: dict[str, Any], before: int) -> Answer:
        system = request["messages"][0]["content"]
        if "neuroticism +5.0" in system:
            return Answer(None, refusal="I would rather not.")
        return Answer(json.dumps({"words": "I dance all night." if "extraversion +5.0" in system else "Hm."}))

    with serve(script) as server:
        method = APIPrompt(client(server.url, tmp_path / "a.sqlite"), byte_tokenizer, SETTINGS)
        asked = ["A party?"] * 3, [Personality("E5"), None, Personality("N5")]
        planned = method.client.plan(method.calls(zip(*asked, strict=True)), completion_tokens=20)
        assert planned.to_pay == 3 and planned.price and not server.requests
        assert method.answer(*asked) == ["I danc", "Hm.", ""]  # cut to six of the base model's tokens
        assert "1 replies were unusable" in method.describe() and method.cost and method.cost > 0
        told = {request["messages"][0]["content"] for request in server.requests}
        assert told == {"Be.", method.instruction(Personality("E5")), method.instruction(Personality("N5"))}
        count = len(server.requests)
        again = APIPrompt(client(server.url, tmp_path / "a.sqlite"), byte_tokenizer, SETTINGS)
        assert again.answer(*asked) == ["I danc", "Hm.", ""] and len(server.requests) == count and again.cost == 0
    with serve(lambda request, before: Answer(status=500, error="down")) as server:
        down = APIPrompt(client(server.url, tmp_path / "b.sqlite"), byte_tokenizer, SETTINGS)
        with pytest.raises(LLMError):
            down.answer(["A party?"], [None])


# ---------------------------------------------------------------- who takes part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypernets": {}}, "at least one adapter"),
        ({"prompts": ["magic"]}, "accepted: prompt, description"),
        ({"both": True}, "need an adapter with neurons"),
        ({"hypernets": {"bare": "x"}}, "name of its own"),
        ({"loras": {"plain": Path("nowhere")}}, "not a PEFT adapter"),
    ],
)
def test_methods_that_cannot_be_compared(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = Lineup(**{"hypernets": {"a": "x"}, **options}).compared


def test_names_of_adapters() -> None:
    assert named(["a/b"], "h") == {"h": "a/b"}
    assert named(["x=a/b", "c/d"], "h") == {"x": "a/b", "d": "c/d"}
    for wrong in (["=a"], ["x="], ["x=a", "x=b"]):
        with pytest.raises(ValueError):
            named(wrong, "h")


def test_plans_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    for options, message in (
        ({"tasks": ["dance"]}, "accepted: questions"),
        ({"tasks": ["scripted"]}, "needs records"),
        ({"tasks": ["new"], "records": tmp_path}, "not among the tasks"),
    ):
        with pytest.raises(ValueError, match=message):
            DPGPlan(**options)  # type: ignore[arg-type]


def test_costs_are_known_before_a_call_is_made(tmp_path: Path) -> None:
    plan = DPGPlan(("questions", "new", "interpolation"), questions=2, levels=(-5, 5), people=3, lines=["E-5 > E5"])
    judge = JudgeChoice("openai", "judge", "http://127.0.0.1:1/v1").make(None, None, tmp_path / "j.sqlite")
    found = plan_costs(plan, SETTINGS, 4, 1, client("http://127.0.0.1:1/v1", tmp_path / "a.sqlite"), judge, None)
    assert found["answers"].to_pay == 2 * 2 * 5 + 3 * 5
    assert found["answers"].price and found["answers"].price > 0
    # an answer has a call for its trait and one for its fluency; on the way, eleven people answer six questions
    assert found["judgements"].to_pay == 2 * (4 * (2 * 2 * 5 + 3 * 5) + 11 * 6)
    assert plan_costs(plan, SETTINGS, 4, 1, None, None, None) == {}


# ---------------------------------------------------------------- from end to end


def adapters(model: Any, folder: Path) -> None:
    """A hypernetwork, neurons and a plain LoRA of a tiny model, all random."""
    architecture = find_architecture(model)
    hypernet = HyperNetwork(HypernetConfig(rank=2), architecture.sites)
    hypernet.randomize_(torch.Generator().manual_seed(0), std=0.2)
    wrapped = PersonalityModel.from_model(model, hypernet=hypernet)
    wrapped.save_pretrained(folder / "hypernet")
    wrapped.unload()
    table = random_table(architecture.num_layers, architecture.intermediate)
    wrapped = PersonalityModel.from_model(model, steering=table, calibration=Calibration(dict.fromkeys(POLES, 2.0)))
    wrapped.save_pretrained(folder / "neurons")
    wrapped.unload()
    lora = HyperNetwork(HypernetConfig(rank=2, codes=1, depth=0), architecture.sites)
    lora.randomize_(torch.Generator().manual_seed(1), std=0.2)
    lora.to_peft(Personality(), folder / "lora", base_model="tiny")


@pytest.mark.slow
def test_all_tasks_and_methods_from_end_to_end(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    adapters(tiny_llama, tmp_path)
    turns = [Turn(role="user", content="A party?"), Turn(role="assistant", content="Yes.")]
    people = [((5, 5, 5, 5, 5), "Ann"), ((-5, 2, -5, 2, -5), "Bea"), ((2, -2, 5, -5, 0), "Cid")]
    records = [DialogueRecord(messages=turns, personality=p, character=c, source="t") for p, c in people]  # type: ignore[arg-type]
    write_records(tmp_path / "test.jsonl", records)
    write_records(tmp_path / "train.jsonl", records[:1])
    plan = DPGPlan(
        ("questions", "new", "scripted", "interpolation"),
        traits=(E, N),
        questions=2,
        levels=(-5, 0, 5),
        people=4,
        records=tmp_path / "test.jsonl",
        trained=[tmp_path / "train.jsonl"],
        lines=["E-5 > E5"],
        line_questions=2,
    )
    judge = Reads()
    said = json.dumps({"words": "I do."})
    with serve(lambda request, before: Answer(said)) as server:
        lineup = Lineup(
            {HYPERNETWORK: str(tmp_path / "hypernet"), "second": str(tmp_path / "hypernet")},
            loras={LORA: tmp_path / "lora"},
            neurons=str(tmp_path / "neurons"),
            both=True,
            api=client(server.url, tmp_path / "a.sqlite"),
        )
        methods = lineup.build(tiny_llama, byte_tokenizer, SETTINGS, lineup.locate())
        names = [method.name for method in methods]
        assert names == lineup.names
        prompts = ["simple prompt", "description prompt", "persona prompt", "graded adjectives", "contrasted prompts"]
        assert names[:7] == ["bare", *prompts, APIPrompt.name]
        assert names[7:] == [LORA, "neurons", HYPERNETWORK, "second", BOTH]
        run = DPGRun(
            plan,
            methods,
            [HYPERNETWORK, BOTH],
            lineup.compared,
            Scorer(judge, tiny_llama, byte_tokenizer, system=""),
            byte_tokenizer,
            tmp_path / "out",
            {"model": "tiny"},
            {},
            16,
            None,
            lambda what, done, total: None,
            resamples=30,
        )
        found = run.run()
        calls, asked = len(judge.calls), len(server.requests)
        again = run.run()
        assert len(judge.calls) == calls and len(server.requests) == asked
    page = write_summary(
        found, HYPERNETWORK, {m.name: m.describe() for m in methods}, tmp_path / "out", judge="J", settings={}
    )
    text, html = (tmp_path / "out" / "report.md").read_text(), page.read_text()
    for expected in (*names, "Capability was left out", "hypernetwork beside the others"):
        assert expected in text and expected in html
    assert set(found.reports) == {"questions", "new", "scripted", "interpolation"}
    for task, report in found.reports.items():
        assert report.is_file() and report.with_name("report.md").is_file(), task
    assert (tmp_path / "out" / "interpolation" / "interpolation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    scripted = (tmp_path / "out" / "scripted" / "report.md").read_text()
    assert "character new (2 answers)" in scripted and "Of 3 people, 2 are new as persons" in scripted
    assert found.questions is not None and again.questions is not None
    # the two hypernetworks are the same: no method may look better than itself
    difference = mean_spearman(found.questions, HYPERNETWORK, minus="second")
    assert difference == mean_spearman(again.questions, HYPERNETWORK, minus="second")
    assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)
    whole = mean_spearman(found.questions, HYPERNETWORK)
    own = next(m for m in found.figures if m.name == HYPERNETWORK)
    assert whole.estimate == pytest.approx(np.mean([f.spearman.estimate for f in own.traits.values()]))
    raw = json.loads((tmp_path / "out" / "report.json").read_text())
    assert raw["differences"]["new"]["second"]["estimate"] == pytest.approx(0)
