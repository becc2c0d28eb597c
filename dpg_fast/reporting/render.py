"""Writes a report as HTML, as Markdown and as JSON; shows its tables on a terminal.

Everything that is not a picture is text and is escaped: an answer or a label that looks like HTML is shown, never run.
The HTML file has no scripts, and its content security policy forbids them as well as anything from elsewhere.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table as RichTable

from dpg_fast.reporting.page import Block, Cards, Page, Picture, Quotes, Settings, Table, Text
from dpg_fast.util.files import write_text
from dpg_fast.util.results import json_ready

REPORT, MARKDOWN, DATA = "report.html", "report.md", "report.json"
_TEMPLATE = "report.html.j2"
_SIGNS = "\\`*<>#|"  # the backslash first, for the others get one
_LINK = re.compile(r"\]([(\[])|^(\[)")  # ](address), ][name], and [name]: at the beginning of a line


def write_report(page: Page, directory: Path) -> Path:
    """Write ``report.html``, ``report.md`` and ``report.json``; the page's path.

    The pictures must be in ``directory`` already: HTML embeds them, Markdown links them.

    Raises:
        ImportError: jinja2 is missing.
        FileNotFoundError: a picture is not there.
    """
    pictures = {
        block.file: "data:image/png;base64," + base64.b64encode((directory / block.file).read_bytes()).decode("ascii")
        for section in page.sections
        if section is not None
        for block in section.blocks
        if isinstance(block, Picture)
    }
    html = _template().render(page=page, pictures=pictures)
    data = json.dumps(json_ready(page.data), ensure_ascii=False, indent=1, allow_nan=False)
    write_text(directory / DATA, data + "\n")
    write_text(directory / MARKDOWN, markdown(page))
    write_text(directory / REPORT, html)
    return directory / REPORT


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ImportError("reports need jinja2: pip install 'dpg-fast[assess]'") from None
    text = resources.files("dpg_fast").joinpath("assets", _TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


# ------------------------------------------------------------------ Markdown


def markdown(page: Page) -> str:
    """The whole report as Markdown."""
    parts = [f"# {one_line(page.title)}", one_line(page.subtitle), one_line(page.lead)]
    for section in page.sections:
        if section is not None:
            parts += [f"## {one_line(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block | None) -> str:
    match block:
        case Text():
            return f"**{one_line(block.text)}**" if block.strong else one_line(block.text)
        case Cards():
            return "\n".join(f"- {one_line(f'{what}: {value} ({meaning})')}" for what, value, meaning in block.cards)
        case Table():
            return _captioned(markdown_table(block.head, block.rows, block.left), block.caption)
        case Picture():
            return _captioned(f"![{one_line(block.alt)}]({block.file})", block.caption)
        case Quotes():
            return "\n".join(
                f"- {one_line(q.who)}{f' ({one_line(q.note)})' if q.note else ''}"
                f"{f', asked: {one_line(q.asked)}' if q.asked else ''}\n  > {one_line(q.text)}"
                for q in block.quotes
            )
        case Settings():
            return "\n".join(f"- {one_line(name)}: {one_line(value)}" for name, value in block.rows)
    return ""


def _captioned(text: str, caption: str) -> str:
    return f"{text}\n\n{one_line(caption)}" if caption else text


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose columns but the first ``left`` are numbers."""
    lines = ["| " + " | ".join(map(one_line, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * left + "---:|" * (len(head) - left), *lines[1:]])


def one_line(text: str) -> str:
    """On one line; what Markdown or HTML would read as its own is escaped: a link is shown, and an image is not fetched."""
    line = " ".join(text.split())
    for sign in _SIGNS:
        line = line.replace(sign, f"\\{sign}")
    return _LINK.sub(lambda found: f"]\\{found[1]}" if found[1] else "\\[", line)


# ------------------------------------------------------------------ terminal


class FittingTable(RichTable):
    """A table that is printed in parts, each with the first columns, where it is too wide for the terminal."""

    def __init__(self, table: Table, title: str, caption: str | None) -> None:
        super().__init__(title=escape(title), caption=None if caption is None else escape(caption))
        self._table = table
        for place, name in enumerate(table.head):
            self.add_column(escape(name), justify="left" if place < table.left else "right")
        for row in table.rows:
            self.add_row(*map(escape, row))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = _parts(self._table, options.max_width)
        if len(parts) == 1:
            yield from super().__rich_console__(console, options)
            return
        for number, part in enumerate(parts):
            first, last = number == 0, number == len(parts) - 1
            title = str(self.title) if first else ""
            yield FittingTable(part, "", None)._titled(title, str(self.caption) if last and self.caption else "")

    def _titled(self, title: str, caption: str) -> FittingTable:
        self.title, self.caption = title or None, caption or None
        return self


def _parts(table: Table, width: int) -> list[Table]:
    """The table's columns in tables of at most so many characters, as far as single columns allow it."""
    columns = list(zip(table.head, *table.rows, strict=True))
    sizes = [max(map(cell_len, column)) + 3 for column in columns]
    groups: list[list[int]] = [[]]
    left = sum(sizes[: table.left]) + 1
    for place in range(table.left, len(columns)):
        if groups[-1] and left + sum(sizes[i] for i in (*groups[-1], place)) > width:
            groups.append([])
        groups[-1].append(place)
    kept = [[*range(table.left), *group] for group in groups]
    return [
        Table([table.head[i] for i in own], [[row[i] for i in own] for row in table.rows], left=table.left)
        for own in kept
    ]


def on_terminal(table: Table, title: str = "") -> RichTable:
    """The same table for the terminal; without a title, its caption is that."""
    return FittingTable(table, title or table.caption, table.caption if title else None)
