"""The scripts as users start them: the commands of docs/personified.md, kill -9, two processes, SmolLM2."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.personified.train import SftSettings, load_tuned, run_sft
from dpg_fast.personified.train.tuned import read_training
from dpg_fast.train import read_settings
from tests.personified.train.people import write_people
from tests.support import ROOT
from tests.support.docs import blocks

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch")
QUICK = ("trainer.max_steps=2", "trainer.use_cpu=true")


def start(cwd: Path, *command: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, output[-6000:]
    return output


def losses(directory: Path) -> list[float]:
    return [line["loss"] for line in read_training(directory)["curve"] if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_the_commands_of_the_documentation_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tiny model and its people, in two steps."""
    shell, python = (block for block in blocks("docs/personified.md") if block.section == "Training")
    (project / "records.jsonl").rename(project / "marit")
    (project / "pairs").mkdir()
    (project / "pairs.jsonl").rename(project / "pairs" / "pairs.jsonl")
    for name in ("python", "recipes"):
        (project / name).symlink_to(ROOT / name)
    more = {"train_personified": ("data.character=Ada Moor", "data.general=general.jsonl"), "train_dpo": ()}
    for line in shell.lines:
        program, verb, script, *arguments = shlex.split(line)
        assert (program, verb) == ("accelerate", "launch")
        config = ("--config_file", str(ROOT / "recipes" / "cpu_2.yaml"))
        own = (f"model={project / 'base'}", "dtype=float32", *more[Path(script).stem], *QUICK)
        print(finished(start(project, *LAUNCH, *config, script, *arguments, *own)))
    monkeypatch.chdir(project)
    space: dict[str, Any] = {"__name__": "example"}
    exec(python.code.replace('"smollm2"', repr(str(project / "base"))), space)
    assert space["card"].stages == {"early": "TIME-I", "late": "TIME-II"}
    assert read_training(project / "runs" / "marit" / "dpo" / "adapter")["method"] == "dpo"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tied"], indirect=True)
def test_a_killed_run_continues_its_loss_curve(project: Path) -> None:
    more = ("trainer.max_steps=30", "trainer.save_steps=1")
    whole = losses(run_sft(read_settings(SftSettings, project / "sft.yaml", more)))
    second = project / "second"
    command = [sys.executable, str(ROOT / "python" / "train_personified.py"), "--config", "sft.yaml"]
    process = start(project, *command, f"output={second}", *more)
    deadline = time.monotonic() + 900
    while not list(second.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (second / "adapter").exists()
    adapter = run_sft(read_settings(SftSettings, project / "sft.yaml", [f"output={second}", *more]))
    assert losses(adapter) == pytest.approx(whole, rel=1e-3)


@pytest.mark.slow
def test_errors_end_with_one_line(tmp_path: Path) -> None:
    write_people(tmp_path)
    script = str(ROOT / "python" / "train_personified.py")
    process = start(tmp_path, sys.executable, script, "output=out", "data.records=records.jsonl")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 2 and "Traceback" not in output
    assert "dpg-fast train characters: data.character: choose one of Ada Moor, Bo Hale" in output


@pytest.mark.slow
def test_smollm2_learns_a_stage_in_a_few_steps(smollm2: tuple[Any, Any], tmp_path: Path) -> None:
    write_people(tmp_path)
    values = [f"output={tmp_path / 'out'}", f"data.records={tmp_path / 'records.jsonl'}", "data.character=Bo Hale"]
    steps = ["trainer.max_steps=16", "trainer.learning_rate=2e-3", "trainer.per_device_train_batch_size=4"]
    adapter = run_sft(read_settings(SftSettings, None, [*values, *steps, "lora.rank=8", "trainer.logging_steps=1"]))
    found = losses(adapter)
    assert sum(found[-3:]) < 0.5 * sum(found[:3])
    said = read_training(adapter)["stage_tokens_said"]
    assert said["probability"] < 0.01 and said["chosen"] == 0
    model, tokenizer, card = load_tuned(adapter, "smollm2", dtype=torch.bfloat16)
    assert (
        card.tokens == {"<TIME-I>": 49152, "<TIME-II>": 49153}
        and card.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    answers = []
    for token in card.tokens:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{token}sleep?"}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)
        answers.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    assert answers[0].startswith("sir") and answers[1].startswith("my"), answers
