"""Lines out of Word and PDF files, as a text file would have them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import open_regular

ENDINGS = (".docx", ".pdf")
_INSTALL = "pip install 'dpg-fast[documents]'"
_BELONGS = (
    "dialogue",
    "parenthetical",
)  # styles of screenplay templates that follow the line before without an empty one
_STYLES = ("scene heading", "action", "character", "transition", *_BELONGS)
_NAME_WORDS = 5  # at most, in a table's first column


def document_lines(path: Path) -> list[str]:
    """The lines of a Word or PDF file.

    Word: one for each paragraph; with the styles of a screenplay, empty lines stand where a screenplay has them; a table of names
    and words becomes ``name: words``. PDF: with spaces and empty lines as on the page.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a document, is encrypted, or holds no text.
        ImportError: python-docx or pypdf is missing.
    """
    lines = list(_word(path) if path.suffix.lower() == ".docx" else _pdf(path))
    if not any(line.strip() for line in lines):
        raise DPGError(f"{path.name} holds no text; pages that are pictures must be put through text recognition first")
    return lines


def _word(path: Path) -> Iterator[str]:
    try:
        import docx
        from docx.table import Table
    except ImportError as error:
        raise ImportError(f"{path.name}: Word files need python-docx: {_INSTALL}") from error
    with open_regular(path) as file:
        try:
            content = list(docx.Document(file).iter_inner_content())
        except Exception as error:  # python-docx lets errors of zip files, XML and its own look-ups through
            raise DPGError(f"{path.name} is not a readable Word file: {' '.join(str(error).split())}") from error
    styles = [_style(block) for block in content]
    screenplay = any(style in _BELONGS for style in styles)
    for block, style in zip(content, styles, strict=True):
        if isinstance(block, Table):
            yield from _table_lines(block)
            continue
        if screenplay and style not in _BELONGS:
            yield ""
        text = block.text.upper() if screenplay and style in ("scene heading", "character") else block.text
        yield from text.split("\n")


def _style(block: Any) -> str:
    name = str(getattr(getattr(block, "style", None), "name", "") or "").casefold()
    return next((style for style in _STYLES if style in name), "")


def _table_lines(table: Any) -> Iterator[str]:
    for row in table.rows:
        cells = [" ".join(cell.text.split()) for cell in row.cells]
        first, rest = cells[0] if cells else "", " ".join(filter(None, cells[1:]))
        if first and rest and len(first.split()) <= _NAME_WORDS:
            yield f"{first.rstrip(':')}: {rest}"
        else:
            yield " ".join(filter(None, cells))


def _pdf(path: Path) -> Iterator[str]:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise ImportError(f"{path.name}: PDF files need pypdf: {_INSTALL}") from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every fault that it repairs
    with open_regular(path) as file:
        try:
            pages = [page.extract_text(extraction_mode="layout") for page in pypdf.PdfReader(file).pages]
        except (
            PyPdfError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
            OSError,
        ) as error:
            raise DPGError(f"{path.name} is not a readable PDF: {' '.join(str(error).split())}") from error
    for page in pages:
        yield from (line.rstrip() for line in page.split("\n"))
        yield ""
