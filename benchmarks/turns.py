"""Ways to do one thing, timed in turn in one process: processor time, which other jobs disturb less than the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.machine import machine


def processor_seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Each way's seconds of processor time in each round, the order alternating; one more round before warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            started = time.process_time()
            ways[name]()
            if number:
                times[name].append(time.process_time() - started)
    return times


def print_ratios(title: str, times: Mapping[str, list[float]], baseline: str) -> None:
    """Print the machine, median seconds, and the ratio to the baseline round by round: median [lowest, highest]."""
    print(title)
    print(", ".join(f"{key} {value}" for key, value in machine("cpu").items()))
    width = max(map(len, times))
    for name, seconds in times.items():
        ratios = [own / first for own, first in zip(seconds, times[baseline], strict=True)]
        spread = f"{statistics.median(ratios):.3f} of {baseline} [{min(ratios):.3f}, {max(ratios):.3f}]"
        print(f"{name:{width}} {statistics.median(seconds):7.2f} s  {spread}")
