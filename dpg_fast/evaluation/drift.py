"""Does a personality hold over a long chat? A scripted conversation, judged turn by turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dpg_fast.judges.base import Judge
from dpg_fast.judges.runner import fill, read_pairs
from dpg_fast.model import PersonalityModel
from dpg_fast.model.disk.identity import model_identity
from dpg_fast.personality.row import RowItem, read_item
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.questionnaire.session import Respondent
from dpg_fast.text.prompting import Message, with_system
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval, bootstrap, mean_interval, mean_of
from dpg_fast.util.store import Store
from dpg_fast.util.words import counted

ANSWERS, SCORES = "answers", "scores"
USER_TURNS = (
    "Hi! How has your day been so far?",
    "What would you do with a free afternoon that came as a surprise?",
    "A colleague blames you for a mistake that was not yours. What happens next?",
    "Somebody gives you a ticket to an exhibition you know nothing about. Do you go?",
    "You have a lot to finish by tomorrow. How do you go about it?",
    "A neighbour you hardly know asks you to look after her dog for a week. What do you say?",
    "Tell me about the last time plans changed at the last minute.",
    "Friends want to spend the weekend with twenty people in one house. What do you think of it?",
    "You hear a strange noise at night. What goes through your mind?",
    "You find out that a rule at work makes no sense. What do you do?",
    "Somebody disagrees with you loudly in front of others. How do you react?",
    "Looking back at our talk, what matters most to you in life?",
)


@dataclass(frozen=True)
class Drift:
    """Judged scores over the turns of a chat.

    Attributes:
        labels: people. turns: what the user said.
        answers: [people][turns].
        scores: [people, turns, 5] in -5..5; nan where the judge found nothing to judge.
        slopes: trait -> change of the score per turn (least squares, mean over people). The interval resamples people, or turns
            where there is one person.
        distances: [turns] mean absolute distance to the personality asked for, over people who have one and their traits
            that are not 0; nan without any.
        targets: [people][5] asked for; nan for who was asked for nothing.
    """

    labels: tuple[str, ...]
    turns: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    scores: NDArray[np.float64]
    slopes: dict[Trait, Interval]
    distances: tuple[float, ...]
    targets: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is undefined is None."""
        return {
            "labels": list(self.labels),
            "turns": list(self.turns),
            "answers": [list(row) for row in self.answers],
            "scores": json_ready(self.scores),
            "slopes": {
                trait.value: json_ready({"per_turn": s.estimate, "low": s.low, "high": s.high})
                for trait, s in self.slopes.items()
            },
            "distances": json_ready(self.distances),
            "targets": json_ready(self.targets),
        }

    def table(self) -> Table:
        """Slopes, and mean scores of the first and last third, for the terminal."""
        table = Table(
            title=f"Drift over {counted(len(self.turns), 'turn')}, {counted(len(self.labels), 'person', 'people')}"
        )
        for column in ("trait", "first third", "last third", "slope per turn", "95% interval"):
            table.add_column(column, justify="left" if column == "trait" else "right")
        third = max(1, len(self.turns) // 3)
        for trait, slope in self.slopes.items():
            judged = self.scores[:, :, trait.position]
            ends = (mean_of(judged[:, :third].ravel()), mean_of(judged[:, -third:].ravel()))
            interval = f"[{slope.low:+.3f}, {slope.high:+.3f}]"
            table.add_row(trait.value, *(f"{v:+.2f}" for v in ends), f"{slope.estimate:+.3f}", interval)
        return table


def measure_drift(
    model: PersonalityModel,
    tokenizer: Any,
    judge: Judge,
    people: Sequence[Respondent | tuple[str, RowItem | str]],
    *,
    turns: Sequence[str] = USER_TURNS,
    system: str | None = None,
    max_new_tokens: int = 48,
    traits: Sequence[Trait] | None = None,
    directory: Path | None = None,
    progress: Progress | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **generation: Any,
) -> Drift:
    """Chat through ``turns`` as every person at once, then judge every answer together with the turn it answers.

    Args:
        model: with whatever the personalities need.
        tokenizer: with a chat template.
        judge: of answers.
        people: respondents, or (label, personality); None is the base model. A respondent's own system text stands before
            ``system``: personality by prompt, to compare with.
        turns: what the user says, at least two turns.
        system: put before every conversation; it should name no trait.
        max_new_tokens: length of each answer.
        traits: to judge; default: all that the judge knows.
        directory: keeps answers and scores turn by turn; a killed run continues from there.
        progress: gets what is done, how much of it, and of how much.
        resamples, seed: of the intervals.
        **generation: passed to `generate`; default greedy with repetition penalty 1.1.

    Raises:
        ValueError: no people, fewer than two turns, or a directory that holds another chat.
    """
    if not people or len(turns) < 2:
        raise DPGError("drift needs at least one person and two turns")
    given = [person if isinstance(person, Respondent) else Respondent(person[0]) for person in people]
    wanted = [person.personality if isinstance(person, Respondent) else person[1] for person in people]
    rows = [read_item(item) for item in wanted]
    options = {"do_sample": False, "repetition_penalty": 1.1} | generation
    about: dict[str, Any] = {}
    if directory is not None:
        asked = [Respondent(r.label, row, r.system, r.asked).to_dict() for r, row in zip(given, rows, strict=True)]
        about = {"model": model_identity(model), "people": asked, "turns": list(turns), "system": system}
        about |= {"max_new_tokens": max_new_tokens, "generation": {k: str(v) for k, v in options.items()}}
    systems = [" ".join(filter(None, (person.system, system))) or None for person in given]

    def file(name: str) -> Path | None:
        return None if directory is None else directory / f"{name}.jsonl"

    with Store(file(ANSWERS), about, ("turn",)) as said:

        def speak(numbers: Sequence[int]) -> list[dict[str, Any]]:
            (number,) = numbers
            earlier = [said[n,]["rows"] for n in range(number)]
            chats = [
                with_system(tokenizer, _chat(turns, [row[place] for row in earlier]), own)
                for place, own in enumerate(systems)
            ]
            texts = model.chat(chats, personality=rows, tokenizer=tokenizer, max_new_tokens=max_new_tokens, **options)
            return [{"turn": number, "rows": list(texts)}]

        fill(said, range(len(turns)), lambda number: (number,), speak, ANSWERS, progress)
        answers = tuple(zip(*(said[number,]["rows"] for number in range(len(turns))), strict=True))
    names = None if traits is None else [trait.value for trait in traits]
    with Store(file(SCORES), about | {"judge": judge.describe(), "traits": names}, ("turn",)) as kept:
        scores = _judged(judge, turns, answers, traits, kept, progress)
    labels = tuple(person.label for person in given)
    targets: list[RowItem] = [
        person.asked if row is None and person.asked else row for person, row in zip(given, rows, strict=True)
    ]
    found = slopes(scores, resamples=resamples, seed=seed)
    return Drift(labels, tuple(turns), answers, scores, found, _distances(scores, targets), _targets(targets))


def _chat(turns: Sequence[str], said: Sequence[str]) -> list[Message]:
    """One person's conversation up to the next turn."""
    chat: list[Message] = []
    for turn, answer in zip(turns, said, strict=False):
        chat += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*chat, {"role": "user", "content": turns[len(said)]}]


def _judged(
    judge: Judge,
    turns: Sequence[str],
    answers: Sequence[Sequence[str]],
    traits: Sequence[Trait] | None,
    kept: Store,
    progress: Progress | None,
) -> NDArray[np.float64]:
    """[people, turns, 5] scores; all answers to a turn are judged together, for judges share work between them."""
    scores = np.full((len(answers), len(turns), len(Trait)), math.nan)

    def read(numbers: Sequence[int]) -> list[dict[str, Any]]:
        (number,) = numbers
        found, final = read_pairs(judge, [(turns[number], own[number]) for own in answers], traits)
        put(number, found)
        return [{"turn": number, "rows": found}] if final else []  # failed calls are made again by a later run

    def put(number: int, found: Sequence[dict[str, float]]) -> None:
        for place, row in enumerate(found):
            for name, value in row.items():
                scores[place, number, Trait.parse(name).position] = value

    for number in range(len(turns)):
        if (number,) in kept:
            put(number, kept[number,]["rows"])
    fill(kept, range(len(turns)), lambda number: (number,), read, SCORES, progress)
    return scores


def slopes(scores: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> dict[Trait, Interval]:
    """Least-squares change per turn of [people, turns, 5] scores, of every trait that was judged; see `Drift.slopes`."""
    found = {}
    turns = np.arange(scores.shape[1])
    for trait in Trait:
        column = scores[:, :, trait.position]
        if len(column) > 1:
            each = np.array([_slope(turns, row) for row in column])
            if np.isfinite(each).any():
                found[trait] = mean_interval(each[np.isfinite(each)], resamples=resamples, seed=seed)
        elif np.isfinite(column).any():
            there = np.flatnonzero(np.isfinite(column[0]))
            found[trait] = bootstrap(
                lambda rows, x=there, y=column[0][there]: _slope(x[rows], y[rows]),
                len(there),
                resamples=resamples,
                seed=seed,
            )
    return found


def _slope(x: NDArray[Any], y: NDArray[np.float64]) -> float:
    kept = np.isfinite(y)
    x, y = np.asarray(x, dtype=np.float64)[kept], y[kept]
    if x.size < 2 or np.ptp(x) == 0:
        return math.nan
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def _targets(rows: Sequence[RowItem]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) if isinstance(row, Personality) else (math.nan,) * len(Trait) for row in rows)


def _distances(scores: NDArray[np.float64], rows: Sequence[RowItem]) -> tuple[float, ...]:
    """Over the scores asked for that are not 0: a neutral trait is asked of nobody."""
    asked = np.array(_targets(rows))
    gaps = np.where(asked[:, None, :] != 0, np.abs(scores - asked[:, None, :]), math.nan)
    return tuple(mean_of(gaps[:, turn].ravel()) for turn in range(scores.shape[1]))
