"""Five scores as a short text, for hypernetworks that read one; several wordings, so that none of them is learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality, Pole, Trait

__all__ = ["WORDINGS", "describe", "reference_people"]

WORDINGS = 4
"""How many wordings `describe` knows; 0 is the one used outside training."""

# High and low pole; the words are this project's own.
_WORDS: dict[Trait, tuple[tuple[str, str], ...]] = {
    Trait.OPENNESS: (
        ("imaginative and curious", "conventional and closed to new ideas"),
        ("creative, with a love of new things", "down-to-earth, with a dislike of anything new"),
    ),
    Trait.CONSCIENTIOUSNESS: (
        ("organised and reliable", "messy and careless"),
        ("disciplined and thorough", "lazy and chaotic"),
    ),
    Trait.EXTRAVERSION: (
        ("outgoing and talkative", "quiet and withdrawn"),
        ("sociable and full of energy", "shy and reserved"),
    ),
    Trait.AGREEABLENESS: (
        ("kind and helpful", "rude and selfish"),
        ("warm and trusting", "cold and quarrelsome"),
    ),
    Trait.NEUROTICISM: (
        ("anxious and easily upset", "calm and relaxed"),
        ("nervous and moody", "steady and carefree"),
    ),
}
# Up to this |score|, that word.
_DEGREES = (
    (0.75, ("a tiny bit", "just a bit")),
    (1.75, ("slightly", "a little")),
    (2.75, ("fairly", "somewhat")),
    (3.75, ("quite", "rather")),
    (4.5, ("very", "really")),
    (MAX_SCORE, ("extremely", "intensely")),
)


def describe(personality: Personality, wording: int = 0) -> str:
    """The personality in one or two sentences; traits of score 0 are not mentioned.

    Args:
        personality: its five scores; whatever else it may name is not part of the text.
        wording: 0 to `WORDINGS` - 1; taken modulo that.
    """
    kind = wording % WORDINGS
    named = [(pole, level) for pole, level in zip(POLES, personality.pole_scores, strict=True) if level]
    if kind % 2:
        named.reverse()
    if kind == 3:
        scores = ", ".join(
            f"{trait.value} {score:+.1f}" for trait, score in zip(Trait, personality.scores, strict=True) if score
        )
        told = _join([_phrase(pole, level, 0) for pole, level in named])
        return f"Personality on a scale from -5 to 5: {scores or 'all five traits 0'}. In words: {told or 'average'}."
    if not named:
        return ("An average person, neither one thing nor the other.", "I am average in every respect.")[kind % 2]
    if kind == 1:
        return f"I am {_join([_phrase(pole, level, 1) for pole, level in named])}."
    if kind == 2:
        return " ".join(f"This person is {_phrase(pole, level, 1)}." for pole, level in named)
    return f"A person who is {_join([_phrase(pole, level, 0) for pole, level in named])}."


def _phrase(pole: Pole, level: float, words: int) -> str:
    degree = next(found for limit, found in _DEGREES if level <= limit)[words]
    return f"{degree} {_WORDS[pole.trait][words][0 if pole.high else 1]}"


def _join(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def reference_people(count: int, seed: int = 0) -> list[Personality]:
    """An even number of at least `count` personalities, each followed by its opposite: one to five traits, levels uniform."""
    random = np.random.default_rng(seed)
    people: list[Personality] = []
    while len(people) < count:
        scores = np.round(random.uniform(-MAX_SCORE, MAX_SCORE, len(Trait)), 2)
        scores[random.permutation(len(Trait))[random.integers(1, len(Trait) + 1) :]] = 0.0
        person = Personality.from_scores(scores.tolist())
        people += [person, -person]
    return people
