"""A report as data, and the HTML file made of it.

Everything that is not a picture is text: the template escapes all of it, so an answer or a label that looks like HTML is shown
and never run. The file has no scripts, and its content security policy forbids them as well as anything from elsewhere.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text

REPORT, DATA = "report.html", "report.json"
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Text:
    """A paragraph. `strong` makes it a note that is not to be missed."""

    kind: ClassVar[str] = "text"
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Cards:
    """Few large figures: (what, value, what it means)."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; all columns but the first `left` are aligned to the right."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    left: int = 1

    def __post_init__(self) -> None:
        wrong = next((row for row in self.rows if len(row) != len(self.head)), None)
        if wrong is not None:
            raise DPGError(f"a row has {len(wrong)} cells under {len(self.head)} headings: {list(wrong)}")


@dataclass(frozen=True)
class Picture:
    """A PNG file in the report's directory.

    Attributes:
        file: its name.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        narrow: half the width of the page is enough.
    """

    kind: ClassVar[str] = "picture"
    file: str
    alt: str
    caption: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class Quote:
    """What somebody said: who, to what question, and how it was judged."""

    who: str
    text: str
    asked: str = ""
    note: str = ""


@dataclass(frozen=True)
class Quotes:
    """Answers, shown as they are."""

    kind: ClassVar[str] = "quotes"
    quotes: Sequence[Quote]


@dataclass(frozen=True)
class Settings:
    """Names and values of a run; nested mappings become dotted names, and `None` is left out."""

    kind: ClassVar[str] = "settings"
    values: Mapping[str, Any]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and texts."""
        return list(_flat(self.values))


Block = Text | Cards | Table | Picture | Quotes | Settings


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its place in the page's address."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: what was measured.
        subtitle: who and how, in a line.
        lead: the result in one or two plain sentences.
        sections: of the page.
        data: everything behind it in JSON types; written beside the page.
    """

    title: str
    subtitle: str
    lead: str
    sections: Sequence[Section]
    data: Mapping[str, Any]


def write_page(page: Page, directory: Path) -> Path:
    """Write ``report.html`` and ``report.json``; the page's path. Its pictures must be in ``directory`` already.

    Raises:
        ImportError: jinja2 is missing.
        FileNotFoundError: a picture is not there.
        ValueError: the data hold something that JSON cannot (nan).
    """
    pictures = {
        block.file: "data:image/png;base64," + base64.b64encode((directory / block.file).read_bytes()).decode("ascii")
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    html = _template().render(page=page, pictures=pictures)
    write_text(directory / DATA, json.dumps(page.data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    write_text(directory / REPORT, html)
    return directory / REPORT


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ImportError("reports need jinja2: pip install 'dpg-fast[assess]'") from None
    text = resources.files("dpg_fast").joinpath("assets", _TEMPLATE).read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        elif value is not None:
            plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found.append((f"{before}{name}", plain))
    return found


# ------------------------------------------------------------------ texts of numbers


def number(value: float | None, form: str = "{:.2f}") -> str:
    """A number as text; "–" for one that is missing or not finite."""
    return "–" if value is None or not math.isfinite(value) else form.format(value)


def bounds(value: Any, form: str = "{:.2f}") -> str:
    """An estimate with its interval: of an `Interval`, or of a mapping with estimate, low and high."""
    parts = [value.get(k) if isinstance(value, Mapping) else getattr(value, k, None) for k in _PARTS]
    if number(parts[0]) == "–":
        return "–"
    return f"{number(parts[0], form)} [{number(parts[1], form)}, {number(parts[2], form)}]"


_PARTS = ("estimate", "low", "high")
