"""How a request's next token is chosen: settings, and the draw itself, which depends on the request's own seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dpg_fast.server.grammar import Grammar

__all__ = ["Chosen", "Sampler", "TokenSampling"]


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 always takes the likeliest.
        top_p: only the likeliest tokens whose probabilities sum to this are drawn from.
        seed: of the draws; None for one that nobody knows.
        logprobs: how many of the likeliest tokens are told with each; None for no log-probabilities.
        grammar: that the answer obeys; None for any text.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    grammar: Grammar | None = None


class Chosen(NamedTuple):
    """A token of an answer.

    Attributes:
        token: its id.
        logprob: log-probability in the model's own distribution, before temperature, top_p and grammar; None where not asked for.
        likeliest: (id, log-probability) of the likeliest tokens there, where asked for.
    """

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one request, on the CPU, one after the other."""

    def __init__(self, sampling: TokenSampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._walk = None if sampling.grammar is None else sampling.grammar.walk()

    def __call__(self, logits: Tensor, likeliest: int) -> Chosen:
        """The next token.

        Args:
            logits: float32 [vocabulary].
            likeliest: their argmax.

        Raises:
            ValueError: the grammar allows nothing.
        """
        sampling, allowed = self._sampling, logits
        if self._walk is not None:
            allowed = self._walk.allowed(logits)
            likeliest = int(allowed.argmax())
        token = likeliest if sampling.temperature == 0 else self._drawn(allowed.cpu())
        if self._walk is not None:
            self._walk.take(token)
        if sampling.logprobs is None:
            return Chosen(token)
        all_of = torch.log_softmax(logits, -1)
        values, ids = all_of.topk(sampling.logprobs) if sampling.logprobs else (all_of[:0], all_of[:0])
        top = tuple(zip((int(i) for i in ids.tolist()), values.tolist(), strict=True))
        return Chosen(token, float(all_of[token]), top)

    def _drawn(self, logits: Tensor) -> int:
        probabilities = torch.softmax(logits / self._sampling.temperature, -1)
        if self._sampling.top_p < 1:
            values, order = probabilities.sort(descending=True)
            kept = values.cumsum(-1) - values < self._sampling.top_p  # the first always
            index = torch.multinomial(values * kept, 1, generator=self._generator)
            return int(order[index])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
