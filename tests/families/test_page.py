"""The published page has the registry's families and outcomes; its figures may differ."""

from __future__ import annotations

import pytest

from benchmarks.families import Row, listed, main, page
from tests.families.registry import FAMILIES, Family
from tests.support import ROOT

PAGE = ROOT / "docs" / "families.md"


def outcome(family: Family) -> str:
    if not family.installed:
        return "not installed"
    return "supported" if family.refused is None else "refused"


def test_the_page_has_every_family_and_its_outcome() -> None:
    assert listed(PAGE.read_text(encoding="utf-8")) == {name: outcome(family) for name, family in FAMILIES.items()}, (
        "write the page again: python -m benchmarks.families --output docs/families.md"
    )


def test_a_page_says_what_is_wrong_and_what_is_missing() -> None:
    rows = [
        Row(Family("Good", "A"), "supported", {"adapted": "MLP", "neurons": "yes", "PEFT": "1e-07"}),
        Row(Family("Bad", "B"), "wrong", {"adapted": "MLP"}, wrong=["forward: alone 1e-01"]),
        Row(Family("No", "C", refused="experts"), "refused", message="has | experts; accepted are others"),
        Row(Family("Gone", "D"), "not installed", message="Gone: transformers 5.0 has no D"),
    ]
    text = page(rows)
    assert listed(text) == {"Good": "supported", "Bad": "wrong", "No": "refused", "Gone": "not installed"}
    assert "- Bad: forward: alone 1e-01" in text
    assert "has \\| experts |" in text and "accepted are others" not in text


def test_one_family_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "qwen2-vl", "mixtral"]) == 0
    shown = capsys.readouterr().out
    assert "Qwen2-VL" in shown and "attention, MLP" in shown and "mixture of experts" in shown
    assert "1 refused, 2 supported" in shown
    with pytest.raises(SystemExit):
        main(["--only", "llama", "--output", "nowhere.md"])
