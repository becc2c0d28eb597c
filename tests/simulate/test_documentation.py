"""The scenario and the commands of docs/simulate.md are understood, and its figures of the rule are those of the examples."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.judges.stance import RULE, rule_stance
from dpg_fast.simulate.scenario import load_scenario
from tests.support import ROOT

TEXT = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]


def test_the_scenario_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)
    (tmp_path / "talk.yaml").write_text(block, encoding="utf-8")
    assert load_scenario(tmp_path / "talk.yaml").names == ["Ruth", "Tomas"]


@pytest.mark.parametrize("line", LINES)
def test_documented_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("dpg_fast.cli.simulate_run.run_simulation", lambda *found, **more: calls.append(found))
    monkeypatch.setattr("dpg_fast.cli.simulate_run.run_comparison", lambda *found: calls.append(found))
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    files, *_ = calls[0]
    for file in files:
        if isinstance(file, Path):
            load_scenario(ROOT / file)


def test_the_figures_of_the_rule() -> None:
    rows = [json.loads(r) for r in (ROOT / "tests/judges/stance_examples.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "holdout"]
    said = [(row["stance"] == "disagrees", rule_stance(row["reply"]) == "disagrees") for row in rows]
    share = round(100 * sum(a == b for a, b in said) / len(said))
    found, right, missed, true = (
        sum(b for _, b in said),
        sum(a and b for a, b in said),
        sum(a > b for a, b in said),
        sum(a for a, _ in said),
    )
    assert f"of {len(rows)} replies written by hand after it was made, it tells {share} %" in " ".join(TEXT.split())
    assert f"{right} of {found} that it calls contradictions are some, and it misses {missed} of {true}" in " ".join(
        TEXT.split()
    )
    assert f"{len(rows)} held-out replies it tells {share} %" in RULE
