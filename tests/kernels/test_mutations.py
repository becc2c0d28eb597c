"""Every op with wrong and odd arguments: mutations.py says what is tried and what must come of it."""

from __future__ import annotations

import faulthandler
import os
import signal
import time

import pytest

from dpg_fast.kernels import _cpu
from tests.kernels import mutations
from tests.support.corpus import read_cases

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
compiled = pytest.mark.skipif(_cpu.C is None, reason="compiled module missing")


def swept(seed: int, count: int) -> None:
    report = mutations.sweep(seed, count)
    print(report)
    assert sum(report.counts.values()) == count
    assert report.counts["equal"] > count / 4, "too few calls were answered to mean much"
    assert not report.failures, report


@needs_fork
@compiled
def test_some_mutations() -> None:
    swept(1, 250)


@needs_fork
@compiled
def test_what_fuzzing_keeps() -> None:
    report = mutations.run_all(read_cases())
    assert sum(report.counts.values()) > 10 and not report.failures, report


@needs_fork
@compiled
@pytest.mark.slow
def test_all_mutations() -> None:
    swept(0, len(mutations.every_case(0)))


@needs_fork
def test_a_crash_and_a_hang_name_their_case() -> None:
    cases = mutations.every_case(5)

    def run(case: mutations.Case) -> str:
        faulthandler.disable()
        if case == cases[3]:
            os.kill(os.getpid(), signal.SIGABRT)
        if case == cases[7]:
            time.sleep(60)
        return "FAILED: off by 1" if case == cases[8] else "equal"

    report = mutations.sweep(5, 10, seconds=0.5, run=run)
    assert report.counts == {"equal": 7, "FAILED": 3}
    assert [line.split("Case")[0] for line in report.failures] == ["case 3 ", "case 7 ", "case 8 "]
    assert "SIGABRT" in report.failures[0] and "SIGKILL" in report.failures[1]


def test_the_comparison_sees_a_wrong_value() -> None:
    case = next(c for c in mutations.every_case(0) if (c.op, c.argument, c.mutation) == ("lora_shrink", "x", "valid"))
    assert mutations.run(case) == "equal"
    result, _, _ = mutations.outcome(case)
    wrong = result + result.abs().max()
    assert not mutations.difference(result, result.clone(), case.dtype, False)
    assert "off by" in mutations.difference(wrong, result, case.dtype, False)
    wrong.fill_(float("nan"))
    assert mutations.difference(wrong, result, case.dtype, True)
    assert "finite" in mutations.difference(result, wrong, case.dtype, False)
