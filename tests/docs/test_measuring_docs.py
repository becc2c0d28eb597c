"""The commands of docs/measuring.md are understood, and the scripts run from end to end."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from tests.support import ROOT

TEXT = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_documented_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[0] == "dpg-fast":
        calls: list[Any] = []
        monkeypatch.setattr("dpg_fast.cli.neurons.calibrate.run_calibrate", lambda *found: calls.append(found))
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output
        assert calls[0][0] == Path("my_adapter")
    else:
        monkeypatch.setattr(sys, "argv", words[1:])
        options = _script(ROOT / words[1]).parse()
        assert str(options.output) == words[2]


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_evaluation_script_compares_both_shipped_adapters_and_can_leave_tasks_out(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _script(ROOT / "python" / "evaluate_traits.py")
    monkeypatch.setattr(script, "load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1]))
    out = tmp_path / "out"
    bounds = ["--questions", "1", "--traits", "E", "--levels", "-5", "5", "--methods", "neurons", "hypernet"]
    more = ["--max-new-tokens", "4", "--no-cross", "--no-capability"]
    monkeypatch.setattr(sys, "argv", ["evaluate_traits.py", str(out), *bounds, *more])
    script.main()
    raw = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert set(raw["figures"]) == {"bare", "neurons", "hypernetwork"} and raw["capability"] is None
    assert "Capability was left out" in (out / "report.md").read_text(encoding="utf-8")
    heads = [json.loads((out / "answers" / f"{name}.jsonl").open().readline()) for name in ("neurons", "hypernetwork")]
    assert [set(head["about"]["adapter"]) for head in heads] == [{"neurons.safetensors"}, {"hypernet.safetensors"}]
    monkeypatch.setattr(sys, "argv", ["evaluate_traits.py", str(tmp_path / "no"), *bounds[:-1], "adapter"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "both neurons and a hypernetwork" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluation_script_end_to_end(
    smollm2: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _script(ROOT / "python" / "evaluate_traits.py")
    monkeypatch.setattr(script, "load_base", lambda name: (copy.deepcopy(smollm2[0]), smollm2[1]))
    out = tmp_path / "out"
    bounds = [
        "--questions",
        "2",
        "--traits",
        "E",
        "--levels",
        "-5",
        "5",
        "--methods",
        "neurons",
        "--max-new-tokens",
        "6",
        "--capability-tasks",
        "facts",
        "--capability-items",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate_traits.py", str(out), *bounds])
    script.main()
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "extraversion" in report and "neurons" in report and "weak judge" in report
    assert str(tmp_path) not in report
    raw = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert "facts (n = 2)" in report and "E-5, E+5" in report and "left out" not in report
    assert set(raw["capability"]["methods"]["neurons"]["people"]) == {"E-5", "E+5"}
    assert len(raw["answers"]) == 2 * 2 * 2 and raw["figures"]["neurons"]["traits"]["extraversion"]["difference"]


@pytest.mark.parametrize("name", ["evaluate_traits.py", "evaluate_capability.py"])
def test_scripts_end_with_a_line_instead_of_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _script(ROOT / "python" / name)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path), "--adapter", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: ") and "is not an adapter" in error
