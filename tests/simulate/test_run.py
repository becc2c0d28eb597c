"""Conversations from beginning to end: batches, seeds, readings, resuming, endpoints, transcripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.cli.simulate.run import RunOptions, run_simulation
from dpg_fast.judges.dialogues import read_dialogue
from dpg_fast.llm import LLMClient, LLMSettings
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import Trait
from dpg_fast.simulate.run import Simulation, simulate
from dpg_fast.simulate.scenario import Endpoint, Scenario
from dpg_fast.simulate.voices import EndpointVoice, LocalVoice, Voices, endpoint_key
from dpg_fast.simulate.writing import write_transcripts
from dpg_fast.text.records import DialogueRecord, read_records
from tests.llm.server import Answer, serve
from tests.model.characters import write_character
from tests.simulate.cast import endpoint, parrot, scenario, write_scenario
from tests.support import ROOT


class Letters:
    """A judge that counts letters: openness from how often "e" stands in the text."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def judge_all(self, pairs: Any, *, traits: Any = None, progress: Any = None) -> Any:
        self.asked += pairs

        class Verdict:
            reason = None

            def __init__(self, text: str) -> None:
                self.scores = {Trait.OPENNESS: min(5.0, text.count("e") / 2)}

        return [Verdict(text) for _, text in pairs]

    def judge(self, question: str, answers: Any, *, traits: Any = None) -> Any:
        return self.judge_all([(question, answer) for answer in answers])

    def describe(self) -> str:
        return "It counts letters."


def _voices(model: Any, tokenizer: Any, batch_size: int = 32) -> Voices:
    return Voices(LocalVoice(model, tokenizer, batch_size), {})


@pytest.fixture
def tiny(tiny_llama: Any) -> PersonalityModel:
    return PersonalityModel(tiny_llama)


def _texts(simulation: Simulation) -> list[list[tuple[int, str]]]:
    return [[(said.speaker, said.text) for said in c.said] for c in simulation.conversations]


def test_conversations_have_their_turns_and_differ_by_seed(
    tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path
) -> None:
    scenarios = [scenario(), scenario(name="longer", turns=8, opening=[{"speaker": "Bo", "text": "Well?"}])]
    found = simulate(scenarios, [0, 1], _voices(tiny, byte_tokenizer), tmp_path, {})
    assert [len(c.said) for c in found.conversations] == [6, 6, 8, 8]
    assert [s for s, _ in _texts(found)[0]] == [0, 1] * 3 and [s for s, _ in _texts(found)[2]] == [1, 0] * 4
    assert len({json.dumps(row) for row in _texts(found)}) == 4
    again = simulate(scenarios, [0, 1], _voices(tiny, byte_tokenizer), tmp_path / "again", {})
    assert _texts(again) == _texts(found)


def test_a_stopped_run_continues_with_the_same_words(
    tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path
) -> None:
    scenarios = [scenario()]
    whole = simulate(scenarios, [0, 1], _voices(tiny, byte_tokenizer), tmp_path / "whole", {})

    def stop(simulation: Simulation, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(scenarios, [0, 1], _voices(tiny, byte_tokenizer), tmp_path / "stopped", {}, progress=stop)
    journal = tmp_path / "stopped" / "turns.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"step": 3, "said": [[1, "half')  # killed while writing
    judge = Letters()
    rest = simulate(scenarios, [0, 1], _voices(tiny, byte_tokenizer), tmp_path / "stopped", {}, judge=judge)
    assert _texts(rest) == _texts(whole) and len(judge.asked) == 12


def test_another_run_is_not_continued(tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path) -> None:
    voices = _voices(tiny, byte_tokenizer)
    simulate([scenario(turns=1)], [0], voices, tmp_path, {})
    with pytest.raises(ValueError, match="another run"):
        simulate([scenario(turns=2)], [0], voices, tmp_path, {})


def test_readings_see_the_turn_with_what_it_answers(
    tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path
) -> None:
    judge = Letters()
    talk = scenario(turns=5, cue="Begin.", opening=[{"speaker": "Ada Brook", "text": "Where were we?"}])
    found = simulate([talk], [0], _voices(tiny, byte_tokenizer), tmp_path, {}, judge=judge, judge_every=3)
    said = [turn.text for turn in found.conversations[0].said]
    assert judge.asked == [(said[2], said[3]), (said[3], said[4])]  # the third step, and the last turn
    assert set(found.readings) == {(0, 3), (0, 4)}
    once_more = Letters()
    simulate([talk], [0], _voices(tiny, byte_tokenizer), tmp_path, {}, judge=once_more, judge_every=3)
    assert once_more.asked == []


def test_endpoints_and_the_local_model_talk(tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path) -> None:
    with serve(parrot) as server:
        far = endpoint(server.url) | {"parameters": {"top_p": None, "seed": 7}}
        talk = scenario(
            speakers=[{"name": "Ada Brook", "persona": "You build bridges."}, {"name": "Bo", "endpoint": far}]
        )
        key = endpoint_key(Endpoint.model_validate(far))

        def run(folder: Path) -> Simulation:
            client = LLMClient(LLMSettings("actor", server.url, api_key="k" * 12), tmp_path / "replies.sqlite")
            local = LocalVoice(tiny, byte_tokenizer)
            return simulate([talk], [0, 1], Voices(local, {key: EndpointVoice(client)}), folder, {})

        found = run(tmp_path / "a")
        assert len(server.requests) == 6  # two conversations, three turns each
        assert "top_p" not in server.requests[0] and server.requests[0]["seed"] == 7
        words = [turn.text for turn in found.conversations[0].said if turn.speaker == 1]
        assert [text.split(" lines")[0] for text in words] == ["I heard 1", "I heard 3", "I heard 5"]
        assert _texts(run(tmp_path / "b")) == _texts(found) and len(server.requests) == 6  # replies are stored


def test_an_endpoint_that_fails_keeps_what_was_said(tmp_path: Path) -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        return parrot(body, number) if number < 3 else Answer(None, refusal="no more")

    with serve(script) as server:
        far = endpoint(server.url)
        talk = scenario(speakers=[{"name": "Ada Brook", "endpoint": far}, {"name": "Bo", "endpoint": far}])
        client = LLMClient(LLMSettings("actor", server.url, api_key="k" * 12, max_retries=0), tmp_path / "r.sqlite")
        voices = Voices(None, {endpoint_key(Endpoint.model_validate(far)): EndpointVoice(client)})
        with pytest.raises(ValueError, match=r"talk#0, turn 4: refused"):
            simulate([talk], [0], voices, tmp_path, {})
        assert len((tmp_path / "turns.jsonl").read_text().splitlines()) == 1 + 3


def test_long_conversations_stay_within_the_context(
    tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path
) -> None:
    talk = scenario(turns=30, context_tokens=160)
    voice = LocalVoice(tiny, byte_tokenizer)
    found = simulate([talk], [0], Voices(voice, {}), tmp_path, {})
    chat = voice.prompt(found.conversations[0], 0)
    text = byte_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert len(byte_tokenizer(text, add_special_tokens=False)["input_ids"]) + 8 <= 160
    assert 2 < len(chat) < 30


def test_a_personality_that_the_model_cannot_give(tiny: PersonalityModel, byte_tokenizer: Any) -> None:
    voice = LocalVoice(tiny, byte_tokenizer)
    with pytest.raises(ValueError, match="Bo of talk cannot speak"):
        voice.check([scenario(speakers=[{"name": "Ada"}, {"name": "Bo", "personality": "E+5"}])])


def test_transcripts_can_be_judged_for_every_speaker(
    tiny: PersonalityModel, byte_tokenizer: Any, tmp_path: Path
) -> None:
    talk = scenario(setting="<script>alert(1)</script>", about="*Two* talk.")
    judge = Letters()
    found = simulate([talk], [0, 1], _voices(tiny, byte_tokenizer), tmp_path, {}, judge=judge)
    page = write_transcripts(found, [talk], tmp_path, {"model": "tiny"}, judge.describe())
    records = list(read_records(tmp_path / "dialogues.jsonl", DialogueRecord))
    assert [record.source for record in records] == ["simulate:talk#0", "simulate:talk#1"]
    for target, place in (("Ada Brook", 0), ("Bo", 1)):
        said = tuple(turn.text for turn in found.conversations[0].said if turn.speaker == place)
        assert read_dialogue(records[0], target).target_texts == said
    text = (tmp_path / "transcript.md").read_text(encoding="utf-8")
    assert text.count("- Ada Brook (O ") == 6 and "**Seed 1**" in text and "<script>" not in text
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "It counts letters." in html and (tmp_path / "talk.png").is_file()


def test_the_command_on_endpoints_alone_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATE_TEST_KEY", "secret-" * 3)
    monkeypatch.setattr("dpg_fast.cli.simulate.run.load_model", lambda options: pytest.fail("the model was loaded"))
    with serve(parrot) as server:
        far = endpoint(server.url)
        file = write_scenario(
            tmp_path / "talk.yaml",
            speakers=[
                {"name": "Ada Brook", "endpoint": far},
                {"name": "Bo", "endpoint": far},
                {"name": "Cy", "endpoint": far},
            ],
            order="addressed",
        )
        out = tmp_path / "out"
        result = CliRunner().invoke(
            app, ["simulate", "run", str(file), "--out", str(out), "--seeds", "2", "--readings", "0"]
        )
        assert result.exit_code == 0, result.output
        assert len(server.requests) == 12
    assert len(list(read_records(out / "dialogues.jsonl", DialogueRecord))) == 2
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"secret-" not in everything


@pytest.mark.parametrize(
    ("speakers", "words", "message"),
    [
        ([{"name": "A", "personality": "E+1"}, {"name": "B"}], [], "needs an adapter"),
        ([{"name": "A", "character": "ada"}, {"name": "B"}], [], "--character NAME=DIRECTORY"),
        ([{"name": "A"}, {"name": "B"}], ["--character", "ada=/nowhere"], "no scenario has the character ada"),
        ([{"name": "A", "character": "ada"}, {"name": "B"}], ["--character", "ada=/nowhere"], "does not exist"),
        ([{"name": "A"}, {"name": "B"}], ["--character", "ada"], "takes NAME=DIRECTORY"),
        ([{"name": "A"}, {"name": "B"}], ["--traits", "XYZ"], "unknown trait"),
        ([{"name": "A"}, {"name": "B"}], ["--judge", "oracle"], "'oracle' is not one of"),
        ([{"name": "A"}, {"name": "B"}], ["--dtype", "int4"], "dtype"),
    ],
)
def test_what_is_missing_is_said_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speakers: list[Any], words: list[str], message: str
) -> None:
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda *a: pytest.fail("the model was loaded"))
    file = tmp_path / "talk.yaml"
    file.write_text(json.dumps({"speakers": speakers}))
    result = CliRunner().invoke(app, ["simulate", "run", str(file), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2 and message in result.output, result.output
    assert not (tmp_path / "out").exists()


def test_check_shows_who_speaks(tmp_path: Path) -> None:
    file = write_scenario(tmp_path / "talk.yaml")
    result = CliRunner().invoke(app, ["simulate", "run", str(file), "--out", str(tmp_path / "out"), "--check"])
    assert result.exit_code == 0 and "the base model" in result.output and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_without_paying_twice(tmp_path: Path) -> None:
    def slowly(body: dict[str, Any], number: int) -> Answer:
        answer = parrot(body, number)
        answer.delay = 0.1
        return answer

    with serve(slowly) as server:
        far = endpoint(server.url)
        file = write_scenario(
            tmp_path / "talk.yaml",
            speakers=[{"name": "Ada Brook", "endpoint": far}, {"name": "Bo", "endpoint": far}],
            turns=20,
        )
        out = tmp_path / "out"
        program = "from dpg_fast.cli.app import main; main()"
        command = [sys.executable, "-c", program, "simulate", "run", str(file), "--out", str(out), "--seeds", "1"]
        command += ["--readings", "0"]
        environment = os.environ | {"SIMULATE_TEST_KEY": "k" * 12}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while len(server.requests) < 6:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = len(server.finished)
        assert 4 <= done < 20
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        assert 20 <= len(server.requests) <= 22  # the call under way when it was killed may be sent again
    (record,) = read_records(out / "dialogues.jsonl", DialogueRecord)
    assert len(record.messages) == 20


@pytest.mark.slow
def test_smollm2_holds_the_shipped_conflict(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    file = ROOT / "recipes" / "scenarios" / "conflict_big_five.yaml"
    options = RunOptions(adapter="smollm2-hypernet", seeds=(0, 1, 2, 3), turns=6, traits="A")
    found = run_simulation([file], tmp_path, options, console=Console(quiet=True))
    scenario = found.conversations[0].scenario
    assert isinstance(scenario, Scenario) and all(len(c.said) == 6 for c in found.conversations)
    means = [found.mean(scenario.name, place, Trait.AGREEABLENESS) for place in (0, 1)]
    assert means[1] > means[0] + 1  # Ruth was asked for A-5, Tomas for A+4


def test_characters_speak_beside_the_base_model(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name for name in ("ada", "bo")}
    for seed, (name, place) in enumerate(places.items()):
        write_character(tiny_llama, place, name, seed, tokenizer=byte_tokenizer)
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda name, dtype: (tiny_llama, byte_tokenizer))
    speakers: list[dict[str, Any]] = [
        {"name": "Ada Brook", "character": "ada", "stage": "late"},
        {"name": "Bo", "character": "bo", "stage": "early"},
        {"name": "Cy"},
    ]
    file = write_scenario(tmp_path / "talk.yaml", speakers=speakers, generation={"max_new_tokens": 8, "temperature": 0})
    options = RunOptions(characters=places, seeds=(0,), readings=0)
    found = run_simulation([file], tmp_path / "out", options, console=Console(quiet=True))
    assert [said.speaker for said in found.conversations[0].said] == [0, 1, 2] * 2
    (record,) = read_records(tmp_path / "out" / "dialogues.jsonl", DialogueRecord)
    assert record.character == "Ada Brook" and record.stage == "late"


def test_an_unknown_stage_is_said_before_anybody_speaks(
    tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_character(tiny_llama, tmp_path / "ada", "ada", 0, tokenizer=byte_tokenizer)
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda name, dtype: (tiny_llama, byte_tokenizer))
    file = write_scenario(
        tmp_path / "talk.yaml", speakers=[{"name": "Ada", "character": "ada", "stage": "old"}, {"name": "Bo"}]
    )
    with pytest.raises(ValueError, match=r"Ada of talk cannot speak: .*no stage 'old'; its stages: early, late"):
        run_simulation(
            [file],
            tmp_path / "out",
            RunOptions(characters={"ada": tmp_path / "ada"}, readings=0),
            console=Console(quiet=True),
        )
