"""The whole evaluation on tiny random characters, and its script."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.llm import LLMClient, LLMSettings
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Personality
from dpg_fast.personified.evaluate.cast import load_cast
from dpg_fast.personified.evaluate.report import lead, write_report
from dpg_fast.personified.evaluate.run import EvaluationSettings, evaluate
from dpg_fast.personified.evaluate.systems import Sampling, SystemRequest, TunedSystem, make_systems, reply_likelihoods
from dpg_fast.questionnaire.administer import administer
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import AdministrationSettings, Respondent
from tests.llm.server import Answer, last_user, serve
from tests.model.characters import write_character
from tests.personified.evaluate.people import write_people

SMALL = EvaluationSettings(
    Sampling(max_new_tokens=6, batch_size=8), forms=0, drift=0, against="sft", resamples=20
)  # fmt: skip


@pytest.fixture
def adapters(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {"sft": [], "dpo": []}
    for seed, (name, system) in enumerate((n, s) for s in found for n in ("ada_brook", "bo_lind")):
        place = tmp_path / "runs" / name / system
        write_character(tiny_llama, place, name, seed, tokenizer=byte_tokenizer)
        found[system].append(place)
    return found


def judge_script(body: dict[str, Any], number: int) -> Answer:
    """Everything agrees, everything is knowledge, everybody is first."""
    name = body["response_format"]["json_schema"]["name"]
    replies: dict[str, Any] = {
        "KindReply": {"reason": "r", "kind": "knowledge"},
        "AgreementReply": {"explanation": "e", "rating": 3},
        "StanceReply": {"reason": "r", "stance": "disagrees" if "burn" in last_user(body) else "agrees"},
    }
    if name.startswith("Ranking"):
        count = int(name.removeprefix("Ranking"))
        reply: Any = {letter: {"reason": "r", "rank": 1} for letter in "abcdefgh"[:count]}
    else:
        reply = replies[name]
    return Answer(json.dumps(reply))


@pytest.mark.slow
def test_everything_with_a_judge_and_again_from_the_journals(
    tiny_llama: Any,
    byte_tokenizer: Any,
    adapters: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    cast = load_cast(write_people(tmp_path))
    out = tmp_path / "out"

    def run(client: LLMClient) -> dict[str, Any]:
        systems = make_systems(["bare", "profile", "retrieval"], adapters, tiny_llama, byte_tokenizer, cast)
        return evaluate(systems, cast, out, SMALL, judge=client, about={"model": "tiny"})

    with serve(judge_script) as server:
        client = LLMClient(LLMSettings("judge", server.url, api_key="k" * 12), out / "replies.sqlite")
        found = run(client)
        asked = len(server.requests)
        monkeypatch.setattr(PersonalityModel, "chat", lambda *a, **k: pytest.fail("an answer was generated again"))
        again = run(client)
        assert len(server.requests) == asked
        client.cache.close()
    assert json.dumps(again, sort_keys=True, default=str) == json.dumps(found, sort_keys=True, default=str)
    assert list(found["systems"]) == ["bare", "profile", "retrieval", "sft", "dpo"]
    assert set(found["differences"]) == {"bare", "profile", "retrieval", "dpo"}
    assert (
        found["premises"]["dpo"]["resisted"]["estimate"] == 1.0
    )  # by the judge: "burn" stands in every error question
    assert found["premises_golden"]["resisted"]["estimate"] == 1.0  # by the rule
    assert found["judged"]["accuracy"]["accuracy"]["sft"]["weighted"] == 3.0
    assert found["judged"]["ranking"]["ranking"]["knowledge"]["items"] == 12
    page = write_report(found, out)
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "Intra − Stage" in text and "dpo against sft" in lead(found) and "judge over an API" in text
    assert page.is_file() and (out / "distinction.png").is_file()
    assert str(tmp_path) not in text
    for name, value in tiny_llama.state_dict().items():
        assert torch.equal(value, before[name])


def test_stages_and_characters_make_a_difference(
    tiny_llama: Any, byte_tokenizer: Any, adapters: dict[str, list[Path]], tmp_path: Path
) -> None:
    cast = load_cast(write_people(tmp_path))
    system = TunedSystem("sft", tiny_llama, byte_tokenizer, adapters["sft"], cast)
    system.prepare()
    greedy = Sampling(max_new_tokens=8, temperature=0)
    requests = [SystemRequest(person, stage, "Who are you?") for person in cast for stage in person.stages]
    together = system.answer(requests, greedy, "a")
    alone = [system.answer([request], greedy, "b")[0] for request in requests]
    system.close()
    assert together == alone and len(set(together)) == 4


def test_reply_likelihoods_are_those_of_one_row_alone(
    tiny_llama: Any, byte_tokenizer: Any, adapters: dict[str, list[Path]]
) -> None:
    model = PersonalityModel.from_model(tiny_llama, characters={"ada": adapters["sft"][0], "bo": adapters["sft"][1]})
    rows = [Personality(character="ada", stage="late"), Personality(character="bo", stage="early"), None]
    chats = [[{"role": "user", "content": text}] for text in ("Hello?", "And what of the rope, then?", "x")]
    texts, prefixes = ["Yes.", "No, never.", "Perhaps"], ["", "Well. ", ""]
    found = reply_likelihoods(model, byte_tokenizer, chats, rows, texts, prefixes)
    for i in range(3):
        (alone,) = reply_likelihoods(
            model, byte_tokenizer, chats[i : i + 1], rows[i : i + 1], texts[i : i + 1], prefixes[i : i + 1]
        )
        assert found[i].tokens == alone.tokens == len(texts[i])
        assert found[i].log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-3)
    # against a plain forward pass of the base model
    prompt = byte_tokenizer.apply_chat_template(chats[2], tokenize=False, add_generation_prompt=True)
    ids = byte_tokenizer(prompt + "Perhaps", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[-7:].sum()
    assert found[2].log_likelihood == pytest.approx(float(logp), abs=1e-3)
    other = reply_likelihoods(
        model, byte_tokenizer, chats[:1], [Personality(character="ada", stage="early")], ["Yes."], [""]
    )
    assert abs(other[0].log_likelihood - found[0].log_likelihood) > 1e-3
    model.unload()


def test_what_does_not_fit_is_said(
    tiny_llama: Any, byte_tokenizer: Any, adapters: dict[str, list[Path]], tmp_path: Path
) -> None:
    cast = load_cast(write_people(tmp_path))

    def systems(baselines: list[str], tuned: dict[str, list[Path]]) -> Any:
        return make_systems(baselines, tuned, None, None, cast)

    with pytest.raises(ValueError, match="needs one adapter of Bo Lind; it has 0"):
        systems([], {"sft": adapters["sft"][:1]})
    with pytest.raises(ValueError, match="unknown baselines oracle"):
        systems(["oracle"], {})
    with pytest.raises(ValueError, match="names a baseline"):
        systems([], {"bare": adapters["sft"]})
    with pytest.raises(ValueError, match="name a baseline"):
        systems([], {})
    with pytest.raises(FileNotFoundError, match=r"character\.json"):
        systems([], {"sft": [tmp_path]})
    write_character(
        tiny_llama, tmp_path / "young", "ada_brook", 9, stages={"early": "TIME-I"}, tokenizer=byte_tokenizer
    )
    with pytest.raises(ValueError, match="was not tuned on the stages late"):
        systems([], {"sft": [tmp_path / "young", adapters["sft"][1]]})
    with pytest.raises(ValueError, match="--against names dpo"):
        evaluate(systems(["bare"], {}), cast, tmp_path / "out", EvaluationSettings(against="dpo"))


def test_questionnaire_and_long_chat(
    tiny_llama: Any, byte_tokenizer: Any, adapters: dict[str, list[Path]], tmp_path: Path
) -> None:
    from tests.simulate.test_run import Letters

    cast = load_cast(write_people(tmp_path))
    systems = make_systems(["bare"], {"sft": adapters["sft"]}, tiny_llama, byte_tokenizer, cast)
    settings = EvaluationSettings(Sampling(max_new_tokens=4), likelihoods=False, forms=1, drift=2, resamples=10)
    found = evaluate(systems, cast, tmp_path / "out", settings, trait_judge=lambda base, tokenizer: Letters())
    assert set(found["questionnaire"]) == set(found["drift"]) == {"sft"}
    labels = ["Ada Brook, early", "Ada Brook, late", "Bo Lind, early", "Bo Lind, late"]
    assert (
        [p["label"] for p in found["questionnaire"]["sft"]["respondents"]] == found["drift"]["sft"]["labels"] == labels
    )
    write_report(found, tmp_path / "out")
    assert "Long chat" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_command(
    tiny_llama: Any,
    byte_tokenizer: Any,
    adapters: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda name, dtype: (tiny_llama, byte_tokenizer))
    words = ["evaluate", "personified", "--out", str(tmp_path / "out")]
    for folder in write_people(tmp_path):
        words += ["--data", str(folder)]
    for name, places in adapters.items():
        for place in places:
            words += ["--system", f"{name}={place}"]
    words += [
        "--baselines",
        "bare",
        "--against",
        "sft",
        "--max-new-tokens",
        "4",
        "--forms",
        "0",
        "--drift",
        "0",
        "--resamples",
        "5",
    ]
    runner = CliRunner()
    result = runner.invoke(app, words)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))
    assert figures["against"] == "sft" and list(figures["systems"]) == ["bare", "sft", "dpo"]
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda *found: pytest.fail("the model was loaded"))
    for change, message in (
        (["--system", "x"], "NAME=DIR"),
        (["--data", str(tmp_path / "no")], "train.jsonl"),
        (["--judge-url", "http://x"], "judge-model"),
    ):
        refused = runner.invoke(app, [*words, *change])
        assert refused.exit_code == 2 and message in refused.output


@pytest.mark.slow
def test_profiles_make_smollm2_distinct(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    """A real model: with a profile in the instruction, people and stages differ more than without."""
    base, tokenizer = copy.deepcopy(smollm2[0]), smollm2[1]
    cast = load_cast(write_people(tmp_path))
    systems = make_systems(["bare", "profile"], {}, base, tokenizer, cast)
    settings = EvaluationSettings(Sampling(max_new_tokens=24), forms=0, drift=0, against="bare", resamples=20)
    found = evaluate(systems, cast, tmp_path / "out", settings)
    assert (
        found["distinction"]["profile"]["mean"]["inter"]["estimate"]
        < found["distinction"]["profile"]["mean"]["intra"]["estimate"]
    )
    assert (
        found["stages"]["profile"]["likelihood"]["estimate"] > 0.6
    )  # golden answers are likelier under their own stage
    assert found["stages"]["bare"]["margin"]["estimate"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", ["logprobs", "generate"])
def test_stages_fill_in_questionnaires_as_alone(
    tiny_llama: Any, byte_tokenizer: Any, adapters: dict[str, list[Path]], method: Any
) -> None:
    """With several people in one session everybody answers as in a session alone, and the two stages differ."""
    inventory = bundled_inventory()
    inventory = replace(inventory, items=inventory.items[:6])
    model = PersonalityModel.from_model(tiny_llama, characters={"ada": adapters["sft"][0], "bo": adapters["sft"][1]})
    people = [
        Respondent("base"),
        Respondent("ada early", Personality(character="ada", stage="early")),
        Respondent("ada late", Personality(character="ada", stage="late")),
        Respondent("bo late", Personality(character="bo", stage="late"), "You are tired."),
    ]
    settings = AdministrationSettings(method=method, batch_size=8)
    together = administer(model, byte_tokenizer, inventory, people, make_forms(inventory, 1), settings).ratings()
    for i, person in enumerate(people):
        alone = administer(model, byte_tokenizer, inventory, [person], make_forms(inventory, 1), settings).ratings()
        assert together[i] == pytest.approx(alone[0], abs=1e-4, nan_ok=True)
    if method != "generate":
        assert abs(together[1] - together[2]).max() > 1e-3
    model.unload()
