"""Answers that have to be JSON: which tokens may come next, by llguidance (https://github.com/guidance-ai/llguidance)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpg_fast.util.errors import DPGError

__all__ = ["Grammar", "Grammars", "Walk"]

COMPACT: Any = {"whitespace_flexible": False}  # small models would otherwise fill an answer with line breaks


class Grammars:
    """JSON schemas as grammars of one vocabulary.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        size: logits of a token.
        eos: ids that end an answer.
    """

    def __init__(self, tokenizer: Any, size: int, eos: Sequence[int]) -> None:
        self._tokenizer, self._size, self._eos = tokenizer, size, list(eos)
        self._known: Any = None
        self._lock = threading.Lock()

    def json(self, schema: dict[str, Any] | None) -> Grammar:
        """The grammar of a JSON schema; None is any object. It may take a second.

        Raises:
            ValueError: a schema that is none, or holds what llguidance does not support.
        """
        from llguidance import LLMatcher

        if not self._eos:
            raise DPGError("the model has no token that ends an answer, so its answers cannot be held to a format")
        with self._lock:
            if self._known is None:
                from llguidance.hf import from_tokenizer

                try:
                    self._known = from_tokenizer(self._tokenizer, self._size, self._eos)
                except ValueError as error:
                    raise DPGError(f"answers of this model cannot be held to a format: {error}") from None
        text = LLMatcher.grammar_from_json_schema({"type": "object"} if schema is None else schema, COMPACT)
        matcher = LLMatcher(self._known, text, log_level=0)
        if matcher.is_error():
            raise DPGError(f"the JSON schema is not supported: {matcher.get_error().strip().splitlines()[0][:300]}")
        return Grammar(matcher)


class Grammar:
    """What an answer has to be; every answer gets a :meth:`walk` of its own.

    Args:
        matcher: of llguidance, at the beginning.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def walk(self) -> Walk:
        """One answer, from its beginning."""
        return Walk(self._matcher.deep_copy())


class Walk:
    """One answer's way through a grammar.

    Args:
        matcher: of llguidance; its own.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, logits: Tensor) -> Tensor:
        """Logits [vocabulary] with -inf in place of those of tokens that may not come next.

        Raises:
            ValueError: llguidance gave up.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._require()
        mask = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool))
        return logits.masked_fill(~mask.to(logits.device), -torch.inf)

    def take(self, token: int) -> None:
        """The token that was chosen.

        Raises:
            ValueError: llguidance gave up.
        """
        self._matcher.consume_token(token)
        self._require()

    def _require(self) -> None:
        if self._matcher.is_error():
            raise DPGError(f"the grammar of this answer failed: {self._matcher.get_error().splitlines()[0]}")
