"""A report's page as Markdown, beside the HTML file that is made of the same page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpg_fast.assess.reporting.page import Block, Cards, Page, Picture, Quotes, Settings, Table, Text
from dpg_fast.files import write_text

MARKDOWN = "report.md"


def write_markdown(page: Page, directory: Path) -> Path:
    """Write ``report.md``; its path. Pictures are linked, not embedded."""
    parts = [f"# {page.title}", page.subtitle, page.lead]
    for section in page.sections:
        parts += [f"## {section.title}", *(text for block in section.blocks if (text := _block(block)))]
    write_text(directory / MARKDOWN, "\n\n".join(part for part in parts if part) + "\n")
    return directory / MARKDOWN


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"**{block.text}**" if block.strong else block.text
    if isinstance(block, Cards):
        return "\n".join(f"- {what}: {value} ({meaning})" for what, value, meaning in block.cards)
    if isinstance(block, Table):
        table = markdown_table(block.head, block.rows, block.left)
        return f"{table}\n\n{block.caption}" if block.caption else table
    if isinstance(block, Picture):
        return f"![{block.alt}]({block.file})" + (f"\n\n{block.caption}" if block.caption else "")
    if isinstance(block, Quotes):
        return "\n".join(
            f"- {_line(q.who)}{f' ({_line(q.note)})' if q.note else ''}"
            f"{f', asked: {_line(q.asked)}' if q.asked else ''}\n  > {_line(q.text)}"
            for q in block.quotes
        )
    assert isinstance(block, Settings)
    return "\n".join(f"- {name}: {_line(value)}" for name, value in block.rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose columns but the first ``left`` are numbers."""
    lines = [_row(head), "|" + "---|" * left + "---:|" * (len(head) - left)]
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _line(text: str) -> str:
    return " ".join(text.split())
