"""The slots of an engine: every token gets its request's personality, whatever comes and goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpg_fast.model.slots import SlotValues
from dpg_fast.personality.row import Row
from dpg_fast.serving.admission import read_request
from dpg_fast.serving.slots import SlotPool, StepPart

REQUESTS, TOKENS = 4, 24
NUMBERS = [float(number) for number in range(9)]
ROWS: list[Row | None] = [None, *(read_request([number / 2 - 2, 0, 0, 0, 0]) for number in NUMBERS)]


def _fill(rows: list[Row]) -> SlotValues:
    """Contents from which the row can be told."""
    first = torch.tensor([[row.scores.scores[0]] for row in rows if row.scores is not None])
    return SlotValues(first + 10, first + 20, first.expand(-1, 10) + 30)


def _pool(fill: Any = _fill) -> SlotPool:
    return SlotPool(fill, 1, REQUESTS, TOKENS, torch.device("cpu"))


parts = st.builds(
    lambda row, tokens, share: StepPart(row, tokens, int(tokens * share)),
    st.sampled_from(ROWS),
    st.integers(1, TOKENS // REQUESTS),
    st.sampled_from([0.0, 0.5, 1.0]),
)
steps = st.lists(st.lists(parts, min_size=1, max_size=REQUESTS), min_size=1, max_size=30)


@given(steps)
def test_each_token_has_its_requests_personality(sequence: list[list[StepPart]]) -> None:
    pool = _pool()
    values, slots, steered = pool.values, pool.slots, pool.steered
    for step in sequence:
        pool.place(step)
        assert pool.values is values and pool.slots is slots and pool.steered is steered
        token = 0
        for part in step:
            for number in range(part.tokens):
                slot, steer = int(slots[token]), int(steered[token])
                if part.row is None:
                    assert slot == steer == -1
                else:
                    assert part.row.scores is not None
                    score = part.row.scores.scores[0]
                    assert float(values.codes_a[slot, 0]) == score + 10 and float(values.codes_b[slot, 0]) == score + 20
                    assert steer == (-1 if number < part.unsteered else slot)
                    assert float(values.strengths[slot, 3]) == score + 30
                token += 1
        assert bool((slots[token:] == -1).all()) and bool((steered[token:] == -1).all())


def test_a_thousand_personalities_reuse_the_slots_and_known_ones_are_not_computed_again() -> None:
    asked: list[int] = []

    def fill(rows: list[Row]) -> SlotValues:
        asked.append(len(rows))
        return _fill(rows)

    pool = _pool(fill)
    rows = [read_request([number / 200 - 2.5, 0, 0, 0, 0]) for number in range(1000)]
    for row in rows:
        pool.place([StepPart(row, 2), StepPart(None, 1)])
        pool.place([StepPart(row, 1)])
    assert asked == [1] * 1000 and pool.values.strengths.shape[0] == REQUESTS


def test_more_than_fits_is_an_error_and_not_a_wrong_personality() -> None:
    pool = _pool()
    with pytest.raises(RuntimeError, match="as many slots"):
        pool.place([StepPart(row, 1) for row in ROWS[1:6]])
    with pytest.raises(RuntimeError, match="the buffers hold 24"):
        pool.place([StepPart(ROWS[1], TOKENS + 1)])
    pool.place([StepPart(ROWS[1], 1)])
    assert float(pool.values.codes_a[int(pool.slots[0]), 0]) == ROWS[1].scores.scores[0] + 10  # type: ignore[union-attr]
