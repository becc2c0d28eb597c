"""The evaluation protocol: every method answers the test questions at every level; every answer is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.methods import BareModel, Method
from dpg_fast.judges.runner import Answerer, Task, run_respondents
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Personality, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Row

ANSWERS, SCORES = "answers", "scores"
KEY = ("trait", "level", "question")


@dataclass(frozen=True)
class TraitPlan:
    """What is asked of every method.

    Args:
        questions: of each trait. Not those that neurons were searched, a judge or a calibration was fitted with.
        levels: asked for, between -5 and 5, both signs among them.
        cross: judge the answers at the two ends on all traits of the plan, not on their own alone.

    Raises:
        ValueError: nothing to ask, or levels that do not span both signs.
    """

    questions: Mapping[Trait, Sequence[str]]
    levels: Sequence[float] = tuple(range(-5, 6))
    cross: bool = True

    def __post_init__(self) -> None:
        if not self.questions or not all(self.questions.values()):
            raise DPGError("an evaluation needs at least one trait, and questions for each")
        levels = tuple(sorted(set(map(float, self.levels))))
        if not levels or not (MIN_SCORE <= levels[0] < 0 < levels[-1] <= MAX_SCORE):
            raise DPGError(f"levels lie in -5..5 and reach to both sides of 0, got {list(self.levels)}")
        object.__setattr__(self, "levels", levels)

    @property
    def traits(self) -> list[Trait]:
        """The plan's traits, in OCEAN order."""
        return [trait for trait in Trait if trait in self.questions]

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest level."""
        return self.levels[0], self.levels[-1]


class Results:
    """Scored answers of an evaluation.

    Args:
        plan: what was asked.
        rows: method name -> (trait name, level, question) -> answer and scores.
        descriptions: method name -> what it is.
    """

    def __init__(
        self, plan: TraitPlan, rows: Mapping[str, Mapping[tuple[Any, ...], Row]], descriptions: Mapping[str, str]
    ) -> None:
        self.plan = plan
        self.rows = rows
        self.descriptions = dict(descriptions)

    def cell(self, method: str, trait: Trait, level: float) -> list[Row]:
        """The scored answers of a method to a trait's questions at a level, in the order of the questions."""
        rows = self.rows[method]
        return [rows[(trait.value, float(level), question)] for question in self.plan.questions[trait]]


def run_evaluation(
    methods: Sequence[Method],
    scorer: Scorer,
    plan: TraitPlan,
    directory: Path,
    settings: Mapping[str, Any],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
    scores: str = SCORES,
) -> Results:
    """Answer and score what ``directory`` does not hold yet. May be killed at any time and called again.

    More questions, levels, traits or methods extend a finished evaluation; other settings need another directory.

    Args:
        methods: measured one after the other; the bare model first.
        scorer: of the answers.
        plan: what is asked.
        directory: keeps raw answers and scores, two JSON Lines files for each method.
        settings: what all answers depend on (base model, generation).
        batch_size: answers generated side by side.
        progress: gets what is done, how much of it, and of how much.
        scores: folder of the scores in ``directory``: each witness has one of its own beside the same answers.

    Raises:
        ValueError: the first method is not the bare model, two have one name, or ``directory`` holds another evaluation.
    """
    names = [method.name for method in methods]
    if not methods or type(methods[0]) is not BareModel or len(set(names)) != len(names):
        raise DPGError(f"methods have different names and the bare model comes first, got {names}")
    respondents = [
        method_respondent(
            method, [_task(method, key, plan) for key in _keys(method, plan)], directory, settings, scores
        )
        for method in methods
    ]
    bare, *others = run_respondents(respondents, scorer, KEY, batch_size=batch_size, progress=progress)
    rows = {BareModel.name: {(t, level, q): row for (t, _, q), row in bare.items() for level in plan.levels}}
    for method, own in zip(methods[1:], others, strict=True):
        neutral = bare if method.neutral_is_bare and 0.0 in plan.levels else {}
        rows[method.name] = {**neutral, **own}
    return Results(plan, rows, {method.name: method.describe() for method in methods})


def method_respondent(
    method: Method, tasks: Sequence[Task], directory: Path, settings: Mapping[str, Any], scores: str = SCORES
) -> Answerer:
    """A method with what it is asked, and its files in an evaluation's directory."""
    return Answerer(
        method.name,
        tasks,
        method.answer,
        {**settings, "method": method.name, **method.about()},
        directory / ANSWERS / method_file(method),
        directory / scores / method_file(method),
        method.prepare,
        method.close,
    )


def method_file(method: Method) -> str:
    """Name of a method's stored answers."""
    return method.name.replace(" ", "_").replace("+", "and") + ".jsonl"


def _keys(method: Method, plan: TraitPlan) -> Iterable[tuple[Trait, float, str]]:
    """What the method itself has to answer; a neutral personality that is the bare model is answered once, by that."""
    for trait in plan.traits:
        levels: Sequence[float] = [level for level in plan.levels if level or not method.neutral_is_bare]
        for level in [0.0] if method.name == BareModel.name else levels:
            for question in plan.questions[trait]:
                yield trait, float(level), question


def _task(method: Method, key: tuple[Trait, float, str], plan: TraitPlan) -> Task:
    trait, level, question = key
    neutral = None if method.neutral_is_bare else Personality()
    wide = plan.cross and (method.name == BareModel.name or level in plan.ends)
    return Task(
        (trait.value, level, question),
        question,
        Personality({trait: level}) if level else neutral,
        tuple(plan.traits) if wide else (trait,),
    )
