"""A judge that counts words: exact, quick and without a model, for what does not depend on how good a judge is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dpg_fast.personality.scores import Trait

LOUD, QUIET = ("shout", "party", "everybody"), ("alone", "hush", "nobody")


@dataclass(frozen=True)
class Verdict:
    scores: dict[Trait, float]
    reason: str | None = None


class WordsJudge:
    """Extraversion is loud words less quiet ones; the other traits are 0. Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def judge(self, question: str, answers: Sequence[str], *, traits: Sequence[Trait] | None = None) -> list[Verdict]:
        return self.judge_all([(question, answer) for answer in answers], traits=traits)

    def judge_all(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Verdict]:
        self.asked += pairs
        return [
            Verdict({trait: level(answer) if trait is Trait.EXTRAVERSION else 0.0 for trait in Trait})
            for _, answer in pairs
        ]

    def describe(self) -> str:
        return "Counts words."


def level(text: str) -> float:
    """-5..5."""
    words = text.lower().replace(".", " ").split()
    return max(-5.0, min(5.0, float(sum(word in LOUD for word in words) - sum(word in QUIET for word in words))))
