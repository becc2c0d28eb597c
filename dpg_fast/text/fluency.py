"""How fluent an answer is, without a judge: what the bare model makes of it, and how much it repeats itself.

Neither number alone will do: text that turns in circles is very probable under a language model, and text that falls apart
need not repeat itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpg_fast.text.continuation import continuation_logp
from dpg_fast.text.prompting import chat_prompt


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of an answer in nats, over all its tokens."""

    log_likelihood: float
    tokens: int


def repeated_ngrams(text: str, n: int = 4) -> float:
    """Share of the text's word n-grams (case ignored) that stood in it before; 0 where it has fewer than two."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def perplexity(likelihoods: Sequence[Likelihood]) -> float:
    """exp of the negative log-likelihood per token over all answers together; nan when they have no tokens."""
    tokens = sum(found.tokens for found in likelihoods)
    return math.exp(-sum(found.log_likelihood for found in likelihoods) / tokens) if tokens else math.nan


def answer_likelihoods(
    model: Any,
    tokenizer: Any,
    question: str,
    answers: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
) -> list[Likelihood]:
    """How probable the answers are under ``model`` without any personality; empty ones have no tokens.

    Args:
        model: a causal LM of transformers; of a `PersonalityModel` its ``base``.
        tokenizer: its tokenizer, with a chat template.
        question: asked, in the model's chat format.
        answers: taken as data: what looks like a special token becomes ordinary characters.
        system: the instruction that stood before the question.
        batch_size: answers scored at once.
        autocast: run the decoder in this dtype.
    """
    prompt = chat_prompt(tokenizer, [{"role": "user", "content": question}], system=system)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    encoded = [
        tokenizer(answer.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for answer in answers
    ]
    found = continuation_logp(model, [ids] * len(encoded), encoded, batch_size=batch_size, autocast=autocast)
    return [Likelihood(own.total, len(own.logp)) for own in found]
