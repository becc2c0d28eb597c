"""Every long command, killed twenty times at random moments: it ends with what an uninterrupted run ends with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dpg_fast.model import PersonalityModel
from dpg_fast.model.disk.artifact import Part, part_file
from dpg_fast.personality.scores import Trait
from tests.llm.server import Answer, last_user, serve
from tests.model.test_wrapper import random_table
from tests.support.killing import Commands, commands, contents, kill_and_compare

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture(scope="module")
def started() -> Iterator[Commands]:
    with commands("dpg_fast.evaluation,dpg_fast.neurons,openai,dpg_fast.cli.judge,dpg_fast.model") as made:
        made.environment = {"OPENAI_API_KEY": "sk-test", "COLUMNS": "200"}
        yield made


@pytest.fixture(scope="module")
def trainers() -> Iterator[Commands]:
    pytest.importorskip("trl")
    modules = "trl,peft,datasets,dpg_fast.train,dpg_fast.personified.train,transformers.models.llama.modeling_llama"
    with commands(modules) as made:
        yield made


@pytest.fixture
def base(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> Path:
    tiny_llama.save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def tensors(file: Path) -> dict[str, bytes]:
    """By name, in bytes."""
    return {name: tensor.double().numpy().tobytes() for name, tensor in sorted(load_file(file).items())}


def report(name: str, found: Any) -> None:
    print(f"{name}: {found.kills} kills, {found.ends} runs to the end, {found.seconds:.1f} s uninterrupted")
    assert found.kills >= KILLS and found.ends >= 1


def saved(directory: Path, part: Part) -> Path:
    """The part's file: a run that is killed when it has saved, and starts again, gives it its other name."""
    file = part_file(directory, part)
    assert file is not None
    return file


def test_neurons_find(started: Commands, base: Path, tmp_path: Path) -> None:
    def arguments(folder: Path) -> list[str]:
        sizes = ["--repeats", "1", "--max-new-tokens", "4", "--batch-size", "8", "--minimum", "10"]
        return ["neurons", "find", "--out", str(folder / "out"), "--base-model", str(base), "--traits", "E", *sizes]

    def result(folder: Path) -> Any:
        assert [file.name for file in folder.iterdir() if file.is_dir()] == ["out"], "no checkpoint is left"
        return tensors(saved(folder / "out", "neurons")), len(contents(folder / "out"))

    report("neurons find", kill_and_compare(started, arguments, result, tmp_path / "work", kills=KILLS))


def written(body: dict[str, Any], number: int) -> Answer:
    """A rating or a dialogue that follows from what was asked."""
    digest = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
    if "You write dialogue" in body["messages"][0]["content"]:
        return Answer(
            json.dumps({"words": f"I say {digest[:3].hex()} and {digest[3:6].hex()} to {digest[6:9].hex()}."})
        )
    return Answer(json.dumps({"explanation": "Because.", "rating": 1 + sum(digest) % 5}))


def test_scripts_build(started: Commands, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with serve(written) as server:

        def arguments(folder: Path) -> list[str]:
            found = [
                "data",
                "scripts",
                "build",
                "samples",
                "--out",
                str(folder / "out"),
                "--generate",
                "1",
                "--no-plots",
            ]
            for who in ("judge", "writer"):
                found += [f"--{who}", "openai", f"--{who}-model", f"my-{who}", f"--{who}-url", server.url]
            return [*found, "--near", "1.2", "--concurrency", "4", "--protocol", "npti"]

        def result(folder: Path) -> Any:
            return {n: b for n, b in contents(folder / "out").items() if n.endswith("jsonl") and "/" not in n}

        report("data scripts build", kill_and_compare(started, arguments, result, tmp_path, kills=KILLS))


def test_assess_judge(started: Commands, tmp_path: Path) -> None:
    pytest.importorskip("openai")

    def judged(body: dict[str, Any], number: int) -> Answer:
        words = last_user(body)
        level = sum(words.encode()) % 11 - 5
        quote = next(line for line in words.splitlines() if "My number is" in line).partition("My number")[2]
        trait = {"quotes": ["My number" + quote.rstrip('"}> ')], "level": level, "confidence": "high"}
        return Answer(json.dumps({t.value: trait for t in Trait}), delay=0.005)

    source = tmp_path / "in.jsonl"
    rows = [[("user", "Well?"), ("assistant", f"My number is {n} today")] for n in range(200)]
    source.write_text(
        "".join(
            json.dumps({"source": "t", "messages": [{"role": r, "content": c} for r, c in row]}) + "\n" for row in rows
        )
    )
    with serve(judged) as server:

        def arguments(folder: Path) -> list[str]:
            found = ["assess", "judge", str(source), "--out", str(folder / "out.jsonl"), "--judge", "openai"]
            return [*found, "--judge-model", "m", "--judge-url", server.url, "--concurrency", "8"]

        def result(folder: Path) -> Any:
            found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()[1:]]
            assert len(found) == len(rows)
            return sorted(json.dumps(row, sort_keys=True) for row in found)

        found = kill_and_compare(started, arguments, result, tmp_path / "work", kills=KILLS)
        print(f"{len(server.requests)} requests for {(found.ends + 1) * len(rows)} dialogues")
        assert len(server.requests) <= (found.ends + 1) * len(rows) + found.kills * 8, (
            "only what was under way is paid twice"
        )
        report("assess judge", found)


def test_evaluate_traits(started: Commands, base: Path, tiny_llama: Any, tmp_path: Path) -> None:
    PersonalityModel.from_model(tiny_llama, steering=random_table(2, 72)).save_pretrained(tmp_path / "adapter")

    def arguments(folder: Path) -> list[str]:
        found = ["evaluate", "traits", "--out", str(folder / "out"), "--base-model", str(base), "--adapter"]
        found += [str(tmp_path / "adapter"), "--methods", "neurons,prompt", "--questions", "1", "--traits", "E"]
        return [
            *found,
            "--levels",
            "-5,5",
            "--max-new-tokens",
            "4",
            "--batch-size",
            "1",
            "--no-capability",
            "--no-cross-traits",
        ]

    def result(folder: Path) -> Any:
        answers = {
            file.name: sorted(file.read_text().splitlines()[1:]) for file in (folder / "out" / "answers").iterdir()
        }
        return answers, json.loads((folder / "out" / "results.json").read_text())["figures"]

    report("evaluate traits", kill_and_compare(started, arguments, result, tmp_path / "work", kills=KILLS))


def test_train_hypernet(trainers: Commands, base: Path, tmp_path: Path) -> None:
    from tests.train.test_resume import _write_records

    _write_records(tmp_path, "Yes!")
    settings = {
        "model": str(base),
        "dtype": "float32",
        "data": {"records": str(tmp_path / "records.jsonl"), "visits": 12},
        "hypernet": {"rank": 2, "codes": 2, "hidden": 8, "depth": 1},
        "trainer": {"per_device_train_batch_size": 2, "learning_rate": 0.01, "max_steps": 12, "save_steps": 2}
        | {"logging_steps": 1, "use_cpu": True, "disable_tqdm": True},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))

    def arguments(folder: Path) -> list[str]:
        return ["train", "hypernet", "--config", str(tmp_path / "run.yaml"), f"output={folder / 'out'}"]

    def result(folder: Path) -> Any:
        state = json.loads((folder / "out" / "checkpoint-12" / "trainer_state.json").read_text())
        losses = [row["loss"] for row in state["log_history"] if "loss" in row]
        return tensors(saved(folder / "out" / "adapter", "hypernet")), losses

    report("train hypernet", kill_and_compare(trainers, arguments, result, tmp_path / "work", kills=KILLS))


def tuned(folder: Path, name: str) -> Any:
    adapter = folder / name / "adapter"
    return tensors(adapter / "adapter_model.safetensors"), sorted(file.name for file in adapter.iterdir())


def test_train_characters(trainers: Commands, tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    from tests.personified.train.people import write_project

    project = write_project(tmp_path, tiny_llama, byte_tokenizer)

    def arguments(folder: Path) -> list[str]:
        return ["train", "characters", "--config", str(project / "sft.yaml"), f"output={folder / 'sft'}"]

    found = kill_and_compare(trainers, arguments, lambda folder: tuned(folder, "sft"), tmp_path / "work", kills=KILLS)
    report("train characters", found)


def test_train_dpo(trainers: Commands, tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    from tests.personified.train.people import write_project

    project = write_project(tmp_path, tiny_llama, byte_tokenizer)
    trainers.run(["train", "characters", "--config", str(project / "sft.yaml")], tmp_path)

    def arguments(folder: Path) -> list[str]:
        return ["train", "dpo", "--config", str(project / "dpo.yaml"), f"output={folder / 'dpo'}"]

    found = kill_and_compare(trainers, arguments, lambda folder: tuned(folder, "dpo"), tmp_path / "work", kills=KILLS)
    report("train dpo", found)
