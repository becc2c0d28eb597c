"""What is refused on purpose. Programs end on these with one line; every other error is a fault and keeps its traceback."""

from __future__ import annotations

__all__ = ["DPGError", "WrongTypeError"]


class DPGError(ValueError):
    """Something that the caller gave cannot be used; the message says what, and what can be."""


class WrongTypeError(DPGError, TypeError):
    """A setting, or a request to a model, of a type that cannot be used there."""
