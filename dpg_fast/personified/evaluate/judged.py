"""What a judge behind an API says of the answers: accuracy by kind, ranking of the systems, and stances to false premises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpg_fast.judges.reference.judge import AccuracyProtocol, RankingProtocol, judge_records
from dpg_fast.judges.reference.prompts import AnswersRecord
from dpg_fast.judges.validation.metrics import rank_systems
from dpg_fast.llm import LLMClient
from dpg_fast.personified.evaluate.cast import CastQuestion, Person
from dpg_fast.personified.evaluate.offline import overlap

Said = Mapping[str, Sequence[tuple[Person, CastQuestion, str]]]  # system -> its answers, all to the same questions


def answer_records(said: Said) -> list[AnswersRecord]:
    """A record for each question with every system's response."""
    first = next(iter(said.values()))
    return [
        AnswersRecord(
            question=question.text,
            reference=question.reference,
            answers={name: own[i][2] for name, own in said.items()},
            character=person.name,
        )
        for i, (person, question, _) in enumerate(first)
    ]


def judged_figures(client: LLMClient, said: Said, *, resamples: int, seed: int) -> dict[str, Any]:
    """ "accuracy" and, of at least two systems, "ranking" as `reference_figures` has them, with how many judgements failed.

    Raises:
        LLMError: the server cannot be used; replies that came are stored.
    """
    records = answer_records(said)
    found: dict[str, Any] = {}
    protocols: list[Any] = [AccuracyProtocol(client)]
    if len(said) > 1:
        protocols.append(RankingProtocol(client, seed=seed, resamples=resamples, systems=len(said)))
    for protocol in protocols:
        outcomes = judge_records(client, protocol, records)
        good = [outcome.content for outcome in outcomes if not outcome.failed]
        figures = protocol.summarise(good) if good else {}
        found[protocol.name] = figures | {"failed": len(outcomes) - len(good), "judge": protocol.describe()}
    return found


def overlap_ranking(said: Said, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Mean ranks of the systems by overlap with the golden response: a weak stand-in for a judge. None of one system."""
    if len(said) < 2:
        return None
    first = next(iter(said.values()))
    ranks = []
    for i, (_, question, _) in enumerate(first):
        scores = {name: overlap(own[i][2], question.reference) for name, own in said.items()}
        ranks.append({name: float(sum(other > own for other in scores.values())) for name, own in scores.items()})
    figures = rank_systems(ranks, resamples=resamples, seed=seed)
    return {
        "items": figures.questions,
        "mean_rank": {
            name: {"estimate": i.estimate, "low": i.low, "high": i.high} for name, i in figures.mean_rank.items()
        },
        "first": figures.first,
    }
