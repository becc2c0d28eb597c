"""BLEU between lists of answers with bootstrap intervals: sacrebleu's own statistics of every sentence, summed over draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.personified.evaluate.cast import Person
from dpg_fast.util.stats import Interval, bootstrap_all

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]  # both directions, [questions, 10]
Answers = Mapping[tuple[str, str, str, int], str]  # (person, stage, question, sample) -> response
MEASURES = ("intra", "stage", "inter", "gap")


def sentence_statistics(a: Sequence[str], b: Sequence[str]) -> Pair:
    """What corpus BLEU adds up, of a against b and b against a: [n, 10] correct and total 1- to 4-grams, lengths.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    bleu = _bleu()

    def one(hypothesis: str, reference: str) -> list[int]:
        found = bleu.corpus_score([hypothesis], [[reference]])
        return [*found.counts, *found.totals, found.sys_len, found.ref_len]

    rows = [(one(x, y), one(y, x)) for x, y in zip(a, b, strict=True)]
    return np.array([r[0] for r in rows], dtype=np.int64), np.array([r[1] for r in rows], dtype=np.int64)


def bleu_of(pair: Pair, weights: NDArray[np.int64] | None = None) -> float:
    """Corpus BLEU (0..100) of the questions, each as often as its weight says, mean of both directions."""
    bleu = _bleu()
    scores = []
    for table in pair:
        total = table.sum(0) if weights is None else weights @ table
        correct, every, sys_len, ref_len = total[:4].tolist(), total[4:8].tolist(), int(total[8]), int(total[9])
        scores.append(bleu.compute_bleu(correct, every, sys_len, ref_len, smooth_method="exp").score)
    return float(np.mean(scores))


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs the package sacrebleu: pip install sacrebleu") from error
    return BLEU()


@dataclass(frozen=True)
class DistinctionTable:
    """PersLLM's table of one system, from which figures of any draw of questions are made.

    Attributes:
        pairs: person -> measure ("intra", "stage", "inter") -> pairs of answer lists, all to the person's own test questions.
            Intra: two samples of the same stage, each stage a pair. Stage: first samples of two stages. Inter: first samples
            of the person and of the others, at stages of the same name where both have it.
        questions: person -> how many.
    """

    pairs: dict[str, dict[str, list[Pair]]]
    questions: dict[str, int]

    def figures(self, weights: Mapping[str, NDArray[np.int64]] | None = None) -> dict[str, dict[str, float]]:
        """person, and "mean" -> measure -> BLEU; "gap" is intra less stage. What a person lacks is left out."""
        found: dict[str, dict[str, float]] = {}
        for person, measures in self.pairs.items():
            own = {
                name: float(np.mean([bleu_of(pair, None if weights is None else weights[person]) for pair in pairs]))
                for name, pairs in measures.items()
                if pairs
            }
            if "intra" in own and "stage" in own:
                own["gap"] = own["intra"] - own["stage"]
            found[person] = own
        means = {}
        for name in MEASURES:
            values = [own[name] for own in found.values() if name in own]
            if values:
                means[name] = float(np.mean(values))
        return found | {"mean": means}


def distinction_table(cast: Sequence[Person], answers: Answers) -> DistinctionTable:
    """The table of one system's answers; questions that somebody did not answer are an error.

    Raises:
        KeyError: an answer is missing.
    """
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for person in cast:
        ids = [question.id for question in person.questions]

        def said(who: Person, stage: str, sample: int, ids: list[str] = ids, of: Person = person) -> list[str]:
            return [answers[who.name, stage, f"{of.name}: {i}", sample] for i in ids]

        own = list(person.stages)
        found: dict[str, list[Pair]] = {
            "intra": [sentence_statistics(said(person, s, 0), said(person, s, 1)) for s in own],
            "stage": [
                sentence_statistics(said(person, a, 0), said(person, b, 0))
                for i, a in enumerate(own)
                for b in own[i + 1 :]
            ],
            "inter": [],
        }
        for other in cast:
            if other is not person:
                found["inter"] += [
                    sentence_statistics(said(person, a, 0), said(other, b, 0)) for a, b in stage_pairs(person, other)
                ]
        pairs[person.name] = found
    return DistinctionTable(pairs, {person.name: len(person.questions) for person in cast})


def stage_pairs(person: Person, other: Person) -> list[tuple[str, str]]:
    """Stages that are compared between two people: those of the same name, else all with all."""
    shared = [stage for stage in person.stages if stage in other.stages]
    return [(stage, stage) for stage in shared] or [(a, b) for a in person.stages for b in other.stages]


def distinction_intervals(
    tables: Mapping[str, DistinctionTable], against: str | None, *, resamples: int = 500, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of every system with 95 % intervals over questions, and differences from the system ``against``.

    One draw of each person's questions serves all systems, so differences are paired.

    Returns:
        system -> person -> measure -> {"estimate", "low", "high"}; and the same of differences (empty without ``against``).
    """
    sizes = next(iter(tables.values())).questions
    places = [
        (name, person, measure)
        for name, table in tables.items()
        for person, own in table.figures().items()
        for measure in own
    ]
    pairs = [(place, (against, *place[1:])) for place in places if against is not None and place[0] != against]

    def statistics(*draws: NDArray[np.int64]) -> list[float]:
        weights = {
            person: np.bincount(rows, minlength=size) for (person, size), rows in zip(sizes.items(), draws, strict=True)
        }
        drawn = {name: table.figures(weights) for name, table in tables.items()}
        found = {(name, person, measure): drawn[name][person][measure] for name, person, measure in places}
        return [*found.values(), *(found[own] - found[other] for own, other in pairs)]  # type: ignore[index]

    intervals = bootstrap_all(statistics, *sizes.values(), resamples=resamples, seed=seed)

    def nested(keys: Sequence[tuple[str, str, str]], values: Sequence[Interval]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for (name, person, measure), value in zip(keys, values, strict=True):
            found.setdefault(name, {}).setdefault(person, {})[measure] = value.to_dict()
        return found

    return nested(places, intervals[: len(places)]), nested([own for own, _ in pairs], intervals[len(places) :])
