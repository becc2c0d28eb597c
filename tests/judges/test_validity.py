"""Do methods measure the same: people whose scores are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpg_fast.judges.validation.validity import agreements, disagreements, multitrait_multimethod
from dpg_fast.personality.scores import Trait
from dpg_fast.util.stats import weighted_kappa


def test_methods_that_measure_the_same_converge() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(-4, 4, (40, 5))
    scores = {"questionnaire": truth + rng.normal(size=(40, 5)), "judge": truth / 2 + 0.5 * rng.normal(size=(40, 5))}
    found = multitrait_multimethod(scores, resamples=100)
    assert found.convergent_mean > 0.8 > 0.5 > found.heteromethod_mean and found.passed == 1
    assert found.matrix.shape == (10, 10) and found.people == 40
    pair = found.convergent["questionnaire", "judge", Trait.EXTRAVERSION]
    assert pair.estimate == pytest.approx(found.matrix[2, 7]) and pair.low < pair.estimate < pair.high
    shuffled = {"questionnaire": truth, "noise": rng.normal(size=(40, 5))}
    assert abs(multitrait_multimethod(shuffled, resamples=100).convergent_mean) < 0.3
    halo = np.repeat(truth[:, :1], 5, axis=1) + 0.1 * rng.normal(size=(40, 5))
    assert multitrait_multimethod({"a": halo, "b": halo + 0.1}, resamples=50).monomethod_mean > 0.95


def test_validity_leaves_out_incomplete_people_and_says_when_too_few() -> None:
    x = np.random.default_rng(2).normal(size=(6, 5))
    y = x.copy()
    y[0, 3] = math.nan
    found = multitrait_multimethod({"a": x, "b": y}, resamples=20)
    assert found.people == 5 and found.convergent_mean == pytest.approx(1)
    flat = multitrait_multimethod({"a": x, "b": np.zeros((6, 5))}, resamples=20)
    assert math.isnan(flat.convergent_mean) and flat.to_dict()["convergent_mean"] is None
    with pytest.raises(ValueError, match="at least two methods"):
        multitrait_multimethod({"a": x})
    with pytest.raises(ValueError, match="only 2 people"):
        multitrait_multimethod({"a": x[:2], "b": x[:2]})


def test_agreement_is_of_the_scores_and_not_only_of_their_order() -> None:
    x = np.array([[-4, -2, 0, 2, 4.0]]).T * np.ones((5, 5))
    shifted = np.clip(x + 1, -5, 5)
    same, moved = agreements({"a": x, "b": x}, resamples=50)[0], agreements({"a": x, "b": shifted}, resamples=50)[0]
    assert [same.spearman.estimate, same.icc_2_1.estimate, same.kappa.estimate] == pytest.approx(
        [1, 1, 1]
    ) and same.people == 5
    assert moved.spearman.estimate == pytest.approx(1) and 0.8 < moved.icc_2_1.estimate < 1
    assert moved.kappa.estimate == pytest.approx(weighted_kappa(x[:, 0], shifted[:, 0], categories=range(-5, 6)))
    x[:3, 2] = math.nan
    rows = agreements({"a": x, "b": shifted, "c": x}, resamples=20)
    assert len(rows) == 3 * 4 and all(row.trait != Trait.EXTRAVERSION for row in rows)
    assert rows[0].to_dict()["icc_2_1"]["estimate"] == rows[0].icc_2_1.estimate


def test_disagreements_are_those_on_the_standardised_scores() -> None:
    x = np.zeros((5, 5))
    x[:, 2] = [-2, -1, 0, 1, 2]
    y = x / 2 + 1  # another scale, the same order
    y[4, 2] = 0.5
    (first, *_) = disagreements(list("abcde"), {"one": x, "two": y}, top=3)
    assert first.label == "e" and first.trait == Trait.EXTRAVERSION and first.scores == (2, 0.5)
    assert disagreements(list("abcde"), {"one": x, "two": x * 3 + 1}, top=1)[0].distance < 1e-9
