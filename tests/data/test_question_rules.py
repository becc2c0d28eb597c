from __future__ import annotations

import pytest

from dpg_fast.data.questions.rules import Limits, check_description, check_question
from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_questions
from dpg_fast.text.facets import FACETS, TOPICS, TRAIT_STEMS

GOOD = "A neighbour you barely know asks you to water the plants for a month. What do you say?"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("Your train stops in the dark. Describe how you spend the next hour until it moves again.", None),
        ("A neighbour you barely know asks you to water the plants for a whole month.", "not a question"),
        ("A neighbour asks Kim to water the plants for a month. What does Kim say?", "not second person"),
        ("It rains. What do you do?", "too short"),
        (GOOD + " " + "And you think about it for very long indeed. " * 10, "too long"),
        ("Do you prefer to have dinner with many other people or rather alone?", "no situation"),
        ("After a party your colleague calls you an introvert in front of others. How do you react?", "names a trait"),
        ("When you take a personality test at work, what do you hope it will say?", "names a trait"),
        ("Your boss shouts at you in a meeting. Do you stay calm or do you leave the room?", "names a trait"),
        ("You wait for the doctor to call you with results. How anxious do you feel?", "names a facet"),
    ],
)
def test_rules_for_questions(text: str, reason: str | None) -> None:
    found = check_question(text, Trait.NEUROTICISM)
    assert (found.reason if found else None) == reason, found


def test_facets_count_for_their_own_trait_only() -> None:
    text = "You wait for the doctor to call you with results. How anxious do you feel?"
    assert check_question(text, Trait.OPENNESS) is None
    found = check_question(text, Trait.NEUROTICISM)
    assert found is not None and found.detail == "anxious"


def test_ordinary_words_are_not_mistaken_for_names() -> None:
    for trait, text in (
        (Trait.OPENNESS, "You find the door open when you come home from work at night. What do you do?"),
        (
            Trait.CONSCIENTIOUSNESS,
            "Your Dutch friends visit you during the holidays by the tidal sea. What do you plan?",
        ),
        (Trait.EXTRAVERSION, "A traitor is unmasked in the film you watch with friends. What do you say aloud?"),
    ):
        assert check_question(text, trait) is None, text


def test_rules_for_descriptions() -> None:
    good = (
        "You keep lists for everything, and your keys hang where they always hang. "
        "A promise is a promise to you, even a small one."
    )
    assert check_description(good) is None
    for text, reason in (
        ("He keeps lists for everything. " * 6, "not second person"),
        ("You keep lists. Why? " * 6, "a question"),
        ("You keep lists.", "too short"),
        (good + " You are conscientious.", "names a trait"),
    ):
        found = check_description(text)
        assert found is not None and found.reason == reason


def test_the_shipped_questions_mostly_pass() -> None:
    rows = load_questions()
    passed = [row for row in rows if check_question(row.question, row.trait) is None]
    assert len(passed) / len(rows) > 0.95


def test_tables_are_complete() -> None:
    assert set(FACETS) == set(TRAIT_STEMS) == set(Trait)
    assert all(len(facets) == 6 for facets in FACETS.values())
    assert len({facet.name for facets in FACETS.values() for facet in facets}) == 30
    assert len(set(TOPICS)) == len(TOPICS) >= 30
    with pytest.raises(ValueError):
        Limits(5, 4)
