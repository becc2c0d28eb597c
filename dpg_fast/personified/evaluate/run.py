"""The whole evaluation: answers, likelihoods, figures, questionnaire, drift. Every part continues where a killed run was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.evaluation.drift import USER_TURNS, measure_drift
from dpg_fast.judges.base import Judge
from dpg_fast.judges.stance import RULE, stances
from dpg_fast.llm import LLMClient
from dpg_fast.model.disk.identity import model_identity
from dpg_fast.personality.scores import Trait
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.record import RESPONSE
from dpg_fast.personified.evaluate.answering import Key, collect_answers, collect_likelihoods, own_answers, response_of
from dpg_fast.personified.evaluate.bleu import DistinctionTable, distinction_intervals, distinction_table
from dpg_fast.personified.evaluate.cast import Person
from dpg_fast.personified.evaluate.judged import judged_figures, overlap_ranking
from dpg_fast.personified.evaluate.offline import overlap_figures, premise_figures, stage_figures
from dpg_fast.personified.evaluate.systems import BareSystem, Sampling
from dpg_fast.questionnaire.administer import administer
from dpg_fast.questionnaire.analysis import analyse
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import AdministrationSettings, Respondent
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest
from dpg_fast.util.progress import Progress, count_of, silent
from dpg_fast.util.results import write_results

FIGURES = "figures.json"
JudgeMaker = Callable[[Any, Any], Judge]


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of a run.

    Attributes:
        sampling: of the answers.
        likelihoods: measure them (needs a forward pass for each question and stage).
        forms: of the questionnaire; 0 leaves it out.
        drift: turns of the long chat; 0 leaves it out.
        parts_of: systems whose questionnaire and drift are measured; none: all that are asked to be somebody.
        against: system from which differences are taken.
        resamples, seed: of intervals, and the seed of the answers.
    """

    sampling: Sampling = field(default_factory=Sampling)
    likelihoods: bool = True
    forms: int = 2
    drift: int = 8
    parts_of: Sequence[str] = ()
    against: str | None = None
    resamples: int = 500
    seed: int = 0


def check_settings(settings: EvaluationSettings, systems: Sequence[BareSystem]) -> None:
    """Refuse what cannot be done before anything is loaded or asked.

    Raises:
        ValueError: a name that no system has, or a drift of one turn.
    """
    names = [system.name for system in systems]
    for what, wanted in (
        ("--against", [settings.against] if settings.against else []),
        ("--parts-of", settings.parts_of),
    ):
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise DPGError(f"{what} names {', '.join(unknown)}, which is none of {', '.join(names)}")
    if settings.drift == 1 or settings.drift > len(USER_TURNS):
        raise DPGError(f"the long chat has 2 to {len(USER_TURNS)} turns, or 0 for none")


def evaluate(
    systems: Sequence[BareSystem],
    cast: Sequence[Person],
    directory: Path,
    settings: EvaluationSettings,
    *,
    judge: LLMClient | None = None,
    trait_judge: JudgeMaker | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask, measure and write ``figures.json``, whose content is returned.

    Args:
        systems: of different names, on one base model.
        cast: the people.
        directory: of the stores and the figures.
        settings: see there.
        judge: an API's model for accuracy, ranking and stances; None: weak figures alone.
        trait_judge: makes the judge of personality for the long chat from base model and tokenizer; None: no long chat.
        about: what else a report should say.
        progress: gets what is done, how much of it, and of how much.

    Raises:
        ValueError: settings that do not fit, or a directory with another evaluation.
        LLMError: the judge's server cannot be used; what is done is kept.
    """
    check_settings(settings, systems)
    report = progress or silent
    identity = model_identity(systems[0].base)
    said, likely = {}, {}
    parts: dict[str, dict[str, Any]] = {"questionnaire": {}, "drift": {}}
    for system in systems:
        system.prepare()
        try:
            answers = collect_answers(system, cast, settings.sampling, directory, identity, settings.seed, report)
            said[system.name] = answers
            likely[system.name] = (
                collect_likelihoods(system, cast, answers, directory, identity, settings.sampling.batch_size, report)
                if settings.likelihoods
                else {}
            )
            if system.name in (settings.parts_of or [s.name for s in systems]) and system.name != "bare":
                if settings.forms:
                    parts["questionnaire"][system.name] = _questionnaire(system, cast, settings, directory, report)
                if settings.drift and trait_judge is not None:
                    parts["drift"][system.name] = _drift(system, cast, settings, trait_judge, directory, report)
        finally:
            system.close()
    found = figures(systems, cast, said, likely, settings, judge) | {k: v for k, v in parts.items() if v}
    found["about"] = dict(about or {}) | {"settings": asdict(settings), "base": identity}
    found["examples"] = _examples(cast, said)
    write_results(directory / FIGURES, found)
    return found


def figures(
    systems: Sequence[BareSystem],
    cast: Sequence[Person],
    said: Mapping[str, dict[Key, str]],
    likely: Mapping[str, Mapping[tuple[str, str], Mapping[str, Any]]],
    settings: EvaluationSettings,
    judge: LLMClient | None = None,
) -> dict[str, Any]:
    """Everything that follows from answers and likelihoods."""
    resamples, seed = settings.resamples, settings.seed
    responses = {name: {key: response_of(text) for key, text in answers.items()} for name, answers in said.items()}
    tables = {name: distinction_table(cast, own) for name, own in responses.items()}
    bleu, differences = distinction_intervals(tables, settings.against, resamples=resamples, seed=seed)
    own = {name: own_answers(cast, answers) for name, answers in said.items()}
    found: dict[str, Any] = {
        "systems": {system.name: system.description for system in systems},
        "people": {
            p.name: {"stages": {s: stage.time for s, stage in p.stages.items()}, "questions": len(p.questions)}
            for p in cast
        },
        "distinction": bleu,
        "golden": _golden(cast),
        "text": {name: _text(answers) for name, answers in said.items()},
        "overlap": {name: overlap_figures(rows, resamples, seed) for name, rows in own.items()},
        "stages": {name: stage_figures(rows, likely[name], resamples, seed) for name, rows in own.items()},
        "premises": {},
        "stance_by": RULE if judge is None else f"{judge.settings.model} over an API",
    }
    if settings.against is not None:
        found |= {"against": settings.against, "differences": differences}
    for name, rows in own.items():
        pairs = [(question.text, text) for _, question, text in rows]
        judged = stances(pairs, judge)
        found["premises"][name] = premise_figures(rows, judged, likely[name], resamples, seed)
    golden = [(p, q, q.reference) for p in cast for q in p.questions]
    by_rule = stances([(q.text, text) for _, q, text in golden])
    found["premises_golden"] = premise_figures(golden, by_rule, {}, resamples, seed)
    ranking = overlap_ranking(own, resamples=resamples, seed=seed)
    if ranking is not None:
        found["overlap_ranking"] = ranking
    if judge is not None:
        found["judged"] = judged_figures(judge, own, resamples=resamples, seed=seed)
    return found


def _golden(cast: Sequence[Person]) -> dict[str, int]:
    """How many test questions of each kind."""
    kinds: dict[str, int] = {}
    for person in cast:
        for question in person.questions:
            kinds[question.kind] = kinds.get(question.kind, 0) + 1
    return kinds


def _text(answers: Mapping[Key, str]) -> dict[str, float]:
    """Share of answers with the response's marker, share that never came to a response, and mean words of the others."""
    responses = [response_of(text) for text in answers.values()]
    lengths = [count_words(text) for text in responses if text]
    return {
        "marked": float(np.mean([RESPONSE in text for text in answers.values()])),
        "empty": float(np.mean([not text for text in responses])),
        "words": float(np.mean(lengths)) if lengths else 0.0,
    }


def _people(system: BareSystem, cast: Sequence[Person]) -> list[Respondent]:
    """Everybody at every stage, as the system makes them speak; what depends on a question is looked up for none."""
    return [
        Respondent(f"{p.name}, {stage}", system.row(p, stage), system.system_text(p, stage, p.name))
        for p in cast
        for stage in p.stages
    ]


def _questionnaire(
    system: BareSystem, cast: Sequence[Person], settings: EvaluationSettings, directory: Path, report: Progress
) -> dict[str, Any]:
    inventory = bundled_inventory()
    people = _people(system, cast)
    session = administer(
        system.model,
        system.tokenizer,
        inventory,
        people,
        make_forms(inventory, settings.forms, seed=settings.seed),
        AdministrationSettings(batch_size=settings.sampling.batch_size),
        checkpoint=directory / f"questionnaire_{_name(system, people)}.jsonl",
        progress=count_of(report, f"questionnaire, {system.name}"),
    )
    return analyse(session, resamples=min(200, settings.resamples), seed=settings.seed)


def _drift(
    system: BareSystem,
    cast: Sequence[Person],
    settings: EvaluationSettings,
    trait_judge: JudgeMaker,
    directory: Path,
    report: Progress,
) -> dict[str, Any]:
    people = _people(system, cast)
    judge = trait_judge(system.model.base, system.tokenizer)
    found = measure_drift(
        system.model,
        system.tokenizer,
        judge,
        people,
        turns=USER_TURNS[: settings.drift],
        max_new_tokens=min(64, settings.sampling.max_new_tokens),
        directory=directory / f"drift_{_name(system, people)}",
        progress=lambda what, done, total: report(f"long chat, {what}, {system.name}", done, total),
        resamples=settings.resamples,
        seed=settings.seed,
    )
    means = np.nanmean(found.scores, axis=1) if np.isfinite(found.scores).any() else found.scores[:, 0]
    profile = {
        label: {t.value: float(row[t.position]) for t in Trait if np.isfinite(row[t.position])}
        for label, row in zip(found.labels, means, strict=True)
    }
    return found.to_dict() | {"profile": profile, "judge": judge.describe()}


def _name(system: BareSystem, people: Sequence[Respondent]) -> str:
    """A file's name that changes with what the system and its people are."""
    return digest([system.about(), [person.to_dict() for person in people]], 12)


def _examples(cast: Sequence[Person], said: Mapping[str, dict[Key, str]]) -> list[dict[str, Any]]:
    """For each person and stage one question of each kind, with all systems' responses."""
    found = []
    for person in cast:
        seen = set()
        for question in person.questions:
            if (question.stage, question.kind) in seen:
                continue
            seen.add((question.stage, question.kind))
            key = (person.name, question.stage, f"{person.name}: {question.id}", 0)
            found.append(
                {
                    "person": person.name,
                    "stage": question.stage,
                    "kind": question.kind,
                    "question": question.text,
                    "reference": question.reference,
                    "answers": {name: response_of(answers[key]) for name, answers in said.items()},
                }
            )
    return found


__all__ = ["DistinctionTable", "EvaluationSettings", "check_settings", "evaluate", "figures"]
