"""Does a personality hold over a long chat? A scripted conversation, judged turn by turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dpg_fast.assess.judges import Judge
from dpg_fast.assess.reliability import bootstrap_rows
from dpg_fast.assess.statistics import Interval
from dpg_fast.model import PersonalityModel
from dpg_fast.model.rows import Row, read_rows
from dpg_fast.personality import Personality, Trait
from dpg_fast.prompting import Message

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
        distances: [turns] mean absolute distance to the personality asked for, over people who have one; nan without any.
    """

    labels: tuple[str, ...]
    turns: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    scores: NDArray[np.float64]
    slopes: dict[Trait, Interval]
    distances: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is undefined is None."""
        return {
            "labels": list(self.labels),
            "turns": list(self.turns),
            "answers": [list(row) for row in self.answers],
            "scores": [[[_number(v) for v in turn] for turn in person] for person in self.scores.tolist()],
            "slopes": {
                trait.value: {"per_turn": _number(s.estimate), "low": _number(s.low), "high": _number(s.high)}
                for trait, s in self.slopes.items()
            },
            "distances": [_number(value) for value in self.distances],
        }

    def table(self) -> Table:
        """Slopes, and mean scores of the first and last third, for the terminal."""
        table = Table(title=f"Drift over {len(self.turns)} turns, {len(self.labels)} people")
        for column in ("trait", "first third", "last third", "slope per turn", "95% interval"):
            table.add_column(column, justify="left" if column == "trait" else "right")
        third = max(1, len(self.turns) // 3)
        for trait, slope in self.slopes.items():
            judged = self.scores[:, :, trait.position]
            ends = (_mean(judged[:, :third]), _mean(judged[:, -third:]))
            interval = f"[{slope.low:+.3f}, {slope.high:+.3f}]"
            table.add_row(trait.value, *(f"{v:+.2f}" for v in ends), f"{slope.estimate:+.3f}", interval)
        return table


def measure_drift(
    model: PersonalityModel,
    tokenizer: Any,
    judge: Judge,
    people: Sequence[tuple[str, Row | str]],
    *,
    turns: Sequence[str] = USER_TURNS,
    system: str | None = None,
    max_new_tokens: int = 48,
    traits: Sequence[Trait] | None = None,
    progress: Callable[[int, int], None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **generation: Any,
) -> Drift:
    """Chat through ``turns`` as every person at once, then judge every answer together with the turn it answers.

    Args:
        model: with whatever the personalities need.
        tokenizer: with a chat template.
        judge: of answers.
        people: (label, personality); None is the base model.
        turns: what the user says, two turns at least.
        system: put before the conversation; it should name no trait.
        max_new_tokens: length of each answer.
        traits: to judge; default: all that the judge knows.
        progress: called with how many turns have been answered, and of how many.
        resamples, seed: of the intervals.
        **generation: passed to `generate`; default greedy with repetition penalty 1.1.

    Raises:
        ValueError: no people, or fewer than two turns.
    """
    if not people or len(turns) < 2:
        raise ValueError("drift needs one person and two turns at least")
    labels = tuple(label for label, _ in people)
    rows = read_rows([row for _, row in people], len(people))
    options = {"do_sample": False, "repetition_penalty": 1.1} | generation
    chats: list[list[Message]] = [[] for _ in people]
    for number, turn in enumerate(turns, 1):
        for chat in chats:
            chat.append({"role": "user", "content": turn})
        said = model.chat(
            chats, personality=rows, tokenizer=tokenizer, system=system, max_new_tokens=max_new_tokens, **options
        )
        for chat, text in zip(chats, said, strict=True):
            chat.append({"role": "assistant", "content": text})
        if progress is not None:
            progress(number, len(turns))
    answers = tuple(tuple(message["content"] for message in chat[1::2]) for chat in chats)
    pairs = [(turn, texts[i]) for texts in answers for i, turn in enumerate(turns)]
    scores = np.full((len(people), len(turns), len(Trait)), math.nan)
    for place, verdict in enumerate(judge.judge_all(pairs, traits=traits)):
        for trait, value in verdict.scores.items():
            scores[place // len(turns), place % len(turns), trait.position] = value
    return Drift(
        labels, tuple(turns), answers, scores, slopes(scores, resamples=resamples, seed=seed), _distances(scores, rows)
    )


def slopes(scores: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0) -> dict[Trait, Interval]:
    """Least-squares change per turn of [people, turns, 5] scores, of every trait that was judged; see `Drift.slopes`."""
    found = {}
    for trait in Trait:
        column = scores[:, :, trait.position]
        if not np.isfinite(column).any():
            continue
        people, turns = column.shape
        if people > 1:
            each = np.array([[_slope(np.arange(turns), row)] for row in column])
            each = each[np.isfinite(each[:, 0])]
            if not each.size:
                continue
            found[trait] = bootstrap_rows(lambda rows: float(rows.mean()), each, resamples=resamples, seed=seed)
        else:
            points = np.stack([np.arange(turns), column[0]], axis=1)
            points = points[np.isfinite(points[:, 1])]
            found[trait] = bootstrap_rows(
                lambda rows: _slope(rows[:, 0], rows[:, 1]), points, resamples=resamples, seed=seed
            )
    return found


def _slope(x: NDArray[Any], y: NDArray[np.float64]) -> float:
    kept = np.isfinite(y)
    x, y = np.asarray(x, dtype=np.float64)[kept], y[kept]
    if x.size < 2 or np.ptp(x) == 0:
        return math.nan
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def _distances(scores: NDArray[np.float64], rows: Sequence[Row]) -> tuple[float, ...]:
    asked = np.array([list(row) if isinstance(row, Personality) else [math.nan] * len(Trait) for row in rows])
    gaps = np.abs(scores - asked[:, None, :])
    return tuple(_mean(gaps[:, turn]) for turn in range(scores.shape[1]))


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else math.nan


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
