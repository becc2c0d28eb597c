"""Answers are given, stored, judged question by question, and stored again; a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dpg_fast.judges.base import Judge
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import Trait
from dpg_fast.util.progress import Progress, silent
from dpg_fast.util.store import Key, Row, Store

FLUENCY, MEASURE = "fluency", "measure"
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One answer that is wanted.

    Attributes:
        key: tells it from the respondent's other answers; JSON types.
        question: what is asked.
        who: as whom; goes to the respondent's ``answer``.
        traits: that the answer is judged on.
        alike: tasks with the same value get one answer; None: the key.
    """

    key: Key
    question: str
    who: Any
    traits: tuple[Trait, ...]
    alike: Hashable = None


@dataclass(frozen=True)
class Answerer:
    """Somebody who answers, and where the answers are kept.

    Attributes:
        name: for progress; may be empty where there is only one.
        tasks: wanted of it.
        answer: one batch: questions and for each as whom.
        about: what the answers depend on, JSON-ready.
        answers, scores: files of the store.
        prepare, close: called before the first answer and after the last, if any is missing.
    """

    name: str
    tasks: Sequence[Task]
    answer: Callable[[Sequence[str], Sequence[Any]], Sequence[str]]
    about: Mapping[str, Any]
    answers: Path
    scores: Path
    prepare: Callable[[], object] = lambda: None
    close: Callable[[], object] = lambda: None


def run_respondents(
    respondents: Sequence[Answerer],
    scorer: Scorer,
    key: Sequence[str],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[dict[Key, Row]]:
    """Answer and score what the files do not hold yet. May be killed at any time and called again.

    Args:
        respondents: asked one after the other. All answers to a question are judged at once, for judges share work between them.
        scorer: of the answers.
        key: names of the fields of the tasks' keys.
        batch_size: answers generated side by side.
        progress: gets what is done, how much of it, and of how much.

    Returns:
        For each respondent, key -> the answer with "scores" (trait -> -5..5), "reason" and "rated_fluency", and with its
        fluency where the scorer has a model.

    Raises:
        ValueError: a file holds another run; found before anything is answered.
    """
    report = progress or silent
    with ExitStack() as stack:
        stores = [
            (
                stack.enter_context(Store(one.answers, one.about, key)),
                stack.enter_context(Store(one.scores, {**one.about, **scorer.about()}, (*key, MEASURE))),
            )
            for one in respondents
        ]
        for one, (answers, _) in zip(respondents, stores, strict=True):
            _answer(one, answers, key, batch_size, report)
        _score(respondents, stores, scorer, key, report)
        return [
            {task.key: {**answers[task.key], **_merged(scores, task.key)} for task in one.tasks}
            for one, (answers, scores) in zip(respondents, stores, strict=True)
        ]


def fill(
    store: Store,
    items: Sequence[T],
    key: Callable[[T], Key],
    work: Callable[[Sequence[T]], Iterable[Row]],
    what: str,
    progress: Progress | None = None,
    *,
    batch_size: int = 1,
    whole: bool = False,
    done: Callable[[Key], bool] | None = None,
) -> None:
    """Do what the store lacks, a batch at a time.

    Args:
        items: all that is wanted, in the order of the work.
        key: of an item's record.
        work: gives records of a batch.
        what: for progress.
        whole: cut batches from all items and repeat each that lacks one, so that a continued run has the batches of an
            uninterrupted one: random draws and padding depend on them.
        done: whether the record of a key is there and final; default: that it is there.
    """
    report, done = progress or silent, done or store.__contains__
    missing = [item for item in items if not done(key(item))]
    finished = 0 if whole else len(items) - len(missing)
    todo = items if whole else missing
    report(what, finished, len(items))
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        if not whole or not all(done(key(item)) for item in batch):
            store.append(work(batch))
        finished += len(batch)
        report(what, finished, len(items))


def is_scored(scores: Store, key: Key) -> bool:
    """Whether a row of scores is there and final: a score, or nothing to judge. Failed calls are made again."""
    return key in scores and (bool(scores[key]["scores"]) or scores[key]["empty"])


def read_pairs(
    judge: Judge, pairs: Sequence[tuple[str, str]], traits: Sequence[Trait] | None, silence: str = ""
) -> tuple[list[dict[str, float]], bool]:
    """Trait name -> score of each (question, answer), and whether that is final: nothing failed but where nothing was said.

    Args:
        silence: an answer that says nothing, besides the empty one.
    """
    verdicts = judge.judge_all(pairs, traits=traits)
    rows = [{trait.value: float(value) for trait, value in verdict.scores.items()} for verdict in verdicts]
    return rows, all(row or said.strip() in ("", silence) for row, (_, said) in zip(rows, pairs, strict=True))


def _answer(one: Answerer, answers: Store, key: Sequence[str], batch_size: int, report: Progress) -> None:
    wanted = {task.key: task for task in one.tasks}
    groups: dict[Hashable, list[Task]] = {}
    for task in wanted.values():
        if task.key not in answers:
            groups.setdefault(task.key if task.alike is None else task.alike, []).append(task)
    # Answers to one question share a batch, so that there is little padding; the longest come first, so memory peaks early.
    todo = sorted(groups.values(), key=lambda group: (-len(group[0].question), group[0].question))
    what = f"{one.name}: answers" if one.name else "answers"
    finished = len(wanted) - sum(map(len, todo))
    report(what, finished, len(wanted))
    if not todo:
        return
    one.prepare()
    try:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            texts = one.answer([group[0].question for group in batch], [group[0].who for group in batch])
            rows = [
                {**dict(zip(key, task.key, strict=True)), "answer": text}
                for group, text in zip(batch, texts, strict=True)
                for task in group
            ]
            answers.append(rows)
            finished += len(rows)
            report(what, finished, len(wanted))
    finally:
        one.close()


def _score(
    respondents: Sequence[Answerer],
    stores: Sequence[tuple[Store, Store]],
    scorer: Scorer,
    key: Sequence[str],
    report: Progress,
) -> None:
    """Score what is missing: all answers to a question on one measure at once."""
    wanted: dict[tuple[int, Key, str], str] = {}
    fluency = () if scorer.model is None else (FLUENCY,)
    for place, one in enumerate(respondents):
        for task in one.tasks:
            for measure in (*fluency, *(trait.value for trait in task.traits)):
                wanted[place, task.key, measure] = task.question
    groups: dict[tuple[str, str], list[tuple[int, Key]]] = {}
    for (place, of, measure), question in wanted.items():
        scores, there = stores[place][1], (*of, measure)
        if not (there in scores if measure == FLUENCY else is_scored(scores, there)):
            groups.setdefault((question, measure), []).append((place, of))
    finished = len(wanted) - sum(map(len, groups.values()))
    report("scores", finished, len(wanted))
    for (question, measure), group in groups.items():
        texts = [stores[place][0][of]["answer"] for place, of in group]
        distinct = list(dict.fromkeys(texts))  # a bare model says the same to everybody
        if measure == FLUENCY:
            rows = scorer.fluency(question, distinct)
        else:
            rows = scorer.judge_traits(question, distinct, [Trait.parse(measure)])
        found = dict(zip(distinct, rows, strict=True))
        for place, (_, scores) in enumerate(stores):
            scores.append(
                {**dict(zip(key, of, strict=True)), MEASURE: measure, **found[text]}
                for (owner, of), text in zip(group, texts, strict=True)
                if owner == place
            )
        finished += len(group)
        report("scores", finished, len(wanted))


def _merged(scores: Store, key: Key) -> Row:
    """Fluency of one answer, and its scores on every trait that it was judged on."""
    judged = [scores[(*key, trait.value)] for trait in Trait if (*key, trait.value) in scores]
    reasons = [row["reason"] for row in judged if row["reason"]]
    ratings = [row["rated_fluency"] for row in judged if row["rated_fluency"] is not None]
    found = scores.rows.get((*key, FLUENCY), {})
    fluent = {name: value for name, value in found.items() if name != MEASURE}
    return fluent | {
        "scores": {name: value for row in judged for name, value in row["scores"].items()},
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "rated_fluency": ratings[0] if ratings else None,
    }
