"""Whether a personality is new to what was trained on: as a person, and in the combination of its poles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpg_fast.personality.scores import Personality
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import open_tensors, take

_POLE = 0.5  # scores nearer to 0 belong to neither pole
_SAME = 0.5  # two scores that round to one level differ by at most this


class Newness(StrEnum):
    """How new somebody is.

    PERSON: nobody trained on has all five scores (to within half a level). COMBINATION: nobody trained on is on the same side
    of 0 in all five traits; that includes being a new person.
    """

    PERSON = "person"
    COMBINATION = "combination"


@dataclass(frozen=True)
class Trained:
    """Who was trained on.

    Attributes:
        scores: float64 [n, 5], of each answer or dialogue as it was given; -5..5, OCEAN order.
        characters: names of records' characters.
        lessons: how many of the n are a teacher's answers. Training visits those at redrawn levels as well, anywhere in -5..5
            for the traits that took part, except that five scores that are all among -5, -2, 2 and 5 are never drawn.
    """

    scores: NDArray[np.float64]
    characters: frozenset[str] = frozenset()
    lessons: int = 0

    def distance(self, personality: Personality) -> float:
        """Euclidean, to the nearest one trained on."""
        return float(np.sqrt(((self.scores - np.array(personality.scores)) ** 2).sum(1)).min())

    def is_new(self, personality: Personality, level: Newness) -> bool:
        """Whether somebody is new at that level."""
        own = np.array(personality.scores)
        if (np.abs(self.scores - own) <= _SAME).all(1).any():
            return False
        return level is Newness.PERSON or not (poles(self.scores) == poles(own)).all(1).any()


def poles(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """-1, 0 or 1 for each score: low pole, neither, high pole."""
    return np.where(np.abs(scores) < _POLE, 0, np.sign(scores)).astype(np.int64)


def load_trained(paths: Sequence[Path]) -> Trained:
    """Directories of lessons and JSON Lines files of training records.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: nobody with scores is in them.
    """
    rows: list[Sequence[float]] = []
    characters: set[str] = set()
    lessons = 0
    for path in paths:
        if path.is_dir():
            found = list(_lesson_scores(path))
            lessons += len(found)
            rows += found
            continue
        for record in read_records(path, DialogueRecord):
            if record.personality is not None:
                rows.append(record.personality)
                characters |= {record.character} if record.character else set()
    if not rows:
        raise DPGError(f"nobody with scores is in {', '.join(path.name for path in paths)}")
    return Trained(np.array(rows, dtype=np.float64), frozenset(characters), lessons)


def _lesson_scores(directory: Path) -> Iterable[list[float]]:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise DPGError(f"{directory.name} holds no lessons")
    for file in files:
        with open_tensors(file) as stored:
            if "levels" not in stored.keys():  # noqa: SIM118  # safe_open is not a mapping
                raise DPGError(f"{file.name} is not a lesson: it has no levels")
            yield from take(stored, "levels", file).tolist()


def describe_newness(people: Sequence[Personality], trained: Trained) -> str:
    """A sentence or two for a report."""
    distances = [trained.distance(person) for person in people]
    counts = {level: sum(trained.is_new(person, level) for person in people) for level in Newness}
    redrawn = (
        f" {trained.lessons} of these are a teacher's answers, which training visits at redrawn levels too: their poles may have "
        "been met in any combination, these levels not."
        if trained.lessons
        else ""
    )
    return (
        f"Of {len(people)} people, {counts[Newness.PERSON]} are new as persons (no training example has their five scores) and "
        f"{counts[Newness.COMBINATION]} in the combination of their poles too, beside {len(trained.scores)} training examples. "
        f"Distance to the nearest example: {min(distances):.1f} at least, {np.median(distances):.1f} in the middle.{redrawn}"
    )
