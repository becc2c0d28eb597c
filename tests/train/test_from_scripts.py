"""The whole way in small: scripts, judged records, a trained hypernetwork, the evaluation on scripted dialogue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.text.records import DialogueRecord, read_records
from tests.data.labelled.test_resume import answer
from tests.llm.server import serve
from tests.support import ROOT

pytest.importorskip("openai")


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, text=True, capture_output=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.slow
def test_from_scripts_to_an_evaluated_adapter(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    tiny_llama.save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    with serve(answer) as server:
        judge = ["--judge", "openai", "--judge-model", "my-judge", "--judge-url", server.url]
        writer = ["--writer", "openai", "--writer-model", "my-writer", "--writer-url", server.url]
        built = CliRunner().invoke(
            app,
            [
                *("data", "scripts", "build", "samples", "--out", str(tmp_path / "data"), "--protocol", "npti"),
                *(*judge, *writer, "--generate", "2", "--near", "2", "--no-plots", "--test-characters", "0.15"),
                *("--test-scenes", "0.2", "--keep-mixed"),
            ],
        )
        assert built.exit_code == 0, built.output
        records = list(read_records(tmp_path / "data" / "train.jsonl", DialogueRecord))
        assert any(record.origin is not None and record.origin.generated for record in records)
        settings = yaml.safe_load((ROOT / "recipes" / "scripts_cpu.yaml").read_text())
        settings["model"] = str(tmp_path / "base")
        settings["dtype"] = "float32"
        settings["data"]["records"] = [str(tmp_path / "data" / "train.jsonl")]
        settings["hypernet"]["first_layer"] = 0
        settings["trainer"] |= {"max_steps": 3, "logging_steps": 1}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu")
        run(tmp_path, *launch, str(ROOT / "python" / "train_hypernet.py"), "--config", "recipe.yaml")
        adapter = tmp_path / "runs" / "scripts" / "adapter"
        assert (adapter / "hypernet.safetensors").is_file()
        for split in ("test_scene", "test_character"):
            run(
                tmp_path,
                *(str(ROOT / "python" / "evaluate_dpg.py"), "--out", split, "--adapter", str(adapter)),
                *("--base-model", str(tmp_path / "base"), "--tasks", "scripted", "--baselines", "prompt"),
                *(
                    "--records",
                    str(tmp_path / "data" / f"{split}.jsonl"),
                    "--max-new-tokens",
                    "8",
                    "--no-capability",
                    *judge,
                ),
            )
            report = (tmp_path / split / "scripted" / "report.md").read_text(encoding="utf-8")
            assert "hypernetwork" in report
