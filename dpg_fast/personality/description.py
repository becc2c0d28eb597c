"""`Description`: a person in words, for hypernetworks that read text."""

from __future__ import annotations

from typing import Any, NoReturn

from dpg_fast.personality.scores import Personality
from dpg_fast.util.errors import DPGError

__all__ = ["MAX_CHARACTERS", "Description"]

MAX_CHARACTERS = 8192


class Description:
    """A person described in one's own words. Immutable and hashable; accepted wherever a personality is.

    `Description("a shy librarian who loves old maps")` is for networks that read text (`HypernetConfig.encoder` "text").
    Scores beside it (`personality=`) are what networks that read scores, and steered neurons, go by; the encoder
    "both" reads text and scores.

    Args:
        text: the description, 1 to 8192 characters after white space at the ends is taken off.
        personality: its scores, in any form `Personality` takes, or None where they are not known. It may name a character and
            a stage, whose adapter is then added to what the text gives.

    Raises:
        TypeError: `text` is not a string. ValueError: it is empty or too long; or the scores are not readable.
    """

    __slots__ = ("_personality", "_text")

    _text: str
    _personality: Personality | None

    def __init__(self, text: str, personality: Any = None) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a description is a text, not {type(text).__name__}")
        body = text.strip()
        if not body:
            raise DPGError("the description is empty; the base model is None")
        if len(body) > MAX_CHARACTERS:
            raise DPGError(f"the description has {len(body)} characters; at most {MAX_CHARACTERS} are accepted")
        object.__setattr__(self, "_text", body)
        object.__setattr__(self, "_personality", None if personality is None else Personality(personality))

    @property
    def text(self) -> str:
        """The description."""
        return self._text

    @property
    def personality(self) -> Personality | None:
        """The scores beside it, or None."""
        return self._personality

    def __repr__(self) -> str:
        scores = "" if self._personality is None else f", {self._personality!r}"
        return f"Description({self._text!r}{scores})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Description):
            return NotImplemented
        return (self._text, self._personality) == (other._text, other._personality)

    def __hash__(self) -> int:
        return hash(("Description", self._text, self._personality))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Description cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Description cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._text, self._personality)
