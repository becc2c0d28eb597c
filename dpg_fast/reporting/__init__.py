"""Reports of assessments: one HTML file that needs nothing else, the pictures beside it, and the numbers as JSON."""

from dpg_fast.reporting.page import Cards, Page, Picture, Quote, Quotes, Section, Settings, Table, Text, write_page

__all__ = ["Cards", "Page", "Picture", "Quote", "Quotes", "Section", "Settings", "Table", "Text", "write_page"]
