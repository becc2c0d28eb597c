"""The comparison of systems' conversations as tables on the terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table as RichTable

from dpg_fast.judges.sections import software
from dpg_fast.reporting import charts
from dpg_fast.reporting.page import Page, Picture, Section, Settings, Table, Text, bounds, write_page
from dpg_fast.simulate.compare import Comparison, SystemFigures
from dpg_fast.util.stats import Interval

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
    def share(value: Interval | None) -> str:
        return bounds(value, "{:.0%}")

    return [
        name,
        str(f.conversations),
        bounds(f.words, "{:.1f}"),
        bounds(f.term_count),
        bounds(f.term_range, "{:.1f}"),
        str(f.distinct) if f.term_count is not None else "–",
        share(f.agreement),
        share(f.disagreement),
        share(f.repetition),
        share(f.echo),
    ]


def comparison_tables(found: Comparison) -> list[RichTable]:
    """For the terminal."""
    table = RichTable(title="Conversations compared", caption=_CAPTION)
    for column in _HEAD:
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, figures in found.systems.items():
        table.add_row(*map(escape, _row(name, figures)))
    return [table]


def _rows(found: Comparison) -> Sequence[Sequence[str]]:
    return [_row(name, figures) for name, figures in found.systems.items()]


def write_comparison_page(found: Comparison, directory: Path) -> Path:
    """Write ``report.html``, ``report.json`` and the picture; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kinds = {"agrees": "agreement", "contradicts": "disagreement", "repetition": "repetition", "echo": "echo"}
    shown = {
        name: {
            kind: (value.estimate, value.low, value.high)
            for kind, field in kinds.items()
            if (value := getattr(figures, field)) is not None
        }
        for name, figures in found.systems.items()
    }
    charts.intervals(list(shown.items()), directory / "shares.png", label="share", floor=0.0)
    blocks: list[Table | Picture | Text] = [
        Table(_HEAD, list(_rows(found)), _CAPTION),
        Text(f"Agreement by {found.agreement_by}."),
    ]
    blocks.append(Picture("shares.png", "Shares of agreement, contradiction and repetition by system"))
    sections = [Section("Figures", blocks)]
    if found.terms:
        rows = [
            [name, ", ".join(f"{term} {count}" for term, count in figures.terms.items()) or "none"]
            for name, figures in found.systems.items()
        ]
        sections.append(
            Section(
                "Terms",
                [
                    Text(f"{len(found.terms)} terms from {found.terms_from}: {', '.join(found.terms[:60])}"),
                    Table(["system", "most frequent"], rows, left=2),
                ],
            )
        )
    sections.append(Section("Settings", [Settings({"software": software()})]))
    unjudged = sum(figures.unjudged for figures in found.systems.values())
    page = Page(
        title="Conversations compared",
        subtitle=", ".join(found.systems),
        lead="Figures are counts and a judgement of agreement; they do not say which conversation is better."
        + (f" Of {unjudged} turns the judge said nothing." if unjudged else ""),
        sections=sections,
        data=found.to_dict(),
    )
    return write_page(page, directory)
