"""Agreement of judges: judges of known quality, files, the command, the report."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dpg_fast.cli.app import app
from dpg_fast.judges.validation.agreement import ALL, Ratings, judge_agreement, read_ratings
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting.page import bounds
from dpg_fast.util.stats import bootstrap_all, icc, pearson

runner = CliRunner()


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
    assert abs(far.kappa_quadratic.estimate) < 0.25 and far.kappa_quadratic.high < near.kappa_quadratic.low
    group = next(g for g in found.groups if g.trait == ALL)
    assert group.icc["2,k"].estimate > group.icc["2,1"].estimate > 0.2
    disputed = found.differences[0]
    assert "disputed" in disputed.text and disputed.trait is Trait.EXTRAVERSION and disputed.range == 10
    json.dumps(found.to_dict(), allow_nan=False)


def test_all_traits_are_drawn_text_by_text() -> None:
    """A judge whose error is the text's: five scores of a text tell no more than one."""
    rng = np.random.default_rng(0)
    true = np.repeat(rng.integers(-4, 5, (40, 1)), 5, axis=1).astype(float)
    other = np.clip(true + rng.integers(-2, 3, (40, 1)), -5, 5)
    names = [f"t{n}" for n in range(40)]
    texts = dict(zip(names, names, strict=True))
    ratings = [Ratings(name, dict(zip(names, x, strict=True)), texts) for name, x in (("a", true), ("b", other))]
    found = {p.trait: p for p in judge_agreement(ratings, resamples=50).pairs}
    for name in ("bias", "pearson", "kappa_quadratic"):
        one, whole = getattr(found["openness"], name), getattr(found[ALL], name)
        assert (whole.estimate, whole.low, whole.high) == pytest.approx((one.estimate, one.low, one.high))


def test_two_texts_have_no_figures_however_many_traits() -> None:
    two = Ratings("a", {name: np.arange(5.0) for name in ("s", "t")}, {"s": "s", "t": "t"})
    with pytest.raises(ValueError, match="3 texts"):
        judge_agreement([two, two])


@pytest.mark.slow
def test_intervals_over_all_traits_cover_the_truth() -> None:
    """Scores whose traits share most of what differs between texts: 500 samples of 40 texts, and the truth from 200,000.

    Drawn trait by trait, as if they told more than their texts, the same intervals cover far less.
    """
    rng = np.random.default_rng(1)

    def sample(texts: int) -> np.ndarray:
        person, error = (
            rng.normal(size=(texts, 1)),
            rng.normal(size=(2, texts, 1)),
        )  # the error is a judge's, of a whole text
        table = 0.9 * person + 0.3 * rng.normal(size=(texts, 5)) + 0.8 * error + 0.3 * rng.normal(size=(2, texts, 5))
        return table.reshape(2, -1)

    many = sample(200_000)
    truth = [pearson(*many), icc(many.T, "2,1")[0], 0.0]
    by_text, by_score, trials = np.zeros(3), np.zeros(3), 500
    for trial in range(trials):
        x = sample(40)

        def statistics(rows: np.ndarray, x: np.ndarray = x) -> list[float]:
            a, b = x[:, rows]
            return [pearson(a, b), *icc(x[:, rows].T, "2,1"), float((b - a).mean())]

        for found, units in ((by_text, np.repeat(np.arange(40), 5).tolist()), (by_score, 200)):
            drawn = bootstrap_all(statistics, units, resamples=200, seed=trial)
            found += [one.low <= true <= one.high for one, true in zip(drawn, truth, strict=True)]
    print(f"coverage of r, ICC and bias: by text {by_text / trials}, by score {by_score / trials}")
    assert ((by_text >= 0.90 * trials) & (by_text <= 0.97 * trials)).all() and (by_score < 0.75 * trials).all()


def test_outputs_of_the_judge_are_joined_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"item": f"h{n}", "record": n, "character": "Ann", "scores": {"extraversion": n, "openness": -n}, "traits": {}}
        for n in range(4)
    ]
    header = {"format": "dpg_fast store 1", "about": {"model": "m"}}
    one = read_ratings(write(tmp_path / "a.jsonl", [header, *rows]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]), encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]), encoding="utf-16")
    found = judge_agreement([one, read_ratings(tmp_path / "b.jsonl"), read_ratings(tmp_path / "c.jsonl")], resamples=5)
    assert found.texts == 4 and found.pairs[0].mae == 0
    assert list(one.texts.values())[3] == "record 3, Ann"


@pytest.mark.parametrize("width", [60, 80, 100, 250])
def test_tables_fit_the_terminal(files: list[Path], width: int) -> None:
    found = judge_agreement([read_ratings(path) for path in files], resamples=5)
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for table in found.tables()[:3]:
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and ".." not in text and max(map(len, text.splitlines())) <= width
    near = next(p for p in found.pairs if p.trait == "extraversion")
    assert bounds(near.kappa_quadratic) in text and text.count("conscientiousness") >= 3


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
        ([{"id": 1, "scores": {"extraversion": 6}}], "line 1: extraversion = 6 is not a score"),
        ([{"id": 1, "scores": {"charm": 1}}], "line 1: .*charm"),
        ([{"scores": {"extraversion": 1}}], "line 1: the text is not named: no id"),
        ([{"id": 1, "scores": {"E": 1}}, {"id": 1, "scores": {"E": 2}}], "line 2: a second score of extraversion"),
        ([{"id": 1, "scores": {"E": 1, "extraversion": 2}}], "line 1: extraversion is scored twice"),
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
