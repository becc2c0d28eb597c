"""Lines out of web pages, as a text file would have them: transcripts, and screenplays and plays as sites show them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

ENDINGS = (".html", ".htm", ".xhtml")
_BREAK = "\x00"  # an end of line that is shown, among those of the source, which are not
SKIPPED = ("script", "style", "nav", "header", "footer", "sup", "aside", "form", "noscript", "figure", "head")
_BLOCKS = (
    *("p", "li", "blockquote", "dd", "dt", "pre", "div", "section", "article", "main", "body", "center", "table", "tr"),
    *("h1", "h2", "h3", "h4", "h5", "h6"),
)


def parse_html(text: str, line_end: str = "\n") -> Any:
    """The page without its furniture, with ``line_end`` in the place of each ``<br>``.

    Raises:
        ImportError: beautifulsoup4 or lxml is missing.
    """
    try:
        from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
    except ImportError as error:
        raise ImportError("HTML and EPUB files need beautifulsoup4 and lxml: pip install 'dpg-fast[data]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        soup = BeautifulSoup(text.encode("utf-8", "replace"), "lxml", from_encoding="utf-8")
    for tag in soup(list(SKIPPED)):
        tag.decompose()
    for tag in soup("br"):
        tag.replace_with("\n" if tag.find_parent("pre") else line_end)
    return soup


def page_lines(lines: Sequence[str]) -> list[str]:
    """The lines that a reader of the page sees: preformatted text as it stands, an empty line between blocks.

    A row of a table whose first cell is short is a name and words.

    Raises:
        ImportError: beautifulsoup4 or lxml is missing.
    """
    soup = parse_html("\n".join(lines), _BREAK)
    for row in soup("tr"):
        cells = [" ".join(cell.get_text(" ").split()) for cell in row(["td", "th"], recursive=False)]
        if len(cells) == 2 and all(cells) and len(cells[0].split()) <= 4 and not row("table"):
            row.string = f"{cells[0].rstrip(':')}: {cells[1]}"
    strings = [(text.find_parent(list(_BLOCKS)), text) for text in soup.find_all(string=True)]
    shown: list[str] = []
    for _, group in itertools.groupby(strings, key=lambda pair: id(pair[0])):
        pairs = list(group)
        block, text = (
            pairs[0][0],
            "".join(str(string) for _, string in pairs if type(string).__name__ == "NavigableString"),
        )
        if block is not None and block.name == "pre":
            found = [line.rstrip() for line in text.split("\n")]
        else:
            found = [" ".join(line.split()) for line in text.split(_BREAK)]
        if any(found):
            shown += [*found, ""]
    return shown
