"""The dose-response sweep: the same questions answered at several steering strengths towards each pole, and scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dpg_fast.judges.runner import Answerer, Task, run_respondents
from dpg_fast.judges.scoring import Scorer
from dpg_fast.model import Calibration, PersonalityModel
from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality, Pole, Trait
from dpg_fast.text.answers import AnswerSettings, greedy_answers
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Row

ANSWERS, SCORES = "answers.jsonl", "scores.jsonl"
KEY = ("trait", "pole", "strength", "question")
BARE = "bare"


class Steerer(Protocol):
    """Answers questions while steering to a pole with a strength."""

    def steer(self, questions: Sequence[str], poles: Sequence[Pole], strengths: Sequence[float]) -> list[str]:
        """One answer for each; strength 0 is the bare model."""

    def about(self) -> Mapping[str, Any]:
        """What the answers depend on, JSON-ready."""


class NeuronSteerer:
    """Steers the personality neurons of a `PersonalityModel` with given strengths, whatever its calibration says."""

    def __init__(
        self, model: PersonalityModel, tokenizer: Any, settings: AnswerSettings, identity: Mapping[str, Any]
    ) -> None:
        """
        Args:
            model: with a steering table and no hypernetwork: LoRA weights do not follow the strengths.
            tokenizer: the base model's.
            settings: of the generation.
            identity: names the adapter and the base, for the store.
        """
        if model.steering is None:
            raise DPGError("this adapter has no personality neurons to calibrate")
        if model.hypernet is not None:
            raise DPGError("calibrate the neurons on the base model alone: wrap it without the hypernetwork")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self._identity = dict(identity)

    def steer(self, questions: Sequence[str], poles: Sequence[Pole], strengths: Sequence[float]) -> list[str]:
        """As :class:`Steerer` says; strengths and poles are mixed freely in one batch."""
        top = max(max(strengths), 1e-6)
        people = [
            Personality({pole.trait.value: MAX_SCORE * strength / top * (1 if pole.high else -1)}) if strength else None
            for pole, strength in zip(poles, strengths, strict=True)
        ]
        with calibrated(self.model, Calibration(dict.fromkeys(POLES, top))):
            return greedy_answers(self.model, self.tokenizer, questions, self.settings, personality=people)

    def about(self) -> Mapping[str, Any]:
        return {**self._identity, "answers": self.settings.about()}


@contextmanager
def calibrated(model: PersonalityModel, calibration: Calibration) -> Iterator[None]:
    """Another calibration inside the block."""
    before, model.calibration = model.calibration, calibration
    try:
        yield
    finally:
        model.calibration = before


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: the scored answers of the bare model and of each pole at each strength.

    Args:
        strengths: above 0, ascending.
        bare: trait -> question -> scored answer.
        steered: pole -> strength -> question -> scored answer.
    """

    strengths: tuple[float, ...]
    bare: Mapping[Trait, Mapping[str, Row]]
    steered: Mapping[Pole, Mapping[float, Mapping[str, Row]]]


def grid(most: float, steps: int) -> tuple[float, ...]:
    """``steps`` strengths above 0, evenly spaced up to ``most``."""
    if steps < 2 or not (math.isfinite(most) and most > 0):
        raise DPGError(f"a sweep needs a largest strength above 0 and at least two steps, got {most}, {steps}")
    return tuple(round(most * (i + 1) / steps, 6) for i in range(steps))


def run_sweep(
    steerer: Steerer,
    scorer: Scorer,
    questions: Mapping[Trait, Sequence[str]],
    poles: Sequence[Pole],
    strengths: Sequence[float],
    directory: Path,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Sweep:
    """Answer and score everything that ``directory`` does not hold yet. May be killed at any time and called again.

    Args:
        steerer: generates the answers.
        scorer: scores them, each on the trait of its pole.
        questions: of each pole's trait; more of them, more poles or strengths extend a finished sweep.
        poles: to steer to.
        strengths: above 0.
        directory: keeps the raw answers and scores as JSON Lines.
        batch_size: answers generated side by side.
        progress: gets "answers" or "scores", how many are done, and of how many.

    Raises:
        ValueError: no questions, or ``directory`` holds another sweep.
    """
    traits = list(dict.fromkeys(pole.trait for pole in poles))
    empty = [trait.value for trait in traits if not questions.get(trait)]
    if empty or not poles:
        raise DPGError(f"a sweep needs poles, and questions for each trait; missing: {', '.join(empty) or 'poles'}")
    cells: list[tuple[Pole, str, float]] = [(Pole(trait, True), BARE, 0.0) for trait in traits]
    cells += [(pole, str(pole), float(strength)) for pole in poles for strength in sorted(strengths)]

    def steer(asked: Sequence[str], who: Sequence[tuple[Pole, float]]) -> list[str]:
        return steerer.steer(asked, [pole for pole, _ in who], [strength for _, strength in who])

    tasks = [
        Task((pole.trait.value, name, strength, question), question, (pole, strength), (pole.trait,))
        for pole, name, strength in cells
        for question in questions[pole.trait]
    ]
    respondent = Answerer("", tasks, steer, steerer.about(), directory / ANSWERS, directory / SCORES)
    (rows,) = run_respondents([respondent], scorer, KEY, batch_size=batch_size, progress=progress)

    def found(trait: Trait, pole: str, strength: float) -> dict[str, Row]:
        return {question: rows[trait.value, pole, strength, question] for question in questions[trait]}

    return Sweep(
        tuple(sorted(map(float, strengths))),
        {trait: found(trait, BARE, 0.0) for trait in traits},
        {pole: {float(s): found(pole.trait, str(pole), float(s)) for s in sorted(strengths)} for pole in poles},
    )
