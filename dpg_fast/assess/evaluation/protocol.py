"""The evaluation protocol: every method answers the test questions at every level; every answer is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg_fast.assess.evaluation.methods import BareModel, Method
from dpg_fast.assess.journal import Journal, Row, is_scored
from dpg_fast.assess.scoring import Scorer
from dpg_fast.personality import MAX_SCORE, MIN_SCORE, Personality, Trait

ANSWERS, SCORES = "answers", "scores"
KEY = ("trait", "level", "question")
Progress = Callable[[str, int, int], None]


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
            raise ValueError("an evaluation needs at least one trait, and questions for each")
        levels = tuple(sorted(set(map(float, self.levels))))
        if not levels or not (MIN_SCORE <= levels[0] < 0 < levels[-1] <= MAX_SCORE):
            raise ValueError(f"levels lie in -5..5 and reach to both sides of 0, got {list(self.levels)}")
        object.__setattr__(self, "levels", levels)

    @property
    def traits(self) -> list[Trait]:
        """Of the plan, in OCEAN order."""
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
        raise ValueError(f"methods have different names and the bare model comes first, got {names}")
    report = progress or (lambda what, done, total: None)
    rows: dict[str, dict[tuple[Any, ...], Row]] = {}
    for method in methods:
        stem = method.name.replace(" ", "_").replace("+", "and")
        about = {**settings, "method": method.name, **method.about()}
        answers = Journal(directory / ANSWERS / f"{stem}.jsonl", about, KEY)
        scores = Journal(directory / SCORES / f"{stem}.jsonl", {**about, **scorer.about()}, (*KEY, "judged"))
        keys = list(_keys(method, plan))
        _answer(method, answers, keys, batch_size, report)
        _score(method.name, scorer, answers, scores, keys, plan, report)
        own = {key: {**answers[key], **_merged(scores, key)} for key in keys}
        if method.neutral_is_bare and method.name != BareModel.name:
            bare = rows[BareModel.name]
            own |= {key: bare[key] for key in bare if 0.0 in plan.levels}
        rows[method.name] = own
    bare = rows[BareModel.name]
    rows[BareModel.name] = {
        (trait, level, question): row for (trait, _, question), row in bare.items() for level in plan.levels
    }
    return Results(plan, rows, {method.name: method.describe() for method in methods})


def _keys(method: Method, plan: TraitPlan) -> Iterable[tuple[str, float, str]]:
    """What the method itself has to answer; a neutral personality that is the bare model is answered once, by that."""
    for trait in plan.traits:
        levels: Sequence[float] = [level for level in plan.levels if level or not method.neutral_is_bare]
        for level in [0.0] if method.name == BareModel.name else levels:
            for question in plan.questions[trait]:
                yield trait.value, float(level), question


def _answer(
    method: Method, answers: Journal, keys: Sequence[tuple[str, float, str]], batch_size: int, report: Progress
) -> None:
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


def _score(
    name: str,
    scorer: Scorer,
    answers: Journal,
    scores: Journal,
    keys: Sequence[tuple[str, float, str]],
    plan: TraitPlan,
    report: Progress,
) -> None:
    """Rows are kept by which traits were judged, so that a wider plan judges only what is new."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[str, float, str]]] = {}
    total, open_ = 0, 0
    for key in keys:
        trait, level, question = key
        wide = plan.cross and (name == BareModel.name or level in plan.ends)
        wanted = [t.value for t in plan.traits] if wide else [trait]
        missing = tuple(judged for judged in wanted if not is_scored(scores, (*key, judged)))
        total, open_ = total + len(wanted), open_ + len(missing)
        if missing:
            groups.setdefault((question, missing), []).append(key)
    what = f"{name}: scores"
    report(what, total - open_, total)
    for (question, missing), group in groups.items():
        texts = [answers[key]["answer"] for key in group]
        found = scorer.score(question, texts, [Trait.parse(judged) for judged in missing])
        scores.append(
            {**dict(zip(KEY, key, strict=True)), **row, "judged": judged, "scores": _only(row["scores"], judged)}
            for key, row in zip(group, found, strict=True)
            for judged in missing
        )
        open_ -= len(group) * len(missing)
        report(what, total - open_, total)


def _only(scores: Mapping[str, float], judged: str) -> dict[str, float]:
    return {judged: scores[judged]} if judged in scores else {}


def _merged(scores: Journal, key: tuple[str, float, str]) -> Row:
    """The scores of one answer on every trait that it was judged on."""
    found = [scores[(*key, trait.value)] for trait in Trait if (*key, trait.value) in scores]
    reasons = [row["reason"] for row in found if row["reason"]]
    merged = {name: value for name, value in found[0].items() if name != "judged"}
    return merged | {
        "scores": {name: value for row in found for name, value in row["scores"].items()},
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
    }
