"""What every judge of personality in text offers, so that evaluations take any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dpg_fast.personality.scores import Trait
from dpg_fast.util.progress import Count


class Verdict(Protocol):
    """What a judge found in one answer."""

    @property
    def scores(self) -> Mapping[Trait, float]:
        """Trait -> score in -5..5; traits that could not be judged are missing."""

    @property
    def reason(self) -> str | None:
        """Why scores are missing; None if none is."""


class Judge(Protocol):
    """Scores answers to questions on the Big Five: `LikelihoodJudge` on a local model, `LLMJudge` over an API."""

    def judge(
        self, question: str, answers: Sequence[str], *, traits: Sequence[Trait] | None = None
    ) -> Sequence[Verdict]:
        """One verdict for each answer to ``question``."""

    def judge_all(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> Sequence[Verdict]:
        """One verdict for each (question, answer), in order; ``progress`` gets how many are done, and of how many."""

    def describe(self) -> str:
        """What this judge is and how far it can be trusted, in plain words."""
