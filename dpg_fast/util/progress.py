"""Progress of long work: what a function calls, and bars with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINES_EVERY = 30.0

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""
Count = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """A bar for each kind of work: call what is given with its name, how much is done, and of how much.

    Where the output is not a terminal, a line every :data:`LINES_EVERY` seconds instead.
    """
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


class _Lines:
    """Prints what a bar would show, now and then, and when something is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, tuple[float, int]] = {}
        self.printed = -LINES_EVERY

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, before = self.started.setdefault(what, (now, done))
        if done < total and now - self.printed < LINES_EVERY:
            return
        self.printed = now
        left = (total - done) * (now - start) / (done - before) if done > before else None
        rest = "" if left is None or done == total else f", about {left / 60:.0f} min left"
        self.console.print(f"{what}: {done}/{total}, {now - start:.0f} s{rest}", highlight=False)
