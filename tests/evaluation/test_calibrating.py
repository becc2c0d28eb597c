"""Calibration: the monotone fit on curves that are known, the guard, resuming after kill -9, and the file."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast import Personality, PersonalityModel
from dpg_fast.architecture.layers import find_architecture
from dpg_fast.evaluation.calibration import DosePoint, Guard, NeuronSteerer, fit_pole, monotone_knots, run_sweep
from dpg_fast.evaluation.calibration.fit import NO_EFFECT, SATURATED, dose_points, fitted_shifts
from dpg_fast.evaluation.calibration.sweep import grid
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration
from dpg_fast.model.calibration import PoleCurve
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.fluency import answer_likelihoods, perplexity, repeated_ngrams
from dpg_fast.text.prompting import chat_prompt
from tests.model.test_wrapper import random_table

HIGH, LOW = Pole.parse("E+"), Pole.parse("E-")
E = Trait.EXTRAVERSION
QUESTIONS = {E: ["A party is tonight. What do you do?", "A stranger smiles at you.", "You are alone at home."]}


def points(
    strengths: Sequence[float],
    shifts: Sequence[float],
    perplexities: Sequence[float] | None = None,
    repetitions: Sequence[float] | None = None,
    bare: float = 0.5,
    sign: int = 1,
) -> list[DosePoint]:
    n = len(strengths)
    return [
        DosePoint(s, 4, bare + sign * shift, shift, shift - 0.1, shift + 0.1, ppl, repeated, 0.0)
        for s, shift, ppl, repeated in zip(
            strengths, shifts, perplexities or [3.0] * n, repetitions or [0.0] * n, strict=True
        )
    ]


# ---------------------------------------------------------------- the fit


def test_a_level_gets_the_strength_of_its_share_of_the_shift() -> None:
    strengths = [0.0, 0.5, 1.0, 1.5, 2.0]
    fit = fit_pole(points(strengths, [0.0, 2.0, 3.0, 3.5, 4.0]), HIGH)
    assert [fit.curve.strength(level) for level in (0, 1.25, 2.5, 3.75, 5)] == pytest.approx([0, 0.25, 0.5, 1.0, 2.0])
    assert fit.largest_shift == pytest.approx(4.0) and fit.reached == pytest.approx(4.5)
    assert fit.beyond_reach == (5,)
    assert fit.limited_by == "end of the sweep"


def test_noise_that_falls_is_pooled_and_leaves_a_jump() -> None:
    # 2 then 1 pool to 1.5 from strength 1 to 1.5: a quarter of 6, so level 1.25 jumps over that stretch
    curve = fit_pole(points([0.0, 0.5, 1.0, 1.5, 2.0], [0.0, -0.3, 2.0, 1.0, 6.0]), HIGH).curve
    assert curve.knots == ((0.0, 0.0), (0.0, 0.5), (1.25, 1.0), (1.25, 1.5), (5.0, 2.0))
    assert curve.strength(0) == 0.0  # nothing is asked for: nothing is done
    assert curve.strength(1.25) == 1.0  # the smallest strength that does it
    assert curve.strength(1.26) > 1.5


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=9), st.floats(0.1, 1.0))
def test_any_sweep_gives_a_curve_whose_shifts_are_the_levels(measured: list[float], share: float) -> None:
    strengths = [0.4 * i for i in range(len(measured) + 1)]
    usable = share * strengths[-1]
    knots, largest = monotone_knots(strengths, [0.0, *measured], usable)
    curve = PoleCurve(knots)
    assert curve.max_strength <= usable + 1e-9
    strengths_of = [curve.strength(level) for level in np.linspace(0, 5, 41)]
    assert strengths_of == sorted(strengths_of)
    fitted = fitted_shifts([0.0, *measured])
    assert (np.diff(fitted) >= 0).all() and largest <= max(0.0, *measured) + 1e-6
    if largest > 1e-3:
        for level in np.linspace(0.1, 5, 21):
            found = np.interp(curve.strength(level), strengths, fitted)
            assert found == pytest.approx(level / 5 * largest, abs=1e-5)


def test_a_pole_without_effect_is_named_and_not_dropped() -> None:
    fit = fit_pole(points([0.0, 1.0, 2.0], [0.0, -1.0, -0.5], sign=-1), LOW)
    assert fit.limited_by == NO_EFFECT and fit.largest_shift == 0.0
    assert fit.curve.strength(2.5) == 0.5
    guarded = points([0.0, 1.0, 2.0], [0.0, -1.0, -0.5], perplexities=[2.0, 6.25, 99.0], sign=-1)
    assert fit_pole(guarded, LOW, without_effect=1.6).curve.max_strength == pytest.approx(0.804, abs=1e-3)
    assert fit.beyond_reach == (-1, -2, -3, -4, -5)


def test_strength_beyond_the_peak_is_not_used() -> None:
    fit = fit_pole(points([0.0, 1.0, 2.0, 3.0], [0.0, 5.0, 1.0, 1.0]), HIGH)
    assert fit.limited_by == SATURATED
    assert fit.curve.max_strength == 1.0
    assert fit.largest_shift == pytest.approx(7 / 3)  # what the pooled answers show, not the lucky one


def test_the_guard_bounds_the_strengths() -> None:
    strengths, shifts = [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]
    guard = Guard(perplexity_ratio=4.0, repetition=0.1)
    by_perplexity = fit_pole(points(strengths, shifts, perplexities=[2.0, 4.0, 16.0, 99.0]), HIGH, guard)
    assert by_perplexity.limited_by == "perplexity"
    assert by_perplexity.curve.max_strength == pytest.approx(1.5)  # log 2 to log 8, the limit log 4
    assert by_perplexity.largest_shift == pytest.approx(1.5)
    circling = fit_pole(points(strengths, shifts, [2.0, 1.5, 1.2, 1.1], [0.1, 0.1, 0.3, 0.9]), HIGH, guard)
    assert circling.limited_by == "repetition"
    assert circling.curve.max_strength == pytest.approx(1.5)


def test_strengths_that_left_nothing_to_judge_end_the_sweep() -> None:
    nothing = DosePoint(2.0, 0, float("nan"), float("nan"), float("nan"), float("nan"), float("nan"), 0.0, 1.0)
    fit = fit_pole([*points([0.0, 1.0], [0.0, 1.0]), nothing], HIGH)
    assert fit.limited_by == "no answer could be judged" and fit.curve.max_strength == 1.0
    json.dumps(fit.curve.fitted, allow_nan=False)
    with pytest.raises(ValueError, match="E\\+ could be judged"):
        fit_pole([*points([0.0], [0.0]), nothing], HIGH)


# ---------------------------------------------------------------- the file


def test_calibration_file_round_trip(tmp_path: Path) -> None:
    fit = fit_pole(points([0.0, 0.5, 1.0], [0.0, 1.0, 4.0]), HIGH, about={"judge": "toy"})
    calibration = Calibration({LOW: 1.4}, {HIGH: fit.curve})
    calibration.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded.curves == calibration.curves and loaded.kind == "monotone"
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored["curves"]["E+"]["max_strength"] == 1.0
    assert stored["curves"]["E+"]["fitted"]["judge"] == "toy"
    assert len(stored["curves"]["E+"]["fitted"]["points"]) == 3
    at = dict(zip(map(str, POLES), loaded.strengths(Personality("E+1.25 O-5")), strict=True))
    assert at["E+"] == 0.5 and at["O-"] == 1.0 and sum(at.values()) == 1.5
    assert dict(zip(map(str, POLES), loaded.strengths(Personality("E-2.5")), strict=True))["E-"] == pytest.approx(0.7)


def test_linear_files_are_still_read(tmp_path: Path) -> None:
    Calibration({HIGH: 1.6}).save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["kind"] == "linear"
    assert Calibration.load(tmp_path / "c.json").strength(HIGH, 2.5) == 0.8
    for text in ('{"schema": "other"}', '{"schema": "dpg_fast.calibration/1", "kind": "wavy"}'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ValueError, match="expected a linear or monotone"):
            Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "knots",
    [
        [(0, 0), (4, 1)],
        [(0, 0.1), (5, 1)],
        [(0, 0), (3, 1), (2, 1), (5, 2)],
        [(0, 0), (3, 2), (5, 1)],
        [(0, 0), (5, "nan")],
    ],
)
def test_curves_that_are_none_are_refused(knots: Any) -> None:
    with pytest.raises(ValueError, match="curve"):
        PoleCurve(tuple(knots))


# ---------------------------------------------------------------- fluency


def test_repeated_ngrams() -> None:
    assert repeated_ngrams("one two three four five six") == 0.0
    assert repeated_ngrams("I like it here. I like it here. I LIKE it here.") == pytest.approx(5 / 9)
    assert repeated_ngrams("") == repeated_ngrams("too short") == 0.0


def test_likelihood_is_that_of_the_plain_forward(tiny_llama: Any, byte_tokenizer: Any) -> None:
    import torch

    answers = ["I dance.", "", "no no <|end|> no", "x"]
    found = answer_likelihoods(tiny_llama, byte_tokenizer, "What?", answers, system="Be.", batch_size=2)
    assert found[1].tokens == 0
    prompt = chat_prompt(byte_tokenizer, [{"role": "user", "content": "What?"}], system="Be.")
    start = byte_tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for answer, row in zip(answers, found, strict=True):
        ids = byte_tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert row.tokens == len(ids) and 0 not in ids
        if ids:
            with torch.no_grad():
                logp = tiny_llama(torch.tensor([start + ids])).logits[0].log_softmax(-1)
            expected = sum(float(logp[len(start) + i - 1, token]) for i, token in enumerate(ids))
            assert row.log_likelihood == pytest.approx(expected, rel=1e-4)
    assert perplexity(found) > 1.0


# ---------------------------------------------------------------- the sweep


@dataclass
class Lengths:
    """Judges by length; stands for any judge."""

    asked: list[int] = field(default_factory=list)

    def judge_all(self, pairs: Sequence[tuple[str, str]], *, traits: Any = None, progress: Any = None) -> Any:
        self.asked.append(len(pairs))
        return [_Verdict({t: min(5.0, len(answer) / 10) for t in traits} if answer else {}) for _, answer in pairs]

    def judge(self, question: str, answers: Sequence[str], *, traits: Any = None) -> Any:
        return self.judge_all([(question, answer) for answer in answers], traits=traits)

    def describe(self) -> str:
        return "judges by length"


@dataclass
class _Verdict:
    scores: Mapping[Trait, float]
    reason: str | None = None


@dataclass
class Writer:
    """Writes more, the stronger it is steered to the high pole."""

    batches: int = 0
    pause: float = 0.0

    def steer(self, questions: Sequence[str], poles: Sequence[Pole], strengths: Sequence[float]) -> list[str]:
        self.batches += 1
        time.sleep(self.pause)
        return ["a" * round(20 + (10 if p.high else -5) * s) for p, s in zip(poles, strengths, strict=True)]

    def about(self) -> Mapping[str, Any]:
        return {"writer": "toy"}


def toy_scorer(model: Any, tokenizer: Any) -> Scorer:
    return Scorer(Lengths(), model, tokenizer, system="")


def test_sweep_extends_and_refuses_another(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    scorer = toy_scorer(tiny_llama, byte_tokenizer)
    writer = Writer()
    run_sweep(writer, scorer, QUESTIONS, [HIGH], [0.5, 1.0], tmp_path, batch_size=4)
    assert writer.batches == 3  # nine answers
    seen: list[tuple[str, int, int]] = []
    sweep = run_sweep(
        writer,
        scorer,
        QUESTIONS,
        [HIGH, LOW],
        [0.5, 1.0, 2.0],
        tmp_path,
        batch_size=100,
        progress=lambda *a: seen.append(a),
    )
    assert writer.batches == 4
    assert seen[0] == ("answers", 9, 21) and seen[-1] == ("scores", 2 * 21, 2 * 21)
    shifts = [point.shift for point in dose_points(sweep, HIGH)]
    assert shifts == pytest.approx([0.0, 0.5, 1.0, 2.0])
    assert [point.shift for point in dose_points(sweep, LOW)][1:] == pytest.approx([0.2, 0.5, 1.0], abs=0.06)
    with pytest.raises(ValueError, match="another run"):
        run_sweep(
            writer, Scorer(Lengths(), tiny_llama, byte_tokenizer, system="other"), QUESTIONS, [HIGH], [1.0], tmp_path
        )


def test_neurons_are_steered_with_the_strengths_of_the_sweep(tiny_llama: Any, byte_tokenizer: Any) -> None:
    architecture = find_architecture(tiny_llama)
    table = random_table(architecture.num_layers, architecture.intermediate)
    model = PersonalityModel.from_model(tiny_llama, steering=table, calibration=Calibration({HIGH: 0.3}))
    settings = AnswerSettings(system="", max_new_tokens=8)
    steerer = NeuronSteerer(model, byte_tokenizer, settings, {})
    asked = QUESTIONS[E][:1] * 3
    bare, weak, strong = steerer.steer(asked, [HIGH, HIGH, LOW], [0.0, 0.5, 2.0])
    assert model.calibration.strength(HIGH, 5) == 0.3  # as it was

    def direct(personality: Any, strength: float) -> str:
        model.calibration = Calibration(dict.fromkeys(POLES, strength))
        found = model.chat(
            asked[:1],
            personality=[personality],
            tokenizer=byte_tokenizer,
            max_new_tokens=8,
            do_sample=False,
            repetition_penalty=1.1,
        )
        return str(found[0])

    assert (bare, weak, strong) == (direct(None, 1), direct(Personality("E+5"), 0.5), direct(Personality("E-5"), 2.0))
    assert len({bare, weak, strong}) == 3


class Unscored(Scorer):
    """Scores without a model."""

    def judge_traits(self, question: str, answers: Sequence[str], traits: Sequence[Trait]) -> list[dict[str, Any]]:
        row = {"reason": None, "rated_fluency": None}
        return [{"scores": {t.value: len(a) / 10 for t in traits}, "empty": not a, **row} for a in answers]

    def fluency(self, question: str, answers: Sequence[str]) -> list[dict[str, Any]]:
        return [{"log_likelihood": -1.0, "tokens": 1, "repetition": 0.0, "empty": not a} for a in answers]


def _sweep_toy(directory: Path, writer: Writer) -> None:
    run_sweep(writer, Unscored(Lengths(), None, None), QUESTIONS, [HIGH, LOW], [0.5, 1.0], directory, batch_size=2)


def test_killed_sweep_continues(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_sweep_toy, args=(tmp_path, Writer(pause=0.1)))
    process.start()
    while process.is_alive() and not (file.exists() and len(file.read_bytes().splitlines()) >= 5):
        time.sleep(0.01)
    process.kill()
    process.join()
    before = file.read_text().splitlines()
    assert 5 <= len(before) < 16
    with file.open("a") as torn:
        torn.write('{"trait": "extraver')  # the line it was writing
    writer = Writer()
    _sweep_toy(tmp_path, writer)
    after = file.read_text().splitlines()
    assert after[: len(before)] == before and len(after) == 16
    assert writer.batches == -(-(16 - len(before)) // 2)
    assert len({tuple(json.loads(line)[k] for k in ("pole", "strength", "question")) for line in after[1:]}) == 15


def test_grid() -> None:
    assert grid(2.4, 6) == (0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
    with pytest.raises(ValueError, match="largest strength"):
        grid(0.0, 3)
    with pytest.raises(ValueError, match="ratio"):
        Guard(perplexity_ratio=1.0)
