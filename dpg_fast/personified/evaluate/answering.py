"""Everybody's answers to everybody's test questions, and what the systems find likely; kept in stores, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.judges.runner import fill
from dpg_fast.personified.data.record import ANALYSIS, RESPONSE
from dpg_fast.personified.evaluate.bleu import stage_pairs
from dpg_fast.personified.evaluate.cast import CastQuestion, Person
from dpg_fast.personified.evaluate.systems import BareSystem, Sampling, SystemRequest
from dpg_fast.text.fluency import Likelihood
from dpg_fast.util.identity import digest
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Store

Key = tuple[str, str, str, int]  # person, stage, "owner: question", sample
ANSWER_KEY = ("person", "stage", "question", "sample")
CORRECTIONS = ("No, that is not so.", "That is not true.", "You are mistaken about that.")
AGREEMENTS = ("Yes, that is so.", "That is quite true.", "You are right about that.")


def response_of(text: str) -> str:
    """The response of an answer: what follows the marker, or all of it; empty if it never came to the response."""
    if RESPONSE in text:
        return text.split(RESPONSE, 1)[1].strip()
    return "" if text.lstrip().startswith(ANALYSIS) else text.strip()


def wanted_answers(cast: Sequence[Person]) -> list[tuple[Key, SystemRequest]]:
    """What is asked: each person's questions, of that person at every stage twice, and of the others once."""
    found: list[tuple[Key, SystemRequest]] = []
    for owner in cast:
        for question in owner.questions:
            name = f"{owner.name}: {question.id}"
            for stage in owner.stages:
                for sample in (0, 1):
                    found.append(((owner.name, stage, name, sample), SystemRequest(owner, stage, question.text)))
            for other in cast:
                if other is not owner:
                    for stage in dict.fromkeys(b for _, b in stage_pairs(owner, other)):
                        found.append(((other.name, stage, name, 0), SystemRequest(other, stage, question.text)))
    return found


def collect_answers(
    system: BareSystem,
    cast: Sequence[Person],
    sampling: Sampling,
    directory: Path,
    identity: str,
    seed: int,
    progress: Progress,
) -> dict[Key, str]:
    """The answers as generated; those that a store of the same run holds are taken from it."""
    options = {name: value for name, value in asdict(sampling).items()}
    about = system.about() | {"base": identity, "sampling": options, "seed": seed, "questions": cast_digest(cast)}
    every = wanted_answers(cast)
    places = {key: place for place, (key, _) in enumerate(every)}

    def work(batch: Sequence[tuple[Key, SystemRequest]]) -> list[dict[str, Any]]:
        number = places[batch[0][0]] // sampling.batch_size
        said = system.answer([request for _, request in batch], sampling, f"{seed} {number}")
        return [{**dict(zip(ANSWER_KEY, key, strict=True)), "text": t} for (key, _), t in zip(batch, said, strict=True)]

    with Store(directory / f"answers_{file_name(system.name)}.jsonl", about, ANSWER_KEY) as store:
        what = f"answers, {system.name}"
        fill(store, every, lambda item: item[0], work, what, progress, batch_size=sampling.batch_size, whole=True)
        return {key: str(store[key]["text"]) for key, _ in every}


def collect_likelihoods(
    system: BareSystem,
    cast: Sequence[Person],
    answers: dict[Key, str],
    directory: Path,
    identity: str,
    batch_size: int,
    progress: Progress,
) -> dict[tuple[str, str], dict[str, Any]]:
    """For each (person, question): "stages": stage -> mean log-probability of a token of the question's golden answer under that
    stage; "correction": that of stock corrections less that of stock agreements as the beginning of the response.

    Systems that think aloud are asked after the analysis that they wrote, and about golden answers with analysis.
    """
    thinks = thinks_aloud(answers)
    about = system.about() | {
        "base": identity,
        "questions": cast_digest(cast),
        "answers": digest(sorted(answers.items()), 16),
    }
    todo = [(person, question) for person in cast for question in person.questions]

    def work(batch: Sequence[tuple[Person, CastQuestion]]) -> list[dict[str, Any]]:
        ((person, question),) = batch
        text = question.full if thinks else question.reference
        stages = _means(
            system, [SystemRequest(person, stage, question.text) for stage in person.stages], [text], [""], batch_size
        )
        said = answers[person.name, question.stage, f"{person.name}: {question.id}", 0]
        before = f"{said.split(RESPONSE, 1)[0]}{RESPONSE} " if thinks and RESPONSE in said else ""
        stock = [*CORRECTIONS, *AGREEMENTS]
        own = SystemRequest(person, question.stage, question.text)
        values = _means(system, [own] * len(stock), stock, [before] * len(stock), batch_size)
        half = len(CORRECTIONS)
        return [
            {
                "person": person.name,
                "question": question.id,
                "stages": dict(zip(person.stages, stages, strict=True)),
                "correction": sum(values[:half]) / half - sum(values[half:]) / (len(values) - half),
            }
        ]

    def key(item: tuple[Person, CastQuestion]) -> tuple[str, str]:
        return item[0].name, item[1].id

    file = directory / f"likelihoods_{file_name(system.name)}.jsonl"
    with Store(file, about, ("person", "question")) as store:
        fill(store, todo, key, work, f"likelihoods, {system.name}", progress)
        return {key(item): store[key(item)] for item in todo}


def _means(
    system: BareSystem,
    requests: Sequence[SystemRequest],
    texts: Sequence[str],
    prefixes: Sequence[str],
    batch_size: int,
) -> list[float]:
    """Mean log-probability per token; one text or prefix serves all requests."""
    count = len(requests)
    texts, prefixes = (list(part) * count if len(part) == 1 else list(part) for part in (texts, prefixes))
    found: list[Likelihood] = []
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        found += system.likelihoods(requests[part], texts[part], prefixes[part])
    return [value.log_likelihood / max(1, value.tokens) for value in found]


def thinks_aloud(answers: dict[Key, str]) -> bool:
    """Whether most answers begin with an analysis."""
    return sum(text.startswith(ANALYSIS) for text in answers.values()) * 2 > len(answers)


def cast_digest(cast: Sequence[Person]) -> str:
    """Hash of the questions and the material that systems may see."""
    rows: list[Any] = [
        [
            person.name,
            [asdict(q) for q in person.questions],
            [[s.id, s.time, [p.text for p in s.paragraphs]] for s in person.stages.values()],
        ]
        for person in cast
    ]
    return digest(rows, 16)


def file_name(name: str) -> str:
    """A system's name as part of a file's."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return plain if plain == name else f"{plain}_{digest(name, 4)}"


def own_answers(cast: Sequence[Person], answers: dict[Key, str]) -> list[tuple[Person, CastQuestion, str]]:
    """Each question with the response of the person asked, at the question's stage (first sample)."""
    return [(p, q, response_of(answers[p.name, q.stage, f"{p.name}: {q.id}", 0])) for p in cast for q in p.questions]
