"""Does a personality move the judge? Answers of a trait's two poles to the same questions, compared with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from dpg_fast.judges.base import Judge
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.scores import MAX_SCORE, Personality, Trait
from dpg_fast.util.stats import Interval, auc, mean_interval


@dataclass(frozen=True)
class PoleContrast:
    """Judged scores of one trait's high and low pole on the same questions.

    Attributes:
        questions: how many were asked.
        high, low: mean judged scores, -5..5.
        difference: high - low over questions, with its 95% bootstrap interval (questions resampled).
        auc: share of (high, low) answer pairs that the judge orders rightly.
        answers: the texts, high pole then low pole.
    """

    questions: int
    high: float
    low: float
    difference: Interval
    auc: float
    answers: tuple[tuple[str, ...], tuple[str, ...]]


def contrast_poles(
    model: PersonalityModel,
    tokenizer: Any,
    judge: Judge,
    questions: Mapping[Trait, Sequence[str]],
    *,
    system: str,
    level: float = MAX_SCORE,
    max_new_tokens: int = 48,
    progress: Callable[[Trait], None] | None = None,
) -> dict[Trait, PoleContrast]:
    """Ask each trait's questions of both its poles (greedy, repetition penalty 1.1) and judge that trait.

    Args:
        model: with a personality to give.
        tokenizer: the base model's.
        judge: of answers; a likelihood judge needs a bare model.
        questions: for each trait, at least two.
        system: the same instruction for both poles; it should name no trait.
        level: asked for, as ``+level`` and ``-level``.
        max_new_tokens: length of each answer.
        progress: called after each trait.
    """
    result = {}
    for trait, asked in questions.items():
        people = [Personality({trait.value: level})] * len(asked) + [Personality({trait.value: -level})] * len(asked)
        texts = model.chat(
            [*asked, *asked],
            personality=people,
            tokenizer=tokenizer,
            system=system,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.1,
        )
        judged = judge.judge_all(list(zip([*asked, *asked], texts, strict=True)), traits=[trait])
        scores = np.array([j.scores.get(trait, np.nan) for j in judged])
        high, low = scores[: len(asked)], scores[len(asked) :]
        both = ~np.isnan(high + low)  # an empty answer, or one whose call failed, has no score
        result[trait] = PoleContrast(
            int(both.sum()),
            float(high[both].mean()),
            float(low[both].mean()),
            mean_interval(high[both] - low[both], resamples=2000),
            auc(high[both], low[both]),
            (tuple(texts[: len(asked)]), tuple(texts[len(asked) :])),
        )
        if progress is not None:
            progress(trait)
    return result


def contrast_table(result: Mapping[Trait, PoleContrast], title: str) -> Table:
    """The figures for the terminal."""
    table = Table(title=title)
    for column in ("trait", "questions", "high pole", "low pole", "difference", "95% interval", "AUC"):
        table.add_column(column, justify="left" if column == "trait" else "right")
    for trait, c in result.items():
        interval = f"[{c.difference.low:+.2f}, {c.difference.high:+.2f}]"
        values = (f"{c.high:+.2f}", f"{c.low:+.2f}", f"{c.difference.estimate:+.2f}", interval, f"{c.auc:.2f}")
        table.add_row(trait.value, str(c.questions), *values)
    return table
