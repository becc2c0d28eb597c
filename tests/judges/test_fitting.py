from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from dpg_fast.judges.fitting.separation import fit_scale, personalitybench_items, separation, shipped_items, table_text
from dpg_fast.judges.likelihood import Judgement, shipped_pairs
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import PersonalityBench, load_questions
from dpg_fast.text.personas import PersonaAnswer, load_answers, save_answers, strip_description


def test_fit_is_the_logistic_curve_of_highest_smoothed_likelihood() -> None:
    rng = np.random.default_rng(4)
    high, low = rng.normal(0.08, 0.05, 37), rng.normal(0.01, 0.03, 22)
    scale = fit_scale(high, low)
    x = np.concatenate([high, low])
    target = np.concatenate([np.full(37, 38 / 39), np.full(22, 1 / 24)])

    def loss(w: np.ndarray) -> float:
        z = w[0] * x * 20 + w[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert scale.width == pytest.approx(2 / (20 * best[0]), rel=1e-3)
    assert scale.centre == pytest.approx(-best[1] / (20 * best[0]), rel=1e-3)
    moved = fit_scale(high * 3 + 1, low * 3 + 1)  # the curve moves and stretches with the data
    assert moved.width == pytest.approx(3 * scale.width, rel=1e-6)
    assert moved.centre == pytest.approx(3 * scale.centre + 1, rel=1e-6)


def test_separated_samples_still_give_a_finite_width() -> None:
    scale = fit_scale([1.0, 1.1, 1.3], [-1.0, -1.2, -0.9])
    assert 0.05 < scale.width < 5.0
    assert -0.5 < scale.centre < 0.5
    assert scale.score(1.13) == pytest.approx(3.0, abs=0.2)  # the smoothed target 4/5 is a score of 3


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to scale"):
        fit_scale([0.0, 0.1], [0.2, 0.3])
    with pytest.raises(ValueError, match="at least two"):
        fit_scale([0.0], [0.2, 0.3])


def test_splits_and_judge_share_nothing() -> None:
    splits = [shipped_items(split) for split in ("fit", "holdout", "validation")]
    inside = {text for pairs in shipped_pairs().values() for pair in pairs for text in pair}
    for index in (1, 2):
        texts = [{item[index] for item in items} for items in splits]
        assert all(not a & b for a, b in combinations(texts, 2))
        assert not set().union(*texts) & inside
    search = {row.question for row in load_questions(split="search")}
    assert not search & {item[1] for items in splits for item in items}
    for items in splits:
        assert {item[0] for item in items} == set(POLES)
        assert len(set(items)) == len(items)
    small = shipped_items("holdout", questions=2, descriptions=1)
    assert len(small) == 2 * len(POLES)
    with pytest.raises(ValueError, match="fit, holdout, validation"):
        shipped_items("search")
    with pytest.raises(ValueError, match="99 were asked for"):
        shipped_items("fit", descriptions=99)


def test_personalitybench_items_spread_over_the_file() -> None:
    bench = PersonalityBench(
        {trait: tuple(f"{trait.letter}{i}" for i in range(10)) for trait in Trait},
        {pole: tuple(f"{pole}{i}" for i in range(3)) for pole in POLES},
    )
    items = personalitybench_items(bench, questions=3, descriptions=1)
    assert [item for item in items if str(item[0]) == "C-"] == [
        (Pole.parse("C-"), question, f"C-{i}") for i, question in enumerate(("C0", "C3", "C6"))
    ]


def test_separation_counts_and_orders() -> None:
    high, low = Pole.parse("E+"), Pole.parse("E-")
    answers = [PersonaAnswer(pole, "q", "d", "a") for pole in (high, high, low, low, low)]
    values = [0.3, 0.1, 0.2, 0.0, None]
    empty = Judgement({}, {}, {}, 0, 0, "the answer is empty")
    e = Trait.EXTRAVERSION
    judged = [empty if v is None else Judgement({e: 10 * v}, {e: v}, {e: 0.0}, 3, 1) for v in values]
    row = separation(answers, judged)["extraversion"]
    assert (row["n"], row["empty"], row["auc"]) == (4, 1, 0.75)
    assert (row["mean_score_high"], row["mean_score_low"]) == (2.0, 1.0)
    assert row["cohens_d"] == pytest.approx(0.1 / math.sqrt(0.02), abs=1e-3)
    assert "0.750" in table_text("title", {"extraversion": row})


def test_stripping_what_only_repeats_the_persona() -> None:
    description = "You are extremely shy and silent, and you hate loud parties and big crowds."
    stay = "I would stay in bed with the door locked!"
    answer = f"I am extremely shy and silent. {stay} I hate loud parties and big crowds."
    assert strip_description(answer, description) == stay
    assert strip_description("I am extremely shy and silent, and I hate loud parties.", description) == ""
    assert strip_description("I go home early. Then I make some", description) == "I go home early."
    assert strip_description("Then I make some", description) == "Then I make some"
    assert strip_description("No.", description) == "No."


def test_answers_survive_a_file(tmp_path: Path) -> None:
    odd = PersonaAnswer(Pole.parse("N-"), "Why?", 'You "are"\nX.', "日本 <|im_end|>")
    rows = [odd, PersonaAnswer(POLES[0], "a", "b", "")]
    save_answers(tmp_path / "a.jsonl", rows)
    assert load_answers(tmp_path / "a.jsonl") == rows
    (tmp_path / "a.jsonl").write_text('{"pole": "E+", "question": "q"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: description: Field required"):
        load_answers(tmp_path / "a.jsonl")
