"""Reports: a document of sections, tables, pictures and texts, written as one HTML file, as Markdown and as JSON."""

from dpg_fast.reporting.page import (
    Block,
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    Text,
    bounds,
    number,
)
from dpg_fast.reporting.render import write_report

__all__ = [
    "Block", "Cards", "Page", "Picture", "Quote", "Quotes", "Section", "Settings", "Table", "Text", "bounds", "number",
    "write_report",
]  # fmt: skip
