"""What every judge of personality in text offers, so that evaluations take any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dpg_fast.llm.client import LLMClient, in_new_loop
from dpg_fast.llm.prices import Usage
from dpg_fast.personality.scores import Trait
from dpg_fast.text.records import JudgeNote
from dpg_fast.util.progress import Count

V = TypeVar("V")


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


class Paid(Protocol):
    """A verdict that tokens were paid for."""

    @property
    def usage(self) -> Usage:
        """The tokens behind it."""


class APIJudge(ABC, Generic[V]):
    """A judge over an API: the calls of `Judge`, given one that awaits.

    Args:
        client: model, stored replies and prices.
        parameters: sent with every call, over the client's; default: temperature 0, unless the client's name one.
    """

    prompt_version: ClassVar[str]

    def __init__(self, client: LLMClient, parameters: Mapping[str, Any] | None = None) -> None:
        self.client = client
        if parameters is None:
            parameters = {} if "temperature" in client.settings.parameters else {"temperature": 0}
        self.parameters = dict(parameters)

    def note(self, verdict: Paid) -> JudgeNote:
        """Who judged, for a record; with the cost if the client knows the price."""
        cost = self.client.prices.cost(self.client.settings.model, verdict.usage)
        currency = None if cost is None else self.client.prices.currency
        return JudgeNote(
            model=self.client.settings.model, prompt_version=self.prompt_version, cost=cost, currency=currency
        )

    def judge(self, question: str, answers: Sequence[str], *, traits: Sequence[Trait] | None = None) -> list[V]:
        """One judgement for each answer to ``question``; errors as `judge_all`."""
        return self.judge_all([(question, answer) for answer in answers], traits=traits)

    def judge_all(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[V]:
        """`judge_all_async`, awaited here.

        Raises:
            LLMError: the server cannot be used at all.
            RuntimeError: called inside a running event loop; use `judge_all_async` there.
        """
        judged: list[V] = in_new_loop(
            lambda: self.judge_all_async(pairs, traits=traits, progress=progress), "judge_all_async"
        )
        return judged

    @abstractmethod
    async def judge_all_async(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[V]:
        """One judgement for each (question, answer), in order; for use inside an event loop, as in a notebook."""
