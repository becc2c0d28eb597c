"""From tokens to text: pieces as they become readable, cut at a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpg_fast.server.sampling import Chosen

__all__ = ["AnswerText", "Vocabulary"]

UNREADABLE = "�"  # what a decoder writes for half a character


class Vocabulary:
    """The texts of tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
        size: rows of the model's own embedding; prompts of ids lie below.
        eos: ids that end an answer.
    """

    def __init__(self, tokenizer: Any, size: int, eos: Sequence[int]) -> None:
        self.tokenizer, self.size, self.eos = tokenizer, size, tuple(eos)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def shown(self, token: int) -> str:
        """One token as text, special ones too."""
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text


class AnswerText:
    """One answer as it grows.

    Args:
        vocabulary: of the model.
        stops: texts that end it, and are left out.
        limit: most tokens.

    Attributes:
        tokens: all that were generated; those that end the answer count too.
        finish: "stop" or "length" when it has ended, else None.
    """

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str], limit: int) -> None:
        self._vocabulary, self._stops, self._limit = vocabulary, stops, limit
        self._held = max(map(len, stops), default=1) - 1
        self._ids: list[int] = []
        self._begin = self._read = 0  # tokens that give the context of the next ones; tokens whose text is in `_text`
        self._text = ""
        self._given = 0
        self.tokens = 0
        self.finish: str | None = None

    def add(self, chosen: Chosen) -> str:
        """The text that a further token makes certain; empty after the end."""
        if self.finish is not None:
            return ""
        self.tokens += 1
        if chosen.token in self._vocabulary.eos:
            self.finish = "stop"
        else:
            self._ids.append(chosen.token)
            if self.tokens >= self._limit:
                self.finish = "length"
        self._text += self._readable()
        found = [at for stop in self._stops if (at := self._text.find(stop, self._given)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.finish = "stop"
        end = max(self._given, len(self._text) - (0 if self.finish is not None else self._held))
        piece = self._text[self._given : end]
        self._given = end
        return piece

    def _readable(self) -> str:
        """What the tokens add to the text; half a character waits for its rest, or for the end."""
        decode = self._vocabulary.decode
        before, now = decode(self._ids[self._begin : self._read]), decode(self._ids[self._begin :])
        if self.finish is None and (now.endswith(UNREADABLE) or len(now) <= len(before)):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return now[len(before) :]
