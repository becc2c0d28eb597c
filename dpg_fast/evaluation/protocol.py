"""The evaluation protocol: every method answers the test questions at every level; every answer is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.methods import BareModel, Method
from dpg_fast.judges.journal import Journal, Row, is_scored
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Personality, Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress

ANSWERS, SCORES, FLUENCY = "answers", "scores", "fluency"
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

    Raises:
        ValueError: the first method is not the bare model, two have one name, or ``directory`` holds another evaluation.
    """
    names = [method.name for method in methods]
    if not methods or type(methods[0]) is not BareModel or len(set(names)) != len(names):
        raise DPGError(f"methods have different names and the bare model comes first, got {names}")
    report = progress or (lambda what, done, total: None)
    kept = []
    for method in methods:
        about = {**settings, "method": method.name, **method.about()}
        answers = Journal(directory / ANSWERS / method_file(method), about, KEY)
        scores = Journal(directory / SCORES / method_file(method), {**about, **scorer.about()}, (*KEY, "measure"))
        kept.append(_Kept(method, answers, scores, list(_keys(method, plan))))
    for one in kept:
        _answer(one, batch_size, report)
    _score(kept, scorer, plan, report)
    bare = {key: {**kept[0].answers[key], **_merged(kept[0].scores, key)} for key in kept[0].keys}
    rows = {BareModel.name: {(t, level, q): row for (t, _, q), row in bare.items() for level in plan.levels}}
    for one in kept[1:]:
        own = {key: {**one.answers[key], **_merged(one.scores, key)} for key in one.keys}
        neutral = bare if one.method.neutral_is_bare and 0.0 in plan.levels else {}
        rows[one.method.name] = {**neutral, **own}
    return Results(plan, rows, {method.name: method.describe() for method in methods})


def method_file(method: Method) -> str:
    """Name of a method's journals."""
    return method.name.replace(" ", "_").replace("+", "and") + ".jsonl"


@dataclass(frozen=True)
class _Kept:
    """A method's part of the evaluation: what it has to answer, and what is kept on disk."""

    method: Method
    answers: Journal
    scores: Journal
    keys: list[tuple[str, float, str]]


def _keys(method: Method, plan: TraitPlan) -> Iterable[tuple[str, float, str]]:
    """What the method itself has to answer; a neutral personality that is the bare model is answered once, by that."""
    for trait in plan.traits:
        levels: Sequence[float] = [level for level in plan.levels if level or not method.neutral_is_bare]
        for level in [0.0] if method.name == BareModel.name else levels:
            for question in plan.questions[trait]:
                yield trait.value, float(level), question


def _answer(one: _Kept, batch_size: int, report: Progress) -> None:
    method, answers, keys = one.method, one.answers, one.keys
    missing = sorted((key for key in keys if key not in answers), key=lambda key: (-len(key[2]), key[2]))
    what = f"{method.name}: answers"
    report(what, len(keys) - len(missing), len(keys))
    if not missing:
        return
    method.prepare()
    try:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            people = [Personality({trait: level}) if level else _neutral(method) for trait, level, _ in batch]
            texts = method.answer([question for _, _, question in batch], people)
            answers.append(
                {**dict(zip(KEY, key, strict=True)), "answer": text} for key, text in zip(batch, texts, strict=True)
            )
            report(what, len(keys) - len(missing) + start + len(batch), len(keys))
    finally:
        method.close()


def _neutral(method: Method) -> Personality | None:
    return None if method.neutral_is_bare else Personality()


def _score(kept: Sequence[_Kept], scorer: Scorer, plan: TraitPlan, report: Progress) -> None:
    """Score what is missing. All answers to a question are scored on a trait at once: judges share work between them."""
    groups: dict[tuple[str, str], list[tuple[_Kept, tuple[str, float, str]]]] = {}
    total, open_ = 0, 0
    for one in kept:
        for key in one.keys:
            trait, level, question = key
            wide = plan.cross and (one.method.name == BareModel.name or level in plan.ends)
            measures = [FLUENCY, *([t.value for t in plan.traits] if wide else [trait])]
            missing = [measure for measure in measures if not _is_there(one.scores, (*key, measure))]
            total, open_ = total + len(measures), open_ + len(missing)
            for measure in missing:
                groups.setdefault((question, measure), []).append((one, key))
    report(SCORES, total - open_, total)
    for (question, measure), group in groups.items():
        texts = [one.answers[key]["answer"] for one, key in group]
        if measure == FLUENCY:
            found = scorer.fluency(question, texts)
        else:
            found = scorer.judge_traits(question, texts, [Trait.parse(measure)])
        for one in kept:
            mine = [(key, row) for (owner, key), row in zip(group, found, strict=True) if owner is one]
            if mine:
                one.scores.append({**dict(zip(KEY, key, strict=True)), "measure": measure, **row} for key, row in mine)
        open_ -= len(group)
        report(SCORES, total - open_, total)


def _is_there(scores: Journal, key: tuple[Any, ...]) -> bool:
    return key in scores if key[-1] == FLUENCY else is_scored(scores, key)


def _merged(scores: Journal, key: tuple[str, float, str]) -> Row:
    """Fluency of one answer, and its scores on every trait that it was judged on."""
    judged = [scores[(*key, trait.value)] for trait in Trait if (*key, trait.value) in scores]
    reasons = [row["reason"] for row in judged if row["reason"]]
    ratings = [row["rated_fluency"] for row in judged if row["rated_fluency"] is not None]
    fluent = {name: value for name, value in scores[(*key, FLUENCY)].items() if name != "measure"}
    return fluent | {
        "scores": {name: value for row in judged for name, value in row["scores"].items()},
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
        "rated_fluency": ratings[0] if ratings else None,
    }
