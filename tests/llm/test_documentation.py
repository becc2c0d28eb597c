"""The example in docs/llm.md runs as written, against a local server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .server import Answer, serve

pytest.importorskip("openai")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "llm.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with serve(lambda body, number: Answer('{"mood": "wistful"}')) as server:
        assert "http://localhost:8000/v1" in code
        exec(code.replace("http://localhost:8000/v1", server.url), {"__name__": "example"})
        assert len(server.requests) == 1
    printed = capsys.readouterr().out
    assert "to_pay=1" in printed and "text 1 mood='wistful'" in printed
