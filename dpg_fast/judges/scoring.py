"""Scores of answers: a judge's view of the traits, and fluency measured without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpg_fast.judges.base import APIJudge, Judge
from dpg_fast.judges.llm import LLMJudgement
from dpg_fast.personality.scores import Trait
from dpg_fast.text.answers import NEUTRAL_SYSTEM
from dpg_fast.text.fluency import answer_likelihoods, repeated_ngrams


@dataclass(frozen=True)
class Scorer:
    """Scores answers to one question at a time.

    Args:
        judge: of the traits.
        model: the bare model, whose perplexity of an answer is taken; None scores the traits alone.
        tokenizer: its tokenizer.
        system: the instruction that the perplexity is conditioned on.
        autocast: dtype of the decoder while the perplexity is computed.
    """

    judge: Judge
    model: Any = None
    tokenizer: Any = None
    system: str = NEUTRAL_SYSTEM
    autocast: torch.dtype | None = None

    def about(self) -> dict[str, Any]:
        """What the scores depend on, besides the answers."""
        judge = {"judge": self.judge.describe()}
        return (
            judge if self.model is None else {**judge, "perplexity_system": self.system, "autocast": str(self.autocast)}
        )

    def spent(self) -> dict[str, Any]:
        """What this program's calls of the judge cost so far, JSON-ready: calls, tokens and price; empty for a local judge.

        Stored replies cost nothing. The price is None where the model's is not known.
        """
        if not isinstance(self.judge, APIJudge):
            return {}
        client = self.judge.client
        cost = client.prices.cost(client.settings.model, client.paid)
        price = None if cost is None else round(cost, 6)
        return {**client.paid.model_dump(), "price": price, "currency": client.prices.currency}

    def judge_traits(self, question: str, answers: Sequence[str], traits: Sequence[Trait]) -> list[dict[str, Any]]:
        """For each answer, JSON-ready: ``scores`` (trait name -> -5..5, without those that could not be judged), ``reason``,
        ``rated_fluency`` (1 to 5 if the judge gives it) and ``empty``."""
        verdicts = self.judge.judge_all([(question, answer) for answer in answers], traits=traits)
        return [
            {
                "scores": {trait.value: verdict.scores[trait] for trait in traits if trait in verdict.scores},
                "reason": verdict.reason,
                "rated_fluency": verdict.fluency if isinstance(verdict, LLMJudgement) else None,
                "empty": not answer.strip(),
            }
            for answer, verdict in zip(answers, verdicts, strict=True)
        ]

    def fluency(self, question: str, answers: Sequence[str]) -> list[dict[str, Any]]:
        """For each answer, JSON-ready: ``log_likelihood`` and ``tokens`` under the bare model, ``repetition`` (share of repeated
        word 4-grams) and ``empty``."""
        likelihoods = answer_likelihoods(
            self.model, self.tokenizer, question, answers, system=self.system, autocast=self.autocast
        )
        return [
            {
                "log_likelihood": likelihood.log_likelihood,
                "tokens": likelihood.tokens,
                "repetition": repeated_ngrams(answer),
                "empty": not answer.strip(),
            }
            for answer, likelihood in zip(answers, likelihoods, strict=True)
        ]
