"""Lessons: questions answered by the teacher as several people, made once and kept in one file for each question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dpg_fast.model.disk.artifact import BaseEntry, describe_base
from dpg_fast.model.disk.fingerprint import mismatch
from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality, Pole, Trait
from dpg_fast.text.answers import NEUTRAL_SYSTEM
from dpg_fast.text.assets import Question, load_descriptions, load_questions
from dpg_fast.train.teacher import PersonaTeacher, TaughtAnswer, TeacherSettings
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_tensors
from dpg_fast.util.identity import differences, plain, refuse
from dpg_fast.util.progress import Count
from dpg_fast.util.reading import checked, open_tensors, parse_json, take

SPLITS = ("search", "fit")  # never "holdout" or "validation": those are for measuring


@dataclass(frozen=True)
class LessonSettings:
    """What is asked, and of whom.

    Args:
        questions: of each trait, from the splits "search" and "fit" in turn; 0 is all of them.
        people: of each question; how many traits take part follows a fixed pattern (see :func:`draw_people`).
        system: the neutral instruction; recorded dialogue without one of its own gets it too.
        seed: of the personalities, the descriptions and the samples.
        teacher: how the answers are made.
    """

    questions: int = 0
    people: int = 8
    system: str = NEUTRAL_SYSTEM
    seed: int = 0
    teacher: TeacherSettings = field(default_factory=TeacherSettings)

    def __post_init__(self) -> None:
        if self.people < 1 or self.questions < 0:
            raise DPGError(f"people is at least 1 and questions at least 0, got {self.people} and {self.questions}")

    def about(self) -> dict[str, Any]:
        """What a lesson depends on, apart from the model and the number of questions."""
        return {name: value for name, value in asdict(self).items() if name != "questions"}


@dataclass(frozen=True)
class Lesson:
    """One question and the answers to it.

    Attributes:
        question, system: what was asked.
        levels: of each answer, five scores in OCEAN order.
        answers: see :class:`TaughtAnswer`.
    """

    question: str
    system: str
    levels: tuple[tuple[float, ...], ...]
    answers: tuple[TaughtAnswer, ...]


def draw_people(trait: Trait, count: int, random: np.random.Generator) -> list[tuple[Personality, tuple[Trait, ...]]]:
    """People to answer a question about ``trait``: scores, and the traits that take part.

    In turn: high pole, low pole, any level, two with another trait, two with two others, another trait alone; every tenth
    on average takes all five. Levels are uniform on -5..5 (of a pole: 2.5 to 5 from 0).
    """
    others = [t for t in Trait if t is not trait]
    people = []
    for number in range(count):
        shape = number % 8
        more = {3: 1, 4: 1, 5: 2, 6: 2}.get(shape, 0)
        chosen = {trait, *(others[i] for i in random.permutation(4)[:more])}
        if shape == 7:
            chosen = {others[random.integers(4)]}
        if shape > 2 and random.random() < 0.16:
            chosen = set(Trait)
        traits = tuple(t for t in Trait if t in chosen)
        scores = {t.value: float(random.uniform(-MAX_SCORE, MAX_SCORE)) for t in traits}
        if shape < 2:
            scores[trait.value] = float(random.uniform(2.5, MAX_SCORE)) * (1 if shape == 0 else -1)
        people.append((Personality({name: round(score, 2) for name, score in scores.items()}), traits))
    return people


def asked_questions(count: int = 0) -> list[Question]:
    """``count`` questions of each trait (0: all), the traits in turn."""
    by_trait = [[q for split in SPLITS for q in load_questions(trait, split)] for trait in Trait]  # type: ignore[arg-type]
    most = min(map(len, by_trait))
    if count > most:
        raise DPGError(f"there are {most} questions of each trait to learn from, not {count}")
    return [row[i] for i in range(count or most) for row in by_trait]


def make_lessons(
    model: Any,
    tokenizer: Any,
    directory: Path,
    settings: LessonSettings,
    progress: Count | None = None,
) -> list[Path]:
    """Make the lessons that ``directory`` does not hold yet; their files, in order.

    Each is written whole, so a killed run continues where it was.

    Raises:
        ValueError: ``directory`` holds lessons made with other settings or by another base model.
    """
    questions = asked_questions(settings.questions)
    files = [Path(directory) / f"{question.id}.safetensors" for question in questions]
    teacher = PersonaTeacher(model, tokenizer, settings.teacher)
    about = json.dumps(settings.about(), sort_keys=True)
    base_model = json.dumps(describe_base(model))
    for number, (question, file) in enumerate(zip(questions, files, strict=True)):
        if file.exists():
            with open_tensors(file) as stored:
                metadata = checked(_About, stored.metadata() or {}, f"{file}: metadata")
            where = f"{file}: metadata"
            made = checked(dict[str, Any], parse_json(metadata["about"], where), where)
            refuse(file, differences(made, plain(settings.about())))
            maker = checked(BaseEntry | None, parse_json(metadata.get("base_model", "null"), where), where)
            if maker is not None and (reason := mismatch(maker["fingerprint"], model, maker["name"])) is not None:
                raise DPGError(f"{file}: {reason}; name another directory or remove it")
        else:
            random = np.random.default_rng([settings.seed, *question.id.encode()])
            people = draw_people(question.trait, settings.people, random)
            texts = {pole: load_descriptions(pole, "search") for pole in POLES}
            which = {trait: int(random.integers(len(texts[Pole(trait, True)]))) for trait in Trait}
            answers = teacher.answer(
                question.question,
                [person for person, _ in people],
                {pole: found[which[pole.trait]].text for pole, found in texts.items()},
                settings.system,
                torch.Generator().manual_seed(int(random.integers(2**31))),
                [traits for _, traits in people],
            )
            levels = tuple(tuple(person.scores) for person, _ in people)
            _save(Lesson(question.question, settings.system, levels, tuple(answers)), file, about, base_model)
        if progress is not None:
            progress(number + 1, len(questions))
    return files


def _save(lesson: Lesson, file: Path, about: str, base_model: str) -> None:
    tensors: dict[str, Tensor] = {"levels": torch.tensor(lesson.levels)}
    for number, answer in enumerate(lesson.answers):
        tensors[f"{number}.tokens"] = answer.tokens
        tensors[f"{number}.candidates"] = answer.candidates
        tensors[f"{number}.log_base"] = answer.log_base.half()
        tensors[f"{number}.log_ratio"] = answer.log_ratio.half()
        tensors[f"{number}.traits"] = torch.tensor([t.position for t in answer.traits], dtype=torch.int8)
    metadata = {"question": lesson.question, "system": lesson.system, "about": about, "base_model": base_model}
    write_tensors(file, tensors, metadata)


def load_lesson(file: Path) -> Lesson:
    """Read one lesson.

    Raises:
        ValueError: the file is not a lesson.
    """
    order = tuple(Trait)
    with open_tensors(file) as stored:
        metadata = checked(_About, stored.metadata() or {}, f"{file} is not a lesson: metadata")
        levels = checked(list[_Levels], take(stored, "levels", file, torch.float32).tolist(), f"{file}: levels")
        answers = tuple(
            TaughtAnswer(
                take(stored, f"{i}.tokens", file),
                take(stored, f"{i}.candidates", file),
                take(stored, f"{i}.log_base", file, torch.float32),
                take(stored, f"{i}.log_ratio", file, torch.float32),
                tuple(
                    order[p]
                    for p in checked(_Positions, take(stored, f"{i}.traits", file).tolist(), f"{file}: {i}.traits")
                ),
            )
            for i in range(len(levels))
        )
    return Lesson(metadata["question"], metadata["system"], tuple(map(tuple, levels)), answers)


_Levels = Annotated[list[Annotated[float, Field(ge=-MAX_SCORE, le=MAX_SCORE)]], Field(min_length=5, max_length=5)]
_Positions = list[Annotated[int, Field(ge=0, lt=len(Trait))]]


class _About(TypedDict):
    question: str
    system: str
    about: str
    base_model: NotRequired[str]


def load_lessons(files: Sequence[Path]) -> list[Lesson]:
    """Read several."""
    return [load_lesson(file) for file in files]
