"""Everybody's answers to everybody's test questions, and what the systems find likely; kept in journals, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpg_fast.judges.journal import Journal
from dpg_fast.personified.data.record import ANALYSIS, RESPONSE
from dpg_fast.personified.evaluate.bleu import stage_pairs
from dpg_fast.personified.evaluate.cast import Person, Question
from dpg_fast.personified.evaluate.systems import BareSystem, Request, Sampling
from dpg_fast.text.fluency import Likelihood
from dpg_fast.util.progress import Progress

Key = tuple[str, str, str, int]  # person, stage, "owner: question", sample
CORRECTIONS = ("No, that is not so.", "That is not true.", "You are mistaken about that.")
AGREEMENTS = ("Yes, that is so.", "That is quite true.", "You are right about that.")


def response_of(text: str) -> str:
    """The response of an answer: what follows the marker, or all of it; empty if it never came to the response."""
    if RESPONSE in text:
        return text.split(RESPONSE, 1)[1].strip()
    return "" if text.lstrip().startswith(ANALYSIS) else text.strip()


def wanted_answers(cast: Sequence[Person]) -> list[tuple[Key, Request]]:
    """What is asked: each person's questions, of that person at every stage twice, and of the others once."""
    found: list[tuple[Key, Request]] = []
    for owner in cast:
        for question in owner.questions:
            name = f"{owner.name}: {question.id}"
            for stage in owner.stages:
                for sample in (0, 1):
                    found.append(((owner.name, stage, name, sample), Request(owner, stage, question.text)))
            for other in cast:
                if other is not owner:
                    for stage in dict.fromkeys(b for _, b in stage_pairs(owner, other)):
                        found.append(((other.name, stage, name, 0), Request(other, stage, question.text)))
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
    """The answers as generated; those that a journal of the same job holds are taken from it."""
    options = {name: value for name, value in asdict(sampling).items()}
    about = system.about() | {"base": identity, "sampling": options, "seed": seed, "questions": digest(cast)}
    journal = Journal(
        directory / f"answers_{file_name(system.name)}.jsonl", about, ("person", "stage", "question", "sample")
    )
    every = wanted_answers(cast)
    # batches are cut from all that is wanted, so that a continued run has those of an uninterrupted one
    batches = [every[i : i + sampling.batch_size] for i in range(0, len(every), sampling.batch_size)]
    for number, batch in enumerate(batches):
        progress(f"answers, {system.name}", number, len(batches))
        if all(key in journal for key, _ in batch):
            continue
        said = system.answer([request for _, request in batch], sampling, f"{seed} {number}")
        journal.append(
            {"person": key[0], "stage": key[1], "question": key[2], "sample": key[3], "text": text}
            for (key, _), text in zip(batch, said, strict=True)
        )
    progress(f"answers, {system.name}", len(batches), len(batches))
    return {key: str(journal[key]["text"]) for key, _ in every}


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
    about = system.about() | {"base": identity, "questions": digest(cast), "answers": _digest(sorted(answers.items()))}
    journal = Journal(directory / f"likelihoods_{file_name(system.name)}.jsonl", about, ("person", "question"))
    todo = [(person, question) for person in cast for question in person.questions]
    for number, (person, question) in enumerate(todo):
        progress(f"likelihoods, {system.name}", number, len(todo))
        if (person.name, question.id) in journal:
            continue
        text = question.full if thinks else question.reference
        stages = _means(
            system, [Request(person, stage, question.text) for stage in person.stages], [text], [""], batch_size
        )
        said = answers[person.name, question.stage, f"{person.name}: {question.id}", 0]
        before = f"{said.split(RESPONSE, 1)[0]}{RESPONSE} " if thinks and RESPONSE in said else ""
        stock = [*CORRECTIONS, *AGREEMENTS]
        own = Request(person, question.stage, question.text)
        values = _means(system, [own] * len(stock), stock, [before] * len(stock), batch_size)
        half = len(CORRECTIONS)
        journal.append(
            [
                {
                    "person": person.name,
                    "question": question.id,
                    "stages": dict(zip(person.stages, stages, strict=True)),
                    "correction": sum(values[:half]) / half - sum(values[half:]) / (len(values) - half),
                }
            ]
        )
    progress(f"likelihoods, {system.name}", len(todo), len(todo))
    return {(p.name, q.id): journal[(p.name, q.id)] for p, q in todo}


def _means(
    system: BareSystem, requests: Sequence[Request], texts: Sequence[str], prefixes: Sequence[str], batch_size: int
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


def digest(cast: Sequence[Person]) -> str:
    """Hash of the questions and the material that systems may see."""
    rows: list[Any] = [
        [
            person.name,
            [asdict(q) for q in person.questions],
            [[s.id, s.time, [p.text for p in s.paragraphs]] for s in person.stages.values()],
        ]
        for person in cast
    ]
    return _digest(rows)


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """A system's name as part of a file's."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return plain if plain == name else f"{plain}_{_digest(name)[:4]}"


def own_answers(cast: Sequence[Person], answers: dict[Key, str]) -> list[tuple[Person, Question, str]]:
    """Each question with the response of the person asked, at the question's stage (first sample)."""
    return [(p, q, response_of(answers[p.name, q.stage, f"{p.name}: {q.id}", 0])) for p in cast for q in p.questions]
