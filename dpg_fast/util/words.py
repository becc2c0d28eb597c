"""Numbers with the nouns that they count."""

from __future__ import annotations


def counted(number: int, noun: str, several: str | None = None) -> str:
    """``1 line``, ``2 lines``, ``1,000 replies``.

    Args:
        number: how many.
        noun: its singular.
        several: its plural, where that is not the singular and an s.
    """
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"
