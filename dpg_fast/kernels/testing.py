"""Error measures, poisoned memory and paired timings: used by the tests and benchmarks, shipped for users."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Frobenius norm of value - exact over that of exact, in float64.

    Two empty tensors and two zero tensors agree (0); a value that is not finite gives infinity.
    """
    if value.shape != exact.shape:
        raise ValueError(f"shapes differ: {list(value.shape)} and {list(exact.shape)}")
    v, e = value.detach().double(), exact.detach().double()
    if not torch.isfinite(v).all():
        return float("inf")
    difference, size = (v - e).norm().item(), e.norm().item()
    if difference == 0.0:
        return 0.0
    return difference / size if size > 0.0 else float("inf")


def error_ratio(value: Tensor, baseline: Tensor, exact: Tensor) -> float:
    """Error of `value` over that of `baseline`, both against the float64 result `exact`.

    Below 1 the value is the more accurate one. A baseline that happens to be exact (short sums) counts as
    having a quarter of its dtype's epsilon as error, about the norm of one rounding of every element.
    """
    floor = torch.finfo(baseline.dtype).eps / 4
    return relative_error(value, exact) / max(relative_error(baseline, exact), floor)


def assert_as_accurate(value: Tensor, baseline: Tensor, exact: Tensor, limit: float = 1.5) -> None:
    """Raises AssertionError unless the error of `value` is at most `limit` times that of `baseline`."""
    ratio = error_ratio(value, baseline, exact)
    if not ratio <= limit:
        raise AssertionError(
            f"relative error {relative_error(value, exact):.3e} is {ratio:.2f} times that of the baseline "
            f"({relative_error(baseline, exact):.3e}); the limit is {limit}"
        )


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Within the block, torch.empty, empty_like and Tensor.new_empty return NaN (integers: their maximum).

    A kernel that leaves part of its output unwritten, or reads memory before writing it, then shows.
    """

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            t = make(*args, **kwargs)
            if t.is_floating_point() or t.is_complex():
                return t.fill_(float("nan"))
            return t.fill_(True if t.dtype == torch.bool else torch.iinfo(t.dtype).max)

        return made

    owners: list[tuple[Any, str]] = [(torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")]
    saved = [(owner, name, getattr(owner, name)) for owner, name in owners]
    try:
        for owner, name, original in saved:
            setattr(owner, name, poison(original))
        yield
    finally:
        for owner, name, original in saved:
            setattr(owner, name, original)


class Timing(NamedTuple):
    """Times of one function among several measured together."""

    median: float  # seconds per call
    p10: float
    p90: float
    ratio: float  # median over rounds of this function's time over the first function's


def paired_times(
    fns: Mapping[str, Callable[[], Any]], rounds: int = 21, *, min_time: float = 2e-3, warmup: int = 3
) -> dict[str, Timing]:
    """Times functions against each other, in alternating order, so that drift of the machine hits all alike.

    Args:
        fns: name -> function without arguments; the first one is the baseline of the ratios. CUDA work is
            waited for when a GPU is in use.
        rounds: how often each function is measured; odd rounds run in reverse order.
        min_time: seconds that one measurement lasts at least (calls are repeated to fill it).
        warmup: calls of each function before anything is measured.

    Returns:
        name -> Timing, in the order of `fns`. Ratios are formed within a round, then the median is taken.
    """
    if not fns or rounds < 1:
        raise ValueError("paired_times needs at least one function and one round")

    def wait() -> None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def measure(fn: Callable[[], Any], calls: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        wait()
        return (time.perf_counter() - start) / calls

    calls = {}
    for name, fn in fns.items():
        for _ in range(warmup):
            fn()
        calls[name] = max(1, round(min_time / max(measure(fn, 1), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in fns}
    names = list(fns)
    for i in range(rounds):
        for name in names if i % 2 == 0 else reversed(names):
            times[name].append(measure(fns[name], calls[name]))
    first = times[names[0]]
    result = {}
    for name, values in times.items():
        ordered = sorted(values)
        ratio = statistics.median(v / f for v, f in zip(values, first, strict=True))
        low, high = ordered[int(0.1 * (rounds - 1))], ordered[round(0.9 * (rounds - 1))]
        result[name] = Timing(statistics.median(values), low, high, ratio)
    return result
