"""Training on a tiny model: what changes, resuming, overfitting, several processes."""

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
import torch
import yaml

from benchmarks.memorising import fit
from dpg_fast.hypernet import HypernetConfig
from dpg_fast.model import PersonalityModel
from dpg_fast.text.records import DialogueRecord, Turn, write_records
from dpg_fast.train import HypernetTrainer, Rows, load_settings, run_training, text_sources
from dpg_fast.train.run import trainer_arguments
from dpg_fast.train.trainer import WEIGHTS
from tests.support import ROOT

PEOPLE = [[5.0 if bit else -5.0 for bit in (n & 4, n & 2, n & 1, n & 4 and n & 1, n & 2)] for n in range(8)]


def records(dialogues: int = 8, letters: int = 8) -> list[DialogueRecord]:
    """Eight people who give the same questions answers of their own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for scores in PEOPLE:
        for number in range(dialogues):
            said = bytes(torch.randint(97, 123, (letters,), generator=generator).tolist()).decode()
            turns = [Turn(role="user", content=f"{number}?"), Turn(role="assistant", content=said)]
            found.append(DialogueRecord(messages=turns, personality=scores, source="test"))  # type: ignore[arg-type]
    return found


@pytest.fixture
def project(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> Path:
    """A directory with a base model, records and settings of a run of 8 steps."""
    tiny_llama.save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    write_records(tmp_path / "records.jsonl", records())
    settings = {
        "output": str(tmp_path / "out"),
        "model": str(tmp_path / "base"),
        "dtype": "float32",
        "data": {"records": str(tmp_path / "records.jsonl"), "visits": 1},
        "hypernet": {"rank": 2, "codes": 6, "hidden": 8, "depth": 1},
        "teaching": {"system": ""},
        "trainer": {
            "per_device_train_batch_size": 8,
            "learning_rate": 0.01,
            "max_steps": 8,
            "save_steps": 2,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def losses(output: Path) -> list[float]:
    states = sorted(output.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    history = json.loads(states[-1].read_text())["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def test_only_the_hypernetwork_changes_and_a_resumed_run_goes_on_as_it_would_have(project: Path) -> None:
    from transformers import AutoModelForCausalLM

    adapter = run_training(load_settings(project / "run.yaml"))
    whole = losses(project / "out")
    assert len(whole) == 8 and whole[-1] < whole[0]
    assert not list((project / "out").glob("checkpoint-*/model.safetensors"))
    base = AutoModelForCausalLM.from_pretrained(project / "base")
    model = PersonalityModel.load(base, adapter)
    before = AutoModelForCausalLM.from_pretrained(project / "base")
    unchanged = model.unload().state_dict()
    assert all(torch.equal(unchanged[name], tensor) for name, tensor in before.state_dict().items())
    from safetensors.torch import load_file

    stored = load_file(adapter / WEIGHTS)
    assert {tensor.dtype for name, tensor in stored.items() if name.startswith("bank.")} == {torch.bfloat16}

    first = [f"output={project / 'second'}"]
    settings = load_settings(project / "run.yaml", first)
    arguments = trainer_arguments(settings)
    stop = _StopAfter(4)
    _train(settings, arguments, stop)
    run_training(settings)
    assert losses(project / "second") == pytest.approx(whole, rel=1e-4)


class _StopAfter:
    def __init__(self, step: int) -> None:
        self.step = step

    def callback(self) -> Any:
        from transformers import TrainerCallback

        step = self.step

        class Stop(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                control.should_training_stop = state.global_step >= step
                return control

        return Stop()


def _train(settings: Any, arguments: Any, stop: _StopAfter) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(settings.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    torch.manual_seed(arguments.seed)
    model = PersonalityModel.from_model(base, hypernet=settings.hypernet)
    rows = Rows(text_sources(records(), tokenizer, system=settings.teaching.system), 1, arguments.seed)
    HypernetTrainer(model, arguments, rows, tokenizer.pad_token_id, callbacks=[stop.callback()]).train()


def test_gradient_checkpointing_is_the_trainers_option(project: Path) -> None:
    run_training(load_settings(project / "run.yaml", ["trainer.gradient_checkpointing=true", "trainer.max_steps=2"]))


def test_a_model_without_hypernetwork_is_refused(tiny_llama: Any, tmp_path: Path) -> None:
    settings = load_settings(None, [f"output={tmp_path}", "data.records=x", "trainer.use_cpu=true"])
    with pytest.raises(ValueError, match="no hypernetwork"):
        HypernetTrainer(PersonalityModel(tiny_llama), trainer_arguments(settings), None, 0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_overfitting_reaches_what_a_lora_for_each_person_reaches(tiny_llama: Any, byte_tokenizer: Any) -> None:
    """8 people x 8 dialogues: the loss is at most 1.1 times that of plain LoRA adapters, one for each of three people."""
    sources = [source.finished for source in text_sources(records(letters=3), byte_tokenizer)]

    # One code, which is the constant 1 for one person: a plain LoRA.
    plain = HypernetConfig(rank=4, codes=1, depth=0, alpha=8)
    alone = [fit(tiny_llama, plain, sources[first : first + 8], 60, 0.02)[0] for first in (0, 24, 56)]
    together, _ = fit(tiny_llama, HypernetConfig(rank=4, codes=16, hidden=64, depth=2, alpha=8), sources, 160, 0.01)
    assert together <= 1.1 * sum(alone) / len(alone)


def _start(
    project: Path, *overrides: str, launcher: tuple[str, ...] = (sys.executable,), threads: int = 1
) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [*launcher, str(ROOT / "python" / "train_hypernet.py"), "--config", str(project / "run.yaml"), *overrides]
    return subprocess.Popen(
        command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_a_killed_run_continues_its_loss_curve(project: Path) -> None:
    run_training(load_settings(project / "run.yaml", ["trainer.max_steps=24"]))
    whole = losses(project / "out")
    second = [f"output={project / 'second'}", "trainer.max_steps=24"]
    # another number of threads adds up in another order, which Adam makes visible within ten steps
    process = _start(project, *second, threads=torch.get_num_threads())
    deadline = time.monotonic() + 300
    while not list((project / "second").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (project / "second" / "adapter").exists()
    run_training(load_settings(project / "run.yaml", second))
    assert losses(project / "second") == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu_2.yaml", "fsdp_cpu_2.yaml"])
def test_two_processes(project: Path, config: str) -> None:
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / config))
    process = _start(project, "trainer.max_steps=4", launcher=launcher)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-6000:]
    assert (project / "out" / "adapter" / "dpg_config.json").exists()
    found = losses(project / "out")
    assert len(found) == 4 and all(0 < loss < 20 for loss in found)
