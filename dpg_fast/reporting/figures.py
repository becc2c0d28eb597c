"""matplotlib figures without a display, written as PNG files. matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpg_fast.util.files import write_atomically

#: one colour for each trait in OCEAN order (Okabe and Ito's palette, told apart by colour-blind readers)
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00")
DPI = 150


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    """A figure without any display, and its panels row by row."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'dpg-fast[plots]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(panels.flatten())


def save_figure(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))
