"""The capability guard: the harness's requests answered with a personality, offline tasks, costs, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dpg_fast import Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.evaluation.harness import OFFLINE, measure_capability
from dpg_fast.evaluation.harness.report import write_costs
from dpg_fast.evaluation.harness.run import _cost, _read, load_harness
from dpg_fast.evaluation.harness.tasks import CHOICES, named_task, offline_task
from dpg_fast.model import Calibration
from dpg_fast.personality.scores import POLES
from tests.model.test_wrapper import random_table

PERSON = Personality("E+5")


@pytest.fixture
def model(tiny_llama: Any) -> PersonalityModel:
    pytest.importorskip("lm_eval")
    architecture = find_architecture(tiny_llama)
    table = random_table(architecture.num_layers, architecture.intermediate)
    return PersonalityModel.from_model(tiny_llama, steering=table, calibration=Calibration(dict.fromkeys(POLES, 2.0)))


def lm(model: PersonalityModel, tokenizer: Any, personality: Personality | None = PERSON, **options: Any) -> Any:
    from dpg_fast.evaluation.harness.model import PersonalityLM

    return PersonalityLM(model, tokenizer, personality, batch_size=2, **options)


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=found) for found in arguments]


@pytest.mark.parametrize("steer_tokens", ["all", "decode"])
@pytest.mark.parametrize("personality", [None, PERSON])
def test_loglikelihood_is_that_of_the_model(
    model: PersonalityModel, byte_tokenizer: Any, steer_tokens: Any, personality: Personality | None
) -> None:
    pairs = [("What is it?", " a dog"), ("A", " cat and a bird"), ("", "Birds fly.")]
    found = lm(model, byte_tokenizer, personality, steer_tokens=steer_tokens).loglikelihood(requests(*pairs))
    for (context, answer), (value, greedy) in zip(pairs, found, strict=True):
        before = byte_tokenizer(context, add_special_tokens=False)["input_ids"] or [byte_tokenizer.eos_token_id]
        ids = before + byte_tokenizer(answer, add_special_tokens=False)["input_ids"]
        start = 0 if steer_tokens == "all" else len(before)
        with torch.no_grad():
            logits = model(torch.tensor([ids]), personality=personality, steer_from=start).logits[0]
        logp = logits.log_softmax(-1)
        picked = [float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids))]
        assert value == pytest.approx(sum(picked), rel=1e-4)
        assert greedy == all(int(logits[i - 1].argmax()) == ids[i] for i in range(len(before), len(ids)))


def test_steering_reaches_the_scores(model: PersonalityModel, byte_tokenizer: Any) -> None:
    pair = requests(("What is it?", " d"))
    bare, steered, decode = (
        lm(model, byte_tokenizer, person, steer_tokens=tokens).loglikelihood(pair)[0][0]
        for person, tokens in ((None, "all"), (PERSON, "all"), (PERSON, "decode"))
    )
    assert steered != pytest.approx(bare, rel=1e-3)
    # one-token answer (a space goes with the context's last token's prediction): only its second byte is steered
    first = lm(model, byte_tokenizer, PERSON, steer_tokens="decode").loglikelihood(requests(("What is it?", "d")))[0][0]
    assert first == pytest.approx(lm(model, byte_tokenizer, None).loglikelihood(requests(("What is it?", "d")))[0][0])
    assert decode != steered


def test_rolling_and_generation(model: PersonalityModel, byte_tokenizer: Any) -> None:
    harness = lm(model, byte_tokenizer)
    text = "The train leaves at noon."
    whole = harness.loglikelihood_rolling(requests((text,)))[0]
    assert whole == pytest.approx(harness.loglikelihood(requests(("", text)))[0][0], rel=1e-5)
    harness.max_length = 10
    assert harness.loglikelihood_rolling(requests((text,)))[0] < 0
    harness.max_length = 512
    plain = harness.generate_until(requests(("One", {"until": [], "max_gen_toks": 12}), ("Two", {"max_gen_toks": 12})))
    ids = byte_tokenizer("One", add_special_tokens=False, return_tensors="pt")
    expected = model.generate(**ids, personality=PERSON, do_sample=False, max_new_tokens=12, pad_token_id=0)
    assert plain[0] == byte_tokenizer.decode(expected[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    stop = plain[0][3]
    cut = harness.generate_until(requests(("One", {"until": [stop], "max_gen_toks": 12})))[0]
    assert cut == plain[0].split(stop)[0]
    with pytest.raises(ValueError, match="greedy"):
        harness.generate_until(requests(("One", {"do_sample": True, "temperature": 0.7})))


@pytest.mark.slow  # lm_eval and datasets take their time to be imported
def test_tasks_run_offline_resume_and_report(
    model: PersonalityModel, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: dict[str, Any] = {"about": {"model": "toy"}, "limit": 3}
    costs = measure_capability(model, byte_tokenizer, [PERSON], ["facts", "sentences"], tmp_path, **run)
    assert [(cost.task, cost.personality) for cost in costs] == [
        ("facts", "bare"),
        ("facts", "E+5"),
        ("sentences", "bare"),
        ("sentences", "E+5"),
    ]
    assert costs[0].change is None and costs[1].change is not None and costs[0].items == 3
    # the sentences' perplexity, from the harness's own requests
    bare = next(row for row in _rows(tmp_path) if (row["task"], row["personality"]) == ("sentences", "bare"))
    texts = [json.loads(line)["text"] for line in _asset("sentences")][:3]
    direct = lm(model, byte_tokenizer, None).loglikelihood_rolling(requests(*((text,) for text in texts)))
    assert [value for value, _ in bare["values"]] == pytest.approx(direct, rel=1e-4)
    words = sum(len(text.split()) for text in texts)
    assert costs[2].value == pytest.approx(math.exp(-sum(direct) / words), rel=1e-3)
    both = measure_capability(model, byte_tokenizer, [PERSON], ["facts", "words"], tmp_path, **run)[-1]
    assert (both.task, both.personality, both.items) == ("questions together", "E+5", 6)
    kept = {(row["task"], row["personality"]): row["values"] for row in _rows(tmp_path)}
    assert both.value == sum(kept["facts", "E+5"] + kept["words", "E+5"]) / 6
    page = write_costs(costs, tmp_path, {"steer_tokens": "all"})
    report = (tmp_path / "report.md").read_text()
    assert "| E+5 |" in report and "n = 3" in report and '<td class="left">E+5</td>' in page.read_text()

    seen: list[tuple[str, int, int]] = []
    with monkeypatch.context() as broken:
        broken.setattr(PersonalityModel, "forward", None)  # whatever was kept is not run again
        again = measure_capability(
            model, byte_tokenizer, [PERSON], ["facts", "sentences"], tmp_path, progress=lambda *a: seen.append(a), **run
        )
    assert again == costs and seen[-1] == ("tasks", 4, 4)
    with pytest.raises(ValueError, match="another run"):
        measure_capability(model, byte_tokenizer, [], ["facts"], tmp_path, {"model": "other"}, limit=3)


def test_costs_are_paired_with_the_bare_model() -> None:
    bare = {"task": "facts", "personality": "bare", "metric": "acc", "values": [1.0] * 8 + [0.0] * 2}
    worse = {**bare, "personality": "E+5", "values": [0.0] * 4 + [1.0] * 4 + [0.0] * 2}
    cost = _cost(worse, bare)
    assert cost.value == 0.4 and cost.change is not None
    assert cost.change.estimate == pytest.approx(-0.4) and cost.change.high < 0
    rolling = {"task": "s", "personality": "bare", "metric": "word_perplexity", "values": [[-10.0, 5.0], [-20.0, 5.0]]}
    cost = _cost({**rolling, "personality": "E+5", "values": [[-15.0, 5.0], [-25.0, 5.0]]}, rolling)
    assert cost.value == pytest.approx(math.exp(4.0)) and cost.change is not None
    assert (cost.change.estimate, cost.change.low, cost.change.high) == pytest.approx((1.0, 1.0, 1.0))


def test_samples_of_subtasks_and_filters_are_read() -> None:
    rows = [{"doc_id": i, "filter": f, "exact_match": float(i == 0)} for f in ("strict", "loose") for i in (1, 0)]
    assert _read("t", {"t_a": rows, "t_b": [{"doc_id": 0, "filter": "none", "exact_match": 1.0}]}) == {
        "metric": "exact_match",
        "values": [1.0, 0.0, 1.0],
    }
    with pytest.raises(ValueError, match="none of the metrics"):
        _read("t", {"t": [{"doc_id": 0, "filter": "none", "bleu": 1.0}]})


def test_offline_items_are_sound() -> None:
    for name in CHOICES:
        rows = [json.loads(line) for line in _asset(name)]
        assert len(rows) == 20 == len({row["id"] for row in rows}) == len({row["question"] for row in rows})
        for row in rows:
            assert len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4
            if name == "arithmetic":
                assert eval(row["question"].removeprefix("What is ").removesuffix("?")) == int(
                    row["choices"][row["answer"]]
                )
        assert max(sum(row["answer"] == i for row in rows) for i in range(4)) <= 10  # no position gives the answer away
    assert len({json.loads(line)["text"] for line in _asset("sentences")}) == 30
    assert all(offline_task(name)["task"] == f"dpg_fast_{name}" for name in OFFLINE)


def test_errors_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="accepted: facts"):
        offline_task("gsm8k")
    manager = SimpleNamespace(all_tasks=["gsm8k"])
    with pytest.raises(ValueError, match="unknown task 'nonsense'"):
        named_task("nonsense", manager)
    pytest.importorskip("lm_eval")
    import lm_eval.tasks

    def offline(*_: Any) -> None:
        raise ConnectionError("cannot reach the Hub")

    monkeypatch.setattr(lm_eval.tasks, "get_task_dict", offline)
    with pytest.raises(ValueError, match=r"gsm8k could not be loaded .*cannot reach the Hub.*network"):
        named_task("gsm8k", manager)
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"dpg-fast\[eval\]"):
        load_harness()


def _rows(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "capability.jsonl").read_text().splitlines()[1:]]


def _asset(name: str) -> list[str]:
    from importlib import resources

    file = resources.files("dpg_fast").joinpath("assets", "capability", f"{name}.jsonl")
    return file.read_text(encoding="utf-8").splitlines()
