"""The code and the commands of docs/encoders.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.hypernet import encoders
from dpg_fast.train import load_settings
from tests.model.tiny import tiny_model
from tests.support import ROOT

TEXT = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.M | re.S)


def test_the_code_runs(byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "REFERENCE_TEXTS", 16)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    base = tiny_model("llama", vocab_size=258)
    names: dict[str, Any] = {"base": base, "tokenizer": byte_tokenizer}
    exec(code, names)
    assert (tmp_path / "my_lora" / "adapter_model.safetensors").is_file()
    assert names["model"].hypernet.config.encoder == "text"


def test_the_commands_name_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (commands,) = blocks("bash")
    for line in commands.splitlines():
        words = shlex.split(line)
        settings = load_settings(Path(words[3]), words[4:])
        assert settings.output == Path(words[-1].removeprefix("output="))
