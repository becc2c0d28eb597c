"""The blocks of docs/personified.md run in order, as written but for the server's address.

Those on training run in tests/personified/train/test_scripts.py.
Those on serving characters run in tests/docs/test_characters_docs.py, that on evaluation in
tests/personified/evaluate/test_evaluation.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from tests.llm.server import serve
from tests.personified.data.annotator import Annotator
from tests.personified.data.test_novel import novel
from tests.support import ROOT

for module in ("openai", "yaml", "py3langid", "sklearn"):
    pytest.importorskip(module)
URL = "http://localhost:8000/v1"


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "personified.md").read_text(encoding="utf-8")
    text = re.sub(r"^## Training$.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^## Serving characters$.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^## Evaluation$.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash"] * 5 + ["python", "bash", "python"]
    shutil.copytree(ROOT / "recipes" / "characters", tmp_path / "recipes" / "characters")
    novel(tmp_path)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "example"}
    ran = 0
    with serve(Annotator()) as server:
        for kind, block in blocks:
            if kind == "python":
                exec(block, space)
                continue
            for line in block.strip().splitlines():
                program, *arguments = shlex.split(line.replace(URL, server.url))
                assert program == "dpg-fast"
                result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
                assert result.exit_code == 0, f"{line}\n{result.output}{result.stderr}"
                ran += 1
    assert ran == 8 and server.requests
    printed = capsys.readouterr().out
    assert "early | " in printed and "LengthBias(pairs=" in printed
