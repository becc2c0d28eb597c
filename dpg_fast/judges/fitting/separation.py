"""Fit the scale of a `LikelihoodJudge` to persona-prompted answers; measure it on answers it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpg_fast.judges.likelihood import Judgement, LikelihoodJudge, TraitScale
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.answers import AnswerSettings, greedy_answers
from dpg_fast.text.assets import DescriptionSplit, PersonalityBench, QuestionSplit, load_descriptions, load_questions
from dpg_fast.text.personas import PersonaAnswer
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count
from dpg_fast.util.stats import auc, bootstrap, cohens_d

Item = tuple[Pole, str, str]


def fit_scale(high: ArrayLike, low: ArrayLike) -> TraitScale:
    """The logistic curve P(high pole | llr) = 1 / (1 + exp(-2 (llr - centre) / width)).

    Newton's method on Platt's smoothed targets (Platt 1999): the slope stays finite when samples separate.

    Args:
        high, low: log-likelihood ratios of answers from the two poles, nats per token.

    Raises:
        ValueError: fewer than two values in a sample, or ratios that do not rise from low to high.
    """
    h, lo = np.asarray(high, dtype=np.float64).ravel(), np.asarray(low, dtype=np.float64).ravel()
    if min(h.size, lo.size) < 2:
        raise DPGError(f"a scale needs at least two answers of each pole, not {h.size} and {lo.size}")
    values = np.concatenate([h, lo])
    middle, unit = values.mean(), values.std()
    if h.mean() <= lo.mean() or unit == 0.0:
        raise DPGError("the ratios of high-pole answers are not above those of low-pole answers: nothing to scale")
    x = np.stack([(values - middle) / unit, np.ones_like(values)], axis=1)
    target = np.concatenate([np.full(h.size, (h.size + 1) / (h.size + 2)), np.full(lo.size, 1 / (lo.size + 2))])

    def loss(w: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        z = x @ w
        return float((np.logaddexp(0.0, z) - target * z).sum())

    w = np.zeros(2)
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-(x @ w)))
        gradient = x.T @ (p - target)
        step = np.linalg.solve((x.T * (p * (1.0 - p))) @ x + 1e-9 * np.eye(2), gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2.0
        w = w - size * step
        if np.abs(gradient).max() < 1e-9:
            break
    slope = w[0] / unit
    return TraitScale(centre=float(middle - w[1] / slope), width=float(2.0 / slope))


def shipped_items(split: str, *, questions: int | None = None, descriptions: int = 3) -> list[Item]:
    """(pole, question, description) of the shipped texts.

    Args:
        split: "fit" (with the descriptions of "search"), "holdout" or "validation"; never the judge's own ones.
        questions: the first so many questions of each trait; default all.
        descriptions: different people who answer each question, per pole.

    Raises:
        ValueError: another split, or not that many descriptions.
    """
    described: dict[str, tuple[QuestionSplit, DescriptionSplit]] = {
        "fit": ("fit", "search"),
        "holdout": ("holdout", "holdout"),
        "validation": ("validation", "validation"),
    }
    if split not in described:
        raise DPGError(f"split is one of {', '.join(described)}, not {split!r}")
    items: list[Item] = []
    for pole in POLES:
        asked = [row.question for row in load_questions(pole.trait, described[split][0])]
        people = [row.text for row in load_descriptions(pole, described[split][1])]
        items += _cross(pole, asked[:questions], people, descriptions)
    return items


def personalitybench_items(bench: PersonalityBench, *, questions: int = 20, descriptions: int = 2) -> list[Item]:
    """(pole, question, description), taken at even distances from PersonalityBench's questions."""
    items: list[Item] = []
    for pole in POLES:
        everything = bench.questions[pole.trait]
        n = min(questions, len(everything))
        asked = [everything[i * len(everything) // n] for i in range(n)]
        items += _cross(pole, asked, bench.descriptions[pole], descriptions)
    return items


def _cross(pole: Pole, asked: Sequence[str], people: Sequence[str], descriptions: int) -> list[Item]:
    if not 1 <= descriptions <= len(people):
        raise DPGError(f"there are {len(people)} descriptions of {pole} here; {descriptions} were asked for")
    step = len(people) // descriptions
    return [
        (pole, question, people[(i + j * step) % len(people)])
        for i, question in enumerate(asked)
        for j in range(descriptions)
    ]


def judge_own_trait(
    judge: LikelihoodJudge, answers: Sequence[PersonaAnswer], *, progress: Count | None = None
) -> list[Judgement]:
    """Each answer judged on the trait of its own pole."""
    results: dict[int, Judgement] = {}
    for trait in judge.scale.traits:
        rows = [i for i, answer in enumerate(answers) if answer.pole.trait == trait]
        judged = judge.judge_all([(answers[i].question, answers[i].answer) for i in rows], traits=[trait])
        results.update(zip(rows, judged, strict=True))
        if progress is not None:
            progress(len(results), len(answers))
    return [results[i] for i in range(len(answers))]


def split_by_pole(
    answers: Sequence[PersonaAnswer], judgements: Sequence[Judgement], trait: Trait, what: str = "llr"
) -> tuple[list[float], list[float]]:
    """The ratios ("llr") or "scores" of `trait`: of its high-pole answers, of its low-pole answers."""
    high: list[float] = []
    low: list[float] = []
    for answer, judgement in zip(answers, judgements, strict=True):
        if answer.pole.trait == trait and trait in judgement.llr:
            (high if answer.pole.high else low).append(getattr(judgement, what)[trait])
    return high, low


def separation(
    answers: Sequence[PersonaAnswer], judgements: Sequence[Judgement], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Per trait: n, empty answers, AUC (95 % bootstrap), Cohen's d of the ratios, mean score of each pole."""
    table: dict[str, dict[str, Any]] = {}
    for trait in Trait:
        high, low = split_by_pole(answers, judgements, trait)
        if not high or not low:
            continue
        above, below = np.array(high), np.array(low)
        interval = bootstrap(
            lambda a, b, x=above, y=below: auc(x[a], y[b]), above.size, below.size, resamples=1000, seed=seed
        )
        scores = split_by_pole(answers, judgements, trait, "scores")
        asked = sum(answer.pole.trait == trait for answer in answers)
        table[trait.value] = {
            "n": len(high) + len(low),
            "empty": asked - len(high) - len(low),
            "auc": round(interval.estimate, 4),
            "auc_low": round(interval.low, 4),
            "auc_high": round(interval.high, 4),
            "cohens_d": round(cohens_d(high, low), 3),
            "mean_score_high": round(float(np.mean(scores[0])), 3),
            "mean_score_low": round(float(np.mean(scores[1])), 3),
        }
    return table


def table_text(title: str, table: Mapping[str, Mapping[str, Any]]) -> str:
    """`separation` as lines to print."""
    lines = [f"{title:<22}   n  empty   AUC  [95 % interval]    d   high   low"]
    for name, row in table.items():
        lines.append(
            f"{name:<22} {row['n']:>3} {row['empty']:>6} {row['auc']:>5.3f}"
            f"  [{row['auc_low']:.3f}, {row['auc_high']:.3f}]"
            f"  {row['cohens_d']:>5.2f}  {row['mean_score_high']:>+5.2f} {row['mean_score_low']:>+5.2f}"
        )
    if table:
        mean = sum(row["auc"] for row in table.values()) / len(table)
        lines.append(f"{'mean':<22} {'':>10} {mean:>5.3f}")
    return "\n".join(lines)


def neutral_scores(judge: LikelihoodJudge, *, questions: int = 6) -> dict[str, float]:
    """Per trait the mean score of the judge's model without any persona: where its zero lies."""
    means: dict[str, float] = {}
    for trait in judge.scale.traits:
        asked = [row.question for row in load_questions(trait, "holdout")][:questions]
        texts = greedy_answers(judge.model, judge.tokenizer, asked, AnswerSettings("", max_new_tokens=70))
        judged = judge.judge_all(list(zip(asked, texts, strict=True)), traits=[trait])
        found = [row.scores[trait] for row in judged if trait in row.scores]
        means[trait.value] = round(float(np.mean(found)), 3) if found else math.nan
    return means
