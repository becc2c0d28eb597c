"""The comparison of systems' conversations as tables on the terminal and as an HTML page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as RichTable

from dpg_fast.judges.sections import software
from dpg_fast.reporting import Page, Picture, Section, Settings, Table, Text, bounds, charts, write_report
from dpg_fast.reporting.page import MISSING
from dpg_fast.reporting.render import on_terminal
from dpg_fast.simulate.compare import Comparison, SystemFigures
from dpg_fast.util.words import counted

_HEAD = (
    "system",
    "conversations",
    "words a turn",
    "terms per 100 words",
    "different terms a conversation",
    "different terms",
    "agrees",
    "contradicts",
    "repetition",
    "echo",
)
_CAPTION = (
    "Brackets: 95% bootstrap interval over conversations. Agrees, contradicts: share of turns against the turn before; "
    "repetition: of a turn's 4-grams; echo: share of a turn's trigrams that the same speaker had said before"
)


def _row(name: str, f: SystemFigures) -> list[str]:
    return [
        name,
        str(f.conversations),
        bounds(f.words, "{:.1f}"),
        bounds(f.term_count),
        bounds(f.term_range, "{:.1f}"),
        str(f.distinct) if f.term_count is not None else MISSING,
        *(bounds(share, "{:.0%}") for share in (f.agreement, f.disagreement, f.repetition, f.echo)),
    ]


def comparison_table(found: Comparison) -> Table:
    """A row for each system."""
    return Table(_HEAD, [_row(name, figures) for name, figures in found.systems.items()], _CAPTION)


def comparison_tables(found: Comparison) -> list[RichTable]:
    """For the terminal."""
    return [on_terminal(comparison_table(found), "Conversations compared")]


def write_comparison_page(found: Comparison, directory: Path) -> Path:
    """Write the report and its picture; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    kinds = {"agrees": "agreement", "contradicts": "disagreement", "repetition": "repetition", "echo": "echo"}
    shown = [
        (name, {kind: value for kind, field in kinds.items() if (value := getattr(figures, field)) is not None})
        for name, figures in found.systems.items()
    ]
    charts.intervals(shown, directory / "shares.png", label="share", limits=(0.0, 1.0))
    rows = [
        [name, ", ".join(f"{term} {count}" for term, count in figures.terms.items()) or "none"]
        for name, figures in found.systems.items()
    ]
    terms = Text(f"{counted(len(found.terms), 'term')} from {found.terms_from}: {', '.join(found.terms[:60])}")
    unjudged = sum(figures.unjudged for figures in found.systems.values())
    page = Page(
        title="Conversations compared",
        subtitle=", ".join(found.systems),
        lead="Figures are counts and a judgement of agreement; they do not say which conversation is better."
        + (f" Of {counted(unjudged, 'turn')} the judge said nothing." if unjudged else ""),
        sections=[
            Section(
                "Figures",
                [
                    comparison_table(found),
                    Text(f"Agreement by {found.agreement_by}."),
                    Picture("shares.png", "Shares of agreement, contradiction and repetition by system"),
                ],
            ),
            Section("Terms", [terms, Table(["system", "most frequent"], rows, left=2)]) if found.terms else None,
            Section("Settings", [Settings({"software": software()})]),
        ],
        data=found.to_dict(),
    )
    return write_report(page, directory)
