"""Agreement of judges: against independent libraries and published examples, files, the command, the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.judges.agreement import ALL, judge_agreement, read_ratings
from dpg_fast.judges.metrics import LEVELS
from dpg_fast.personality.scores import Trait
from dpg_fast.util.reliability import cronbach_alpha, fleiss_kappa, icc, kappa_interval, weighted_kappa

runner = CliRunner()
# Ten subjects, fourteen raters, five categories: the worked example of Wikipedia's article on Fleiss' kappa.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_kappa_of_the_published_example() -> None:
    assert round(fleiss_kappa(FLEISS), 3) == 0.210
    assert fleiss_kappa([[4, 0], [0, 4], [4, 0]]) == pytest.approx(1)
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss_kappa([[2, 1], [2, 2]])


def test_fleiss_kappa_equals_statsmodels() -> None:
    theirs = pytest.importorskip("statsmodels.stats.inter_rater", reason="statsmodels is not installed")
    counts = np.random.default_rng(0).multinomial(6, [0.2, 0.5, 0.3], size=20)
    assert fleiss_kappa(counts) == pytest.approx(theirs.fleiss_kappa(counts))


def test_alpha_and_icc_equal_pingouin() -> None:
    pingouin = pytest.importorskip("pingouin", reason="pingouin is not installed")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    x = rng.integers(0, 4, (12, 1)) + rng.integers(0, 4, (12, 5)) + np.arange(5) * 0.5
    assert cronbach_alpha(x) == pytest.approx(pingouin.cronbach_alpha(pandas.DataFrame(x))[0])
    rows = [(target, judge, x[target, judge]) for target in range(12) for judge in range(5)]
    table = pandas.DataFrame(rows, columns=["target", "judge", "rating"])
    found = pingouin.intraclass_corr(table, targets="target", raters="judge", ratings="rating")["ICC"].tolist()
    ours = [icc(x, kind) for kind in ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")]  # type: ignore[arg-type]
    assert ours == pytest.approx(found, abs=1e-6)


def test_kappa_interval_is_about_its_estimate() -> None:
    rng = np.random.default_rng(2)
    levels = np.clip(rng.integers(-5, 6, (40, 1)) + rng.integers(-1, 2, (40, 2)), -5, 5)
    interval = kappa_interval(levels, categories=LEVELS, resamples=200)
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(weighted_kappa(levels[:, 0], levels[:, 1], categories=LEVELS))
    with pytest.raises(ValueError, match="two raters, not 3"):
        kappa_interval(np.zeros((4, 3)), categories=LEVELS)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A careful judge, a noisy one who is a level higher, and one who answers at random; one text is disputed."""
    rng = np.random.default_rng(3)
    true = rng.integers(-4, 5, (30, 5)).astype(float)
    noisy = np.clip(true + 1 + rng.integers(-1, 2, true.shape), -5, 5)
    chance = rng.integers(-5, 6, true.shape).astype(float)
    true[7, 2], noisy[7, 2], chance[7, 2] = -5, 5, 0
    found = []
    for name, table in (("careful", true), ("noisy", noisy), ("chance", chance)):
        rows: list[dict[str, Any]] = [{"job": "a header"}]
        for n, row in enumerate(table):
            text = "<script>alert('disputed [/red]')</script>" if n == 7 else f"answer {n}"
            scores = {t.value: value for t, value in zip(Trait, row, strict=True)}
            rows.append(
                {"question": "Why?", "answer": text, "scores": scores | {"openness": None} if n == 3 else scores}
            )
        found.append(write(tmp_path / f"{name}.jsonl", rows))
    return found


def test_judges_of_known_quality(files: list[Path]) -> None:
    found = judge_agreement([read_ratings(path) for path in files], top=3, resamples=50)
    assert found.judges == ("careful", "noisy", "chance") and found.texts == 30
    pairs = {(p.judges, p.trait): p for p in found.pairs}
    assert len(pairs) == 3 * 6
    near, far = pairs[("careful", "noisy"), ALL], pairs[("careful", "chance"), ALL]
    assert near.n == 149 and pairs[("careful", "noisy"), "openness"].n == 29
    assert near.bias.estimate == pytest.approx(0.95, abs=0.2) and near.pearson.estimate > 0.9
    assert near.kappa_quadratic.estimate > near.kappa_linear.estimate > 0.5
    assert abs(far.kappa_quadratic.estimate) < 0.25 and far.kappa_quadratic.low < 0 < far.kappa_quadratic.high
    group = next(g for g in found.groups if g.trait == ALL)
    assert group.icc["2,k"].estimate > group.icc["2,1"].estimate > 0.2
    disputed = found.differences[0]
    assert "disputed" in disputed.text and disputed.trait is Trait.EXTRAVERSION and disputed.range == 10
    json.dumps(found.to_dict(), allow_nan=False)


def test_command_and_report(files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, report = tmp_path / "agreement.json", tmp_path / "report"
    arguments = ["assess", "agreement", *map(str, files[:2]), "--resamples", "20", "--out", str(out)]
    result = runner.invoke(app, [*arguments, "--report", str(report)])
    assert result.exit_code == 0, result.output
    assert "quadratic" in result.output and json.loads(out.read_text())["texts"] == 30
    html = (report / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(&#39;disputed" in html and "<script" not in html
    assert json.loads((report / "report.json").read_text())["judges"] == ["careful", "noisy"]


def test_other_files(tmp_path: Path) -> None:
    people = [{"messages": [{"role": "user", "content": f"m{n}"}], "personality": [n, 0, 0, 0, -n]} for n in range(4)]
    read = read_ratings(write(tmp_path / "a.jsonl", people))
    assert list(read.texts.values())[2] == "m2" and list(read.scores.values())[3].tolist() == [3, 0, 0, 0, -3]
    parts = [{"trait": "E", "level": level, "scores": {"extraversion": level}} for level in (1, 2)]
    assert len(read_ratings(write(tmp_path / "b.jsonl", parts), ["trait", "level"]).scores) == 2
    one = judge_agreement([read, read_ratings(write(tmp_path / "c.jsonl", people))], resamples=5)
    assert one.pairs[0].mae == 0 and math.isnan(one.pairs[1].kappa_quadratic.estimate)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "scores": {"extraversion": 6}}], "line 1: extraversion = 6 is no score"),
        ([{"id": 1, "scores": {"charm": 1}}], "line 1: .*charm"),
        ([{"scores": {"extraversion": 1}}], "line 1: the text is not named: no id"),
        ([{"id": 1, "scores": {"E": 1}}, {"id": 1, "scores": {"E": 2}}], "line 2: a second score of extraversion"),
        ([{"id": 1}], "holds no scores"),
        ([{"id": 1, "personality": [1, 2]}], "five numbers"),
    ],
)
def test_bad_files(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_ratings(write(tmp_path / "bad.jsonl", rows))


def test_nothing_in_common(tmp_path: Path) -> None:
    one = read_ratings(write(tmp_path / "a.jsonl", [{"id": 1, "scores": {"E": 1}}]))
    other = read_ratings(write(tmp_path / "b.jsonl", [{"id": 2, "scores": {"E": 1}}]))
    with pytest.raises(ValueError, match="no text in common"):
        judge_agreement([one, other])
    with pytest.raises(ValueError, match="3 texts"):
        judge_agreement([one, one])
