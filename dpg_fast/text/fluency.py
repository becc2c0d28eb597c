"""How fluent an answer is, without a judge: what the bare model makes of it, and how much it repeats itself.

Neither number alone will do: text that turns in circles is very probable under a language model, and text that falls apart
need not repeat itself.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from dpg_fast.compat.transformers import cache_argument, output_cache
from dpg_fast.compat.transformers_models import capped
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


@torch.inference_mode()
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
    device = next(model.parameters()).device
    prompt = tokenizer(
        chat_prompt(tokenizer, [{"role": "user", "content": question}], system=system),
        add_special_tokens=False,
        return_tensors="pt",
    )["input_ids"].to(device)
    encoded = [
        tokenizer(answer.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for answer in answers
    ]
    result = [Likelihood(0.0, 0)] * len(answers)
    order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]))
    if not order:
        return result
    with nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast):
        prefix = model.get_decoder()(input_ids=prompt, use_cache=True)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            sums = _batch(model, prefix, prompt.shape[1], [encoded[i] for i in rows])
            for i, value in zip(rows, sums.tolist(), strict=True):
                result[i] = Likelihood(value, len(encoded[i]))
    return result


def _batch(model: Any, prefix: Any, length: int, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """float64 [n] log-likelihoods of n answers that follow a prompt of ``length`` tokens."""
    device = prefix.last_hidden_state.device
    lengths = torch.tensor([len(ids) for ids in answers], device=device)
    width = int(lengths.max())
    # Padding follows the answer, where causal attention never looks: any id serves, without a mask.
    ids = torch.zeros(len(answers), width, dtype=torch.long, device=device)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, device=device)
    hidden = prefix.last_hidden_state[:, -1:].expand(len(answers), 1, -1)
    if width > 1:
        cache = copy.deepcopy(output_cache(prefix))
        cache.batch_repeat_interleave(len(answers))
        positions = torch.arange(length, length + width - 1, device=device).expand(len(answers), -1)
        decoder = model.get_decoder()
        rest = decoder(
            input_ids=ids[:, :-1], position_ids=positions, use_cache=True, **cache_argument(decoder, cache)
        ).last_hidden_state
        hidden = torch.cat([hidden, rest], dim=1)
    real = torch.arange(width, device=device) < lengths[:, None]
    with torch.autocast(device.type, enabled=False):
        logits = model.get_output_embeddings()(hidden[real].to(next(model.parameters()).dtype)).float()
        logits = capped(model.config, logits)
    picked = logits.gather(1, ids[real][:, None])[:, 0] - logits.logsumexp(dim=1)
    owner = torch.arange(len(answers), device=device)[:, None].expand_as(real)[real]
    sums = torch.zeros(len(answers), dtype=torch.float64, device=device)
    return sums.index_add_(0, owner, picked.double()).cpu()
