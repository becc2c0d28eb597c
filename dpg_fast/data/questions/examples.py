"""Examples for models that follow examples better than instructions: earlier turns of the conversation, already answered.

The questions are the package's own, of split "search" (four for each facet, in the order of `FACETS`); the topics
beside them were added for this purpose. The portraits are the package's own descriptions of that split.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from dpg_fast.data.questions.rules import check_description
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.text.facets import FACETS, Facet

#: for each facet, in the order of `FACETS`, the question that shows it, and what that question is about
SHOWN: dict[Trait, tuple[tuple[str, str], ...]] = {
    Trait.OPENNESS: (
        ("O03", "a child's game"),
        ("O11", "music on the radio"),
        ("O19", "old photographs"),
        ("O27", "a job abroad"),
        ("O33", "a lunch with colleagues"),
        ("O43", "a change at the local school"),
    ),
    Trait.CONSCIENTIOUSNESS: (
        ("C01", "a task at work"),
        ("C15", "a full garage"),
        ("C19", "a mistake at the till"),
        ("C29", "an evening course"),
        ("C33", "an afternoon of study"),
        ("C41", "a car for sale"),
    ),
    Trait.EXTRAVERSION: (
        ("E01", "new people in the street"),
        ("E13", "a week by a lake"),
        ("E19", "a wrong dish"),
        ("E29", "a full calendar"),
        ("E33", "an amusement park"),
        ("E41", "a success of the team"),
    ),
    Trait.AGREEABLENESS: (
        ("A03", "a late colleague"),
        ("A09", "a scratched car"),
        ("A23", "rain at the bus stop"),
        ("A27", "an evening with films"),
        ("A33", "a difficult test"),
        ("A41", "a winter's day in town"),
    ),
    Trait.NEUROTICISM: (
        ("N01", "a message from the boss"),
        ("N15", "a broken parcel"),
        ("N21", "a sleepless night"),
        ("N29", "a lunch in a busy restaurant"),
        ("N37", "an online shop"),
        ("N47", "a breakdown on the road"),
    ),
}
MOST = 5  # examples: the facets of a trait less the one that is asked for


def shown_questions(trait: Trait) -> list[tuple[Facet, str, str]]:
    """Facet, topic and question of each example of ``trait``."""
    texts = {question.id: question.question for question in load_questions(trait, "search")}
    return [(facet, topic, texts[name]) for facet, (name, topic) in zip(FACETS[trait], SHOWN[trait], strict=True)]


def question_turns(
    trait: Trait, facet: Facet, count: int, ask: Callable[[Facet, str], str], seed: str
) -> list[dict[str, str]]:
    """``count`` answered requests for questions about other facets of ``trait``; ``ask`` words a request."""
    others = [shown for shown in shown_questions(trait) if shown[0] is not facet]
    return _turns([(ask(f, topic), "question", text) for f, topic, text in others], count, seed)


def description_turns(pole: Pole, count: int, ask: Callable[[Pole], str], seed: str) -> list[dict[str, str]]:
    """``count`` answered requests for portraits of people at poles of other traits."""
    shown = [
        (ask(other), "description", text.text)
        for other in POLES
        if other.trait is not pole.trait
        for text in load_descriptions(other, "search")
        if check_description(text.text) is None
    ]
    return _turns(shown, count, seed)


def _turns(shown: list[tuple[str, str, str]], count: int, seed: str) -> list[dict[str, str]]:
    turns = []
    for request, key, text in random.Random(seed).sample(shown, count):
        turns.append({"role": "user", "content": request})
        turns.append({"role": "assistant", "content": json.dumps({key: text}, ensure_ascii=False)})
    return turns
