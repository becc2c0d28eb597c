"""Examples for models that follow examples better than instructions: earlier turns of the conversation, already answered.

The questions are the package's own, of split "search"; the topics beside them (`Facet.shown`) were added for this purpose. The
portraits are the package's own descriptions of that split.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from dpg_fast.data.questions.rules import check_description
from dpg_fast.personality.scores import POLES, Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.text.facets import FACETS, Facet

MOST = 5  # examples: the facets of a trait less the one that is asked for


def shown_questions(trait: Trait) -> list[tuple[Facet, str, str]]:
    """Facet, topic and question of each example of ``trait``."""
    texts = {question.id: question.question for question in load_questions(trait, "search")}
    return [(facet, facet.shown[1], texts[facet.shown[0]]) for facet in FACETS[trait]]


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
