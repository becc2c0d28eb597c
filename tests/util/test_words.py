"""Numbers with the nouns that they count."""

from __future__ import annotations

from dpg_fast.util.words import counted


def test_singular_and_plural() -> None:
    assert [counted(n, "line") for n in (0, 1, 2, 1000)] == ["0 lines", "1 line", "2 lines", "1,000 lines"]
    assert [counted(n, "reply", "replies") for n in (1, 3)] == ["1 reply", "3 replies"]
