"""Progress of long work: what a function calls, and bars with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINES_EVERY = 30.0

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""
NotedProgress = Callable[[str, int, int, str], None]
"""A `Progress` that also gets a note, such as a rate or a cost."""
Count = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def count_of(progress: Progress | None, what: str) -> Count:
    """The part of ``progress`` that is about one kind of work."""
    return lambda done, total: None if progress is None else progress(what, done, total)


class Bars:
    """A `Progress` that shows a bar for each kind of work; where the output is not a terminal, a line now and then.

    Made by :func:`progress_bars`.
    """

    def __init__(self, console: Console, shown: RichProgress | None) -> None:
        self._console, self._shown = console, shown
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._printed = -LINES_EVERY

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show how far it is.

        Args:
            what: is being done.
            done, total: how much of it is done, and of how much.
            note: shown behind the bar, such as a cost.
        """
        if self._shown is None:
            self._print(what, done, total, note)
            return
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(escape(what), total=total, note="")
        self._shown.update(self._tasks[what], completed=done, total=total, note=escape(note))

    def count(self, what: str) -> Count:
        """The bar of one kind of work."""
        return count_of(self, what)

    def _print(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        start, before = self._started.setdefault(what, (now, done))
        if done < total and now - self._printed < LINES_EVERY:
            return
        self._printed = now
        left = (total - done) * (now - start) / (done - before) if done > before else None
        rest = "" if left is None or done == total else f", about {left / 60:.0f} min left"
        line = f"{what}: {done}/{total}, {now - start:.0f} s{rest}{f', {note}' if note else ''}"
        self._console.print(line, highlight=False, markup=False)


@contextmanager
def progress_bars(console: Console) -> Iterator[Bars]:
    """Bars on a terminal, while the block runs; otherwise a line every :data:`LINES_EVERY` seconds."""
    if not console.is_terminal:
        yield Bars(console, None)
        return
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=console) as shown:
        yield Bars(console, shown)
