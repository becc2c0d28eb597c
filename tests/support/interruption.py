"""Interrupt a call at a chosen line of the package, as a KeyboardInterrupt, a MemoryError or a signal's handler may."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any


class Interruption(KeyboardInterrupt):
    """What is raised; nothing catches it by name."""


def lines_of(call: Callable[[], Any], inside: str, at: int | None = None) -> list[tuple[str, int]]:
    """Run ``call`` and count the lines that files below ``inside`` run; at line number ``at`` raise once instead of running it.

    Returns:
        File and number of each line that ran.

    Raises:
        Interruption: at line ``at``, unless the call swallowed it.
    """
    ran: list[tuple[str, int]] = []

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        # a `with` line is traced once more before its block is left, where no signal is ever handled
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith(
            "with "
        ):
            ran.append((frame.f_code.co_filename, frame.f_lineno))
            if len(ran) - 1 == at:
                raise Interruption("{}:{}".format(*ran[-1]))
        return local

    def starts(frame: FrameType, event: str, argument: Any) -> Any:
        return local if inside in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(starts)
    try:
        call()
    finally:
        sys.settrace(before)
    return ran


def places(ran: Sequence[tuple[str, int]], each: int = 2) -> list[int]:
    """Of the lines that ran, the first ``each`` runs and the last run of every line."""
    runs: dict[tuple[str, int], list[int]] = {}
    for number, line in enumerate(ran):
        runs.setdefault(line, []).append(number)
    return sorted({number for numbers in runs.values() for number in (*numbers[:each], numbers[-1])})
