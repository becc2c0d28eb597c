"""Whole personalities: somebody with five scores is asked something, and the answer is judged.

DPG's tasks: new personalities, whose levels are -5, -2, 2 and 5 in combinations that training never sees, and scripted dialogue,
where somebody's scores are known and the last turn is
generated. How DPG scored these is not public; the figures are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.evaluation.dpg.newness import Newness, Trained
from dpg_fast.evaluation.methods import BareModel, Method
from dpg_fast.evaluation.protocol import method_respondent
from dpg_fast.judges.runner import Task, run_respondents
from dpg_fast.judges.scoring import Scorer
from dpg_fast.judges.validation.metrics import PromptedAssessed, compare_prompted
from dpg_fast.personality.scores import Personality, Trait
from dpg_fast.text.fluency import Likelihood, perplexity
from dpg_fast.text.records import DialogueRecord
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.stats import Interval, bootstrap, bootstrap_all, mean_of, spearman
from dpg_fast.util.store import Key, Row

NEW_LEVELS = (-5.0, -2.0, 2.0, 5.0)
KEY = ("person", "question")
_ROUNDS = 50
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Somebody is asked something.

    Attributes:
        personality: asked for.
        question: the user's turn.
        traits: that the answer is judged on.
        character: whose scores these are, if anybody's.
    """

    personality: Personality
    question: str
    traits: tuple[Trait, ...]
    character: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Tells cases apart."""
        return ",".join(f"{score:g}" for score in self.personality.scores), self.question


def newcomers(
    count: int,
    questions: Mapping[Trait, Sequence[str]],
    seed: int = 0,
    *,
    trained: Trained | None = None,
    new_as: Newness = Newness.PERSON,
) -> list[Case]:
    """``count`` new personalities, each asked one question of each trait, judged on that trait.

    Levels of each trait are balanced and combined at random; the questions go round.

    Args:
        count: of people.
        questions: of each trait.
        seed: of the combinations.
        trained: people who are not new to these are replaced, as often as it takes (which the balance of levels may suffer from).
        new_as: how new they have to be.

    Raises:
        ValueError: nobody, no questions, or too few combinations that are new.
    """
    if count < 1 or not questions or not all(questions.values()):
        raise DPGError("new personalities need at least one person and a question of each trait")
    random = np.random.default_rng(seed)
    people: list[Personality] = []
    for _ in range(_ROUNDS):
        balanced = np.resize(NEW_LEVELS, count)
        columns = [random.permutation(balanced) for _ in Trait]
        for row in range(count):
            person = Personality([float(column[row]) for column in columns])
            if trained is None or (trained.is_new(person, new_as) and person not in people):
                people.append(person)
        if len(people) >= count:
            break
    else:
        raise DPGError(
            f"only {len(people)} of {count} people could be found who are new in their {new_as}; "
            "ask for fewer, or for another kind of newness"
        )
    return [
        Case(person, asked[row % len(asked)], (trait,))
        for row, person in enumerate(people[:count])
        for trait, asked in questions.items()
    ]


def scripted(records: Iterable[DialogueRecord]) -> list[Case]:
    """The last turn of each dialogue that answers a user, with the scores of who says it; judged on all traits.

    Raises:
        ValueError: no dialogue has scores and such a turn.
    """
    cases = []
    for record in records:
        person = record.get_personality()
        pairs = [(a, b) for a, b in zip(record.messages, record.messages[1:], strict=False)]
        asked = [a.content for a, b in pairs if a.role == "user" and b.role == "assistant"]
        if person is not None and asked:
            cases.append(Case(person, asked[-1], tuple(Trait), record.character))
    if not cases:
        raise DPGError("no record has a personality and an assistant's turn after a user's")
    return list({case.key: case for case in cases}.values())


@dataclass(frozen=True)
class JudgedCases:
    """What one method answered, judged.

    Attributes:
        answers: one for each case.
        scores: float64 [cases, 5], judged scores in OCEAN order; nan where a trait was not judged.
        log_likelihoods, tokens: float64 [cases], of the answers under the bare model.
        repetitions: float64 [cases], share of repeated word 4-grams.
    """

    answers: list[str]
    scores: Scores
    log_likelihoods: Scores
    tokens: Scores
    repetitions: Scores

    @property
    def perplexity(self) -> float:
        """Perplexity of all answers under the bare model."""
        return perplexity([Likelihood(*pair) for pair in zip(self.log_likelihoods, self.tokens, strict=True)])

    @property
    def repetition(self) -> float:
        """Mean share of repeated word 4-grams."""
        return float(self.repetitions.mean())

    @property
    def empty(self) -> float:
        """Share of empty answers."""
        return sum(not answer.strip() for answer in self.answers) / len(self.answers)


def run_cases(
    methods: Sequence[Method],
    scorer: Scorer,
    cases: Sequence[Case],
    directory: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> dict[str, JudgedCases]:
    """Answer and judge what ``directory`` does not hold yet; may be killed at any time. Method name -> what came of it."""
    respondents = []
    for method in methods:
        bare = type(method) is BareModel  # says the same to everybody who asks the same
        tasks = [Task(c.key, c.question, c.personality, c.traits, c.question if bare else None) for c in cases]
        respondents.append(method_respondent(method, tasks, directory, settings))
    found = run_respondents(respondents, scorer, KEY, batch_size=batch_size, progress=progress)
    return {method.name: _judged(rows, cases) for method, rows in zip(methods, found, strict=True)}


def _judged(rows: Mapping[Key, Row], cases: Sequence[Case]) -> JudgedCases:
    scores = np.full((len(cases), len(Trait)), np.nan)
    for number, case in enumerate(cases):
        for trait in case.traits:
            scores[number, trait.position] = rows[case.key]["scores"].get(trait.value, np.nan)
    own = [rows[case.key] for case in cases]
    return JudgedCases(
        [row["answer"] for row in own],
        scores,
        *(np.array([row[name] for row in own], float) for name in ("log_likelihood", "tokens", "repetition")),
    )


@dataclass(frozen=True)
class CaseFigures:
    """How judged scores follow those asked for, by one method.

    Attributes:
        spearman: of each trait over answers, people resampled.
        mean: their mean over traits, people resampled.
        compared: DPG's comparison of prompted and assessed scores, answer by answer.
    """

    spearman: dict[Trait, Interval]
    mean: Interval
    compared: PromptedAssessed


def case_figures(cases: Sequence[Case], judged: Scores, *, resamples: int = 1000, seed: int = 0) -> CaseFigures:
    """The figures of one method's scores [cases, 5]."""
    asked = np.array([case.personality.scores for case in cases])

    def statistics(rows: Any) -> list[float]:
        own = [spearman(*columns) for columns in zip(asked[rows].T, judged[rows].T, strict=True)]
        return [*own, mean_of(own)]

    *traits, mean = bootstrap_all(statistics, _people(cases), resamples=resamples, seed=seed)
    return CaseFigures(dict(zip(Trait, traits, strict=True)), mean, compare_prompted(asked, judged))


def compare_methods(
    cases: Sequence[Case], first: Scores, second: Scores, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean Spearman of the first method's scores minus that of the second's, with the same people drawn for both."""
    asked = np.array([case.personality.scores for case in cases])

    def mean(judged: Scores, rows: Any) -> float:
        return mean_of(spearman(*columns) for columns in zip(asked[rows].T, judged[rows].T, strict=True))

    return bootstrap(
        lambda rows: mean(first, rows) - mean(second, rows), _people(cases), resamples=resamples, seed=seed
    )


def _people(cases: Sequence[Case]) -> list[str]:
    """Units of the bootstrap: answers of one person belong together."""
    return [case.key[0] for case in cases]
