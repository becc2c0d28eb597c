"""The helpers of dpg_fast.kernels.testing."""

from __future__ import annotations

import time

import pytest
import torch

from dpg_fast.kernels.testing import assert_as_accurate, error_ratio, paired_times, poisoned_empty, relative_error


def test_relative_error() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(exact.float(), exact) == 0.0
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)
    assert relative_error(torch.tensor([float("nan"), 4.0]), exact) == float("inf")
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0.0
    assert relative_error(torch.ones(2), torch.zeros(2)) == float("inf")
    with pytest.raises(ValueError, match="shapes differ"):
        relative_error(torch.zeros(2), torch.zeros(3))


def test_error_ratio() -> None:
    exact = torch.linspace(1, 2, 1000, dtype=torch.float64)
    rounded = exact.bfloat16()
    assert error_ratio(rounded, rounded, exact) == pytest.approx(1.0, abs=0.3)
    assert error_ratio(exact.float(), rounded, exact) < 0.01
    assert_as_accurate(exact.float(), rounded, exact)
    with pytest.raises(AssertionError, match="times that of the baseline"):
        assert_as_accurate(rounded, exact.float(), exact)


def test_poisoned_empty() -> None:
    with poisoned_empty():
        assert torch.isnan(torch.empty(3)).all()
        assert torch.isnan(torch.empty_like(torch.ones(2, dtype=torch.bfloat16))).all()
        assert (torch.empty(2, dtype=torch.int16) == 2**15 - 1).all()
        assert torch.isnan(torch.ones(1).new_empty(4)).all()
    assert torch.empty.__name__ == "empty"


def test_paired_times() -> None:
    times = paired_times({"short": lambda: time.sleep(1e-3), "long": lambda: time.sleep(3e-3)}, rounds=3)
    assert list(times) == ["short", "long"] and times["short"].ratio == 1.0
    assert 1.5 < times["long"].ratio < 5 and times["long"].p10 <= times["long"].median <= times["long"].p90
    with pytest.raises(ValueError, match="at least one"):
        paired_times({}, rounds=3)
