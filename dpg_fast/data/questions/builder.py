"""Situational questions and persona descriptions in the manner of PersonalityBench, written by a language model.

PersonalityBench crossed IPIP-NEO descriptors with everyday topics; its prompts were not published. The prompts, the list of
topics and the rules here are this project's own, and what they give is not PersonalityBench.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from dpg_fast.data.questions.examples import MOST, description_turns, question_turns, shown_questions
from dpg_fast.data.questions.rules import DESCRIPTION_LIMITS, QUESTION_LIMITS, Limits, check_description, check_question
from dpg_fast.data.similarity import near_duplicates, near_vectors
from dpg_fast.llm import Call, LLMClient, Result, Usage
from dpg_fast.llm.results import Run
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.text.facets import FACETS, TOPICS, TRAIT_STEMS, Facet
from dpg_fast.text.records import DroppedRecord
from dpg_fast.util.errors import DPGError

PROMPT_VERSION = "situations-1"
EXAMPLES_VERSION = "situations-by-example-1"
_SYSTEM = "You write short texts for a psychological study of how people differ in everyday life."
_QUESTION_PROMPT = """Write {count} different questions about this everyday topic: {topic}.

Each question puts the reader ("you") into one concrete situation and asks openly what they would feel, think or do.
Somebody who {high} and somebody who {low} should answer it differently, and neither answer should look better.
Each question has 15 to 45 words. Do not mention {names}, personality, traits or tests, and do not suggest an answer.
Make the situations as different from each other as you can."""
_DESCRIPTION_PROMPT = """Write {count} different portraits of a person, each addressed to that person ("You are ...", "You ...").

The person {behaviour}.
Each portrait shows most of this through habits, tastes and reactions, in 40 to 90 words of plain prose without a question.
Do not use the words {names}, and do not mention personality, traits or tests.
Give each portrait another everyday life: other age, work and surroundings."""
_SHORT_QUESTION_PROMPT = """Write a question about {topic}. It puts the reader ("you") into a situation and asks what they would \
do, think or feel. Somebody who {high} and somebody who {low} should answer it differently."""
_SHORT_DESCRIPTION_PROMPT = """Write a portrait of a person, addressed to that person ("You are ...", "You ..."). The person \
{behaviour}."""


class QuestionBatch(BaseModel):
    """The reply to a request for questions."""

    questions: list[str] = Field(description="the questions, each complete in itself")


class DescriptionBatch(BaseModel):
    """The reply to a request for portraits."""

    descriptions: list[str] = Field(description="the portraits, each complete in itself")


class OneQuestion(BaseModel):
    """The reply to a request with examples."""

    question: str

    @property
    def questions(self) -> list[str]:
        """As a batch has them."""
        return [self.question]


class OneDescription(BaseModel):
    """Likewise for portraits."""

    description: str

    @property
    def descriptions(self) -> list[str]:
        """As a batch has them."""
        return [self.description]


@dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        traits: whose questions and descriptions.
        questions: wanted for each trait.
        descriptions: wanted for each pole.
        per_call: texts asked for in one call.
        rounds: how often what the rules removed is asked for again.
        spare: texts asked for in the first round, relative to what is wanted; more for a model that few texts of pass the rules.
        examples: answered requests shown in place of long instructions, for weak models; a reply then has one text.
        similarity: word-trigram Jaccard similarity from which a text counts as a repetition.
        embedding_model: also drop texts whose embeddings by this model are closer than `embedding_similarity`.
        topics: crossed with the facets.
        seed: of the order of topics.
    """

    traits: Sequence[Trait] = tuple(Trait)
    questions: int = 100
    descriptions: int = 8
    per_call: int = 5
    rounds: int = 3
    spare: float = 1.25
    examples: int = 0
    similarity: float = 0.5
    embedding_model: str | None = None
    embedding_similarity: float = 0.9
    question_limits: Limits = QUESTION_LIMITS
    description_limits: Limits = DESCRIPTION_LIMITS
    topics: Sequence[str] = TOPICS
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.questions, self.descriptions) < 0 or self.questions + self.descriptions == 0:
            raise DPGError("ask for at least one question or description")
        if self.per_call < 1 or self.rounds < 1:
            raise DPGError("per_call and rounds must be at least 1")
        if self.spare < 1:
            raise DPGError(f"spare is at least 1, got {self.spare}")
        if not 0 <= self.examples <= MOST:
            raise DPGError(f"examples are 0 to {MOST}, got {self.examples}")
        if self.examples and self.per_call != 1:
            raise DPGError(f"examples show one text in a reply: per_call must be 1 with them, got {self.per_call}")
        if not self.traits or not self.topics:
            raise DPGError("name at least one trait and one topic")
        if not (0 < self.similarity <= 1 and 0 < self.embedding_similarity <= 1):
            raise DPGError("similarities must lie above 0 and not above 1")


@dataclass
class QuestionPart:
    """The texts of one trait or pole: what was kept, what was dropped and why, and which calls failed."""

    target: str
    wanted: int
    kept: list[str] = field(default_factory=list)
    dropped: list[DroppedRecord] = field(default_factory=list)
    failed: list[Result[Any]] = field(default_factory=list)
    generated: int = 0
    usage: Usage = field(default_factory=Usage)
    paid: Usage = field(default_factory=Usage)
    served_by: set[str] = field(default_factory=set)

    @property
    def reasons(self) -> Counter[str]:
        """How many texts each rule removed."""
        return Counter(item.reason for item in self.dropped)


def question_calls(trait: Trait, settings: BuildSettings, start: int, count: int) -> list[Call[Any]]:
    """Calls number ``start`` to ``start + count - 1``: facets in turn, topics in a shuffled order, then all again."""
    facets = FACETS[trait]
    topics = random.Random(f"{settings.seed} {trait.value}").sample(list(settings.topics), len(settings.topics))
    calls = []
    for number in range(start, start + count):
        facet = facets[number % len(facets)]
        step = number // len(facets)
        topic = topics[(step + number % len(facets)) % len(topics)]
        item, draw = f"{trait.value}: {facet.name}, {topic}", step // len(topics)
        if settings.examples:
            seed = f"{settings.seed} {trait.value} {number}"
            turns = question_turns(trait, facet, settings.examples, _short_question, seed)
            calls.append(_call(item, _short_question(facet, topic), OneQuestion, draw, turns))
            continue
        prompt = _QUESTION_PROMPT.format(
            count=settings.per_call, topic=topic, high=facet.high, low=facet.low, names=_names(trait)
        )
        calls.append(_call(item, prompt, QuestionBatch, draw))
    return calls


def description_calls(pole: Pole, settings: BuildSettings, start: int, count: int) -> list[Call[Any]]:
    """Calls number ``start`` to ``start + count - 1``: one prompt for the pole, drawn again and again."""
    calls = []
    for number in range(start, start + count):
        item = f"{pole}: portraits {number + 1}"
        if settings.examples:
            turns = description_turns(pole, settings.examples, _short_description, f"{settings.seed} {pole} {number}")
            calls.append(_call(item, _short_description(pole), OneDescription, number, turns))
            continue
        prompt = _DESCRIPTION_PROMPT.format(
            count=settings.per_call, behaviour=_behaviour(pole), names=_names(pole.trait)
        )
        calls.append(_call(item, prompt, DescriptionBatch, number))
    return calls


def _short_question(facet: Facet, topic: str) -> str:
    return _SHORT_QUESTION_PROMPT.format(topic=topic, high=facet.high, low=facet.low)


def _short_description(pole: Pole) -> str:
    return _SHORT_DESCRIPTION_PROMPT.format(behaviour=_behaviour(pole))


def _behaviour(pole: Pole) -> str:
    sides = [facet.high if pole.high else facet.low for facet in FACETS[pole.trait]]
    return ", ".join(sides[:-1]) + " and " + sides[-1]


def first_round(settings: BuildSettings) -> list[Call[Any]]:
    """The calls that building begins with; what the rules remove is asked for again in later rounds."""
    calls: list[Call[Any]] = []
    for trait in settings.traits:
        calls += question_calls(trait, settings, 0, _first_count(settings.questions, settings))
        for high in (True, False):
            calls += description_calls(Pole(trait, high), settings, 0, _first_count(settings.descriptions, settings))
    return calls


def build_questions(
    client: LLMClient,
    trait: Trait,
    settings: BuildSettings,
    *,
    avoid: Sequence[str] = (),
    run: Callable[[Sequence[Call[Any]], str], Run] | None = None,
) -> QuestionPart:
    """Questions for ``trait`` that pass the rules and resemble neither each other, nor ``avoid``, nor the examples shown."""
    shown = [text for _, _, text in shown_questions(trait)] if settings.examples else []
    return _build(
        client,
        trait.value,
        settings.questions,
        settings,
        lambda start, count: question_calls(trait, settings, start, count),
        lambda text: check_question(text, trait, settings.question_limits),
        [*avoid, *shown],
        run,
    )


def build_descriptions(
    client: LLMClient,
    pole: Pole,
    settings: BuildSettings,
    *,
    run: Callable[[Sequence[Call[Any]], str], Run] | None = None,
) -> QuestionPart:
    """Second-person portraits of somebody at ``pole`` that pass the rules and do not resemble each other."""
    return _build(
        client,
        str(pole),
        settings.descriptions,
        settings,
        lambda start, count: description_calls(pole, settings, start, count),
        lambda text: check_description(text, settings.description_limits),
        (),
        run,
    )


def _build(
    client: LLMClient,
    target: str,
    wanted: int,
    settings: BuildSettings,
    make_calls: Callable[[int, int], Sequence[Call[Any]]],
    check: Callable[[str], Any],
    avoid: Sequence[str],
    run: Callable[[Sequence[Call[Any]], str], Run] | None,
) -> QuestionPart:
    part = QuestionPart(target, wanted)
    kind: Any = "question" if len(target) > 2 else "description"
    texts: list[str] = []
    asked = 0
    for number in range(settings.rounds if wanted else 0):
        missing = wanted - len(part.kept)
        if number == 0:
            count = _first_count(wanted, settings)
        else:
            rate = len(part.kept) / max(1, asked * settings.per_call)
            count = math.ceil(missing / settings.per_call / rate) if rate else _first_count(missing, settings)
            count = min(count, 2 * asked)  # a bad rate must not become a big bill
        calls = make_calls(asked, count)
        title = f"{target}, round {number + 1}"
        done = client.run(calls) if run is None else run(calls, title)
        asked += count
        for result in done.results:
            part.usage, part.paid = part.usage + result.usage, part.paid + result.paid
            if result.served_by:
                part.served_by.add(result.served_by)
            if result.failure is not None:
                part.failed.append(result)
                continue
            value: Any = result.value
            texts += value.questions if isinstance(value, (QuestionBatch, OneQuestion)) else value.descriptions
        _select(part, kind, texts, client, settings, check, avoid)
        if len(part.kept) >= wanted:
            break
    return part


def _select(
    part: QuestionPart,
    kind: Any,
    texts: Sequence[str],
    client: LLMClient,
    settings: BuildSettings,
    check: Callable[[str], Any],
    avoid: Sequence[str],
) -> None:
    """Judge all texts so far from the beginning, so that a resumed run decides as an uninterrupted one."""

    def drop(text: str, reason: str, detail: str = "", similar_to: str | None = None) -> None:
        part.dropped.append(
            DroppedRecord(kind=kind, target=part.target, text=text, reason=reason, detail=detail, similar_to=similar_to)
        )

    part.generated, part.dropped = len(texts), []
    passed = list(avoid)
    for text in (" ".join(text.split()) for text in texts):
        rejection = check(text)
        if rejection is None:
            passed.append(text)
        else:
            drop(text, rejection.reason, rejection.detail)

    def without(found: Sequence[Any], reason: str) -> list[str]:
        for duplicate in found:
            drop(passed[duplicate.index], reason, f"{duplicate.similarity:.2f}", passed[duplicate.of])
        gone = {duplicate.index for duplicate in found}
        return [text for i, text in enumerate(passed) if i not in gone]

    passed = without(near_duplicates(passed, threshold=settings.similarity, keep=len(avoid)), "repeats words")
    if settings.embedding_model is not None and len(passed) > len(avoid):
        vectors = client.embed(passed, settings.embedding_model)
        passed = without(
            near_vectors(vectors, threshold=settings.embedding_similarity, keep=len(avoid)), "repeats meaning"
        )
    part.kept = passed[len(avoid) :]
    for text in part.kept[part.wanted :]:
        drop(text, "surplus")
    part.kept = part.kept[: part.wanted]


def _call(item: str, prompt: str, answer: type[Any], draw: int, examples: Sequence[dict[str, str]] = ()) -> Call[Any]:
    messages = [{"role": "system", "content": _SYSTEM}, *examples, {"role": "user", "content": prompt}]
    return Call(item, messages, answer, EXAMPLES_VERSION if examples else PROMPT_VERSION, draw=draw)


def _first_count(wanted: int, settings: BuildSettings) -> int:
    return math.ceil(wanted * settings.spare / settings.per_call)


def _names(trait: Trait) -> str:
    """What the trait is called, for the prompt's list of forbidden words."""
    facets = [facet.name for facet in FACETS[trait]]
    return ", ".join([trait.value, *(stem for stem in TRAIT_STEMS[trait] if " " in stem), *facets])
