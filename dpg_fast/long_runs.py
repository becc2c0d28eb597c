"""What long commands share: progress with the time left, and names for what their results depend on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dpg_fast.assess.calibrating.sweep import Progress as Report
from dpg_fast.model import artifact
from dpg_fast.personality import Trait

LINES_EVERY = 30.0


@contextmanager
def progress_bars(console: Console) -> Iterator[Report]:
    """A bar for each kind of work: call what is given with its name, how much is done, and of how much.

    Where the output is no terminal, a line every :data:`LINES_EVERY` seconds instead.
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
    with Progress(*columns, console=console) as bars:
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


def adapter_identity(directory: Path) -> dict[str, Any]:
    """Digests of an adapter's parts, JSON-ready; the calibration has one of its own, for it may change alone."""
    names = (artifact.HYPERNET, artifact.NEURONS)
    files = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()[:16]
        for name in names
        if (directory / name).is_file()
    }
    return {"adapter": files, "base": artifact.read_config(directory)["base_model"]["name"]}


def calibration_identity(directory: Path) -> dict[str, Any]:
    """A digest of an adapter's calibration, JSON-ready."""
    file = directory / artifact.CALIBRATION
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
    return {"calibration": digest}


def base_identity(model: Any) -> str:
    """A digest of a base model's shape, sampled weights and dtype."""
    described = artifact.describe_base(model)["fingerprint"] | {"dtype": str(getattr(model, "dtype", ""))}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def parse_traits(letters: str | Sequence[str]) -> list[Trait]:
    """Traits of their letters, each once, in OCEAN order.

    Raises:
        ValueError: another letter, or none.
    """
    wanted = {Trait.parse(letter) for letter in letters}
    if not wanted:
        raise ValueError("name some of the traits O, C, E, A, N")
    return [trait for trait in Trait if trait in wanted]
