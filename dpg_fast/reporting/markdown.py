"""A report's page as Markdown, beside the HTML file that is made of the same page.

Texts are shown as they are: what Markdown or HTML would read as its own is escaped, for models write some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpg_fast.reporting.page import Block, Cards, Page, Picture, Quotes, Settings, Table, Text
from dpg_fast.util.files import write_text

MARKDOWN = "report.md"
_SIGNS = "\\`*<>#|"  # the backslash first, for the others get one


def write_markdown(page: Page, directory: Path) -> Path:
    """Write ``report.md``; its path. Pictures are linked, not embedded."""
    parts = [f"# {one_line(page.title)}", one_line(page.subtitle), one_line(page.lead)]
    for section in page.sections:
        parts += [f"## {one_line(section.title)}", *(text for block in section.blocks if (text := _block(block)))]
    write_text(directory / MARKDOWN, "\n\n".join(part for part in parts if part) + "\n")
    return directory / MARKDOWN


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"**{one_line(block.text)}**" if block.strong else one_line(block.text)
    if isinstance(block, Cards):
        return "\n".join(f"- {one_line(f'{what}: {value} ({meaning})')}" for what, value, meaning in block.cards)
    if isinstance(block, Table):
        table = markdown_table(block.head, block.rows, block.left)
        return f"{table}\n\n{one_line(block.caption)}" if block.caption else table
    if isinstance(block, Picture):
        picture = f"![{one_line(block.alt)}]({block.file})"
        return f"{picture}\n\n{one_line(block.caption)}" if block.caption else picture
    if isinstance(block, Quotes):
        return "\n".join(
            f"- {one_line(q.who)}{f' ({one_line(q.note)})' if q.note else ''}"
            f"{f', asked: {one_line(q.asked)}' if q.asked else ''}\n  > {one_line(q.text)}"
            for q in block.quotes
        )
    assert isinstance(block, Settings)
    return "\n".join(f"- {one_line(name)}: {one_line(value)}" for name, value in block.rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose columns but the first ``left`` are numbers."""
    lines = [_row(head), "|" + "---|" * left + "---:|" * (len(head) - left)]
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(one_line, cells)) + " |"


def one_line(text: str, more: str = "") -> str:
    """On one line; what Markdown or HTML would read as its own is escaped, and the signs in ``more``."""
    line = " ".join(text.split())
    for sign in _SIGNS + more:
        line = line.replace(sign, f"\\{sign}")
    return line
