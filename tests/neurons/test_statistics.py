"""Counters, histogram edges, percentile, selection and table against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dpg_fast.neurons import (
    ActivationCounter,
    PoleNeurons,
    PoleStatistics,
    SelectionRule,
    SteeringTable,
    select_neurons,
)
from dpg_fast.neurons.statistics import BINS, percentile_lower_edge
from dpg_fast.personality.scores import Pole

HIGH, LOW = Pole.parse("E+"), Pole.parse("E-")


def statistics(tokens: int, positive: list[list[int]], p95: list[list[float]]) -> PoleStatistics:
    return PoleStatistics(tokens, torch.tensor(positive), torch.tensor(p95))


def gates(values: list[list[float]]) -> torch.Tensor:
    """float64 inputs whose SiLU, rounded to float32, is exactly these values (at least -0.25)."""
    target = torch.tensor(values, dtype=torch.float32).double()
    low, high = torch.full_like(target, -1.0), torch.full_like(target, 100.0)
    for _ in range(200):
        middle = (low + high) / 2
        below = torch.nn.functional.silu(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    assert torch.equal(torch.nn.functional.silu(high).float(), target.float())
    return high


def counted(values: list[list[float]]) -> ActivationCounter:
    counter = ActivationCounter(1, len(values[0]))
    slots = torch.zeros(len(values), dtype=torch.int32)
    counter.count_tokens(slots)
    counter.count(0, gates(values), slots)
    return counter


def test_counts_and_bins_follow_half_open_intervals() -> None:
    # bin 0 is (-inf, 0], bin 1 is (0, 0.01], bin 299 is (2.98, 2.99], bin 300 is (2.99, inf)
    counter = counted([[-0.2, 0.0, 0.005, 0.0100001], [0.01, 2.99, 2.995, 50.0]])
    finished = counter.finish()
    assert finished.tokens == 2
    assert finished.positive.tolist() == [[1, 1, 2, 2]]
    where = [counter.histogram[0, 0, i].nonzero().flatten().tolist() for i in range(4)]
    assert where == [[0, 1], [0, 299], [1, 300], [2, 300]]


def test_slots_keep_poles_apart() -> None:
    counter = ActivationCounter(2, 1, slots=2)
    slots = torch.tensor([1, -1, 0, 1], dtype=torch.int32)
    counter.count_tokens(slots)
    for layer in range(2):
        counter.count(layer, gates([[0.5], [0.7], [-0.1], [-0.1]]), slots)
    assert counter.tokens.tolist() == [1, 2]
    assert counter.positive.tolist() == [[[0], [1]], [[0], [1]]]
    assert counter.finish(1).p95.flatten().tolist() == pytest.approx([0.49, 0.49])


def test_answers_count_once_however_long() -> None:
    counter = ActivationCounter(1, 2, slots=2, means=True)
    slots = torch.tensor([0, 1, 0, 0, -1], dtype=torch.int32)
    counter.count_tokens(torch.zeros(1, dtype=torch.int32))
    counter.count(0, gates([[0.5, 0.5]]), torch.zeros(1, dtype=torch.int32))
    sums = torch.tensor([[[2.0, 0.0], [5.0, 5.0], [9.0, 3.0], [7.0, 7.0], [1.0, 1.0]]])
    counter.count_answers(sums, torch.tensor([2, 1, 3, 0, 1]), slots)  # answers' means: 1, 0 and 3, 1
    found = counter.finish(0)
    assert found.answers == 2
    assert found.mean is not None and found.variance is not None
    assert found.mean.tolist() == [[2.0, 0.5]]
    assert found.variance.tolist() == [[2.0, 0.5]]


def test_percentile_is_the_lower_edge_of_the_first_bin_that_reaches_it() -> None:
    histogram = torch.zeros(3, BINS, dtype=torch.int64)
    histogram[0, 0], histogram[0, 7] = 95, 5  # bin 0 alone reaches 95%
    histogram[1, 0], histogram[1, 7] = 94, 6
    histogram[2, 300] = 10
    assert percentile_lower_edge(histogram, 0.95).tolist() == pytest.approx([-math.inf, 0.06, 2.99])


def test_counter_refuses_nan_and_nothing() -> None:
    counter = ActivationCounter(1, 2)
    with pytest.raises(ValueError, match="decode tokens"):
        counter.finish()
    slots = torch.zeros(1, dtype=torch.int32)
    counter.count_tokens(slots)
    counter.count(0, torch.tensor([[1.0, math.nan]]), slots)
    with pytest.raises(ValueError, match="neuron 1 counted 0 of 1"):
        counter.finish()


def test_selection_keeps_the_floor_then_the_threshold() -> None:
    pole = statistics(100, [[90, 50, 10], [20, 12, 60]], [[0.5, 0.4, 0.3], [0.2, 0.1, 1.0]])
    other = statistics(100, [[10, 30, 10], [15, 5, 59]], [[0.0] * 3] * 2)
    # differences: .80 .20 .00 / .05 .07 .01
    kept = select_neurons(pole, other, SelectionRule(minimum=3, threshold=0.1))
    assert list(zip(kept.layer.tolist(), kept.neuron.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert kept.diff.tolist() == pytest.approx([0.8, 0.2, 0.07])
    assert kept.prob.tolist() == pytest.approx([0.9, 0.5, 0.12])
    assert kept.p95.tolist() == pytest.approx([0.5, 0.4, 0.1])
    assert len(select_neurons(pole, other, SelectionRule(minimum=1, threshold=0.15))) == 2
    assert len(select_neurons(pole, other, SelectionRule(minimum=1, threshold=0.9))) == 1


def test_selection_drops_infinite_percentiles_unless_told() -> None:
    pole = statistics(100, [[4, 50]], [[-math.inf, 0.4]])
    other = statistics(100, [[0, 0]], [[0.0, 0.0]])
    assert select_neurons(pole, other, SelectionRule(minimum=2)).neuron.tolist() == [1]
    assert select_neurons(pole, other, SelectionRule(minimum=2, finite_only=False)).neuron.tolist() == [1, 0]


def neurons(rows: list[tuple[int, int, float, float, float]]) -> PoleNeurons:
    layer, neuron, diff, prob, p95 = zip(*rows, strict=True)
    return PoleNeurons(
        torch.tensor(layer, dtype=torch.int32),
        torch.tensor(neuron, dtype=torch.int32),
        torch.tensor(diff),
        torch.tensor(prob),
        torch.tensor(p95),
    )


def example() -> SteeringTable:
    high = neurons([(0, 1, 0.5, 0.9, 2.0), (1, 0, 0.15, 0.4, 1.0)])
    low = neurons([(0, 2, 0.3, 0.5, 0.7), (2, 3, 0.2, 0.4, 0.6)])
    return SteeringTable({HIGH: high, LOW: low}, num_layers=3, intermediate=4)


def test_table_holds_weighted_additions_and_caps_the_opposite_pole() -> None:
    table = example()
    assert table.add[0, HIGH.index, 1] == pytest.approx(2.0 / (1 + math.exp(-3.5)), rel=1e-6)
    assert table.add[1, HIGH.index, 0] == pytest.approx(0.5)
    assert int((table.add != 0).sum()) == 4
    # steering to E+ caps E-'s neurons, but only in layers where E+ has one: layer 0, not layer 2
    assert table.clamp_mask[0].tolist() == [0, 1 << LOW.index, 1 << HIGH.index, 0]
    assert table.clamp_mask[1].tolist() == [0, 0, 0, 0]
    assert table.clamp_mask[2].tolist() == [0, 0, 0, 0]
    assert [str(pole) for pole in table.poles] == ["E+", "E-"]
    assert table.counts_per_layer()[LOW].tolist() == [1, 0, 1]


def test_table_round_trip(tmp_path: Path) -> None:
    table = example()
    table.save(tmp_path / "neurons.safetensors")
    loaded = SteeringTable.load(tmp_path / "neurons.safetensors")
    assert torch.equal(loaded.add, table.add)
    assert torch.equal(loaded.clamp_mask, table.clamp_mask)
    assert torch.equal(loaded.neurons[HIGH].prob, table.neurons[HIGH].prob)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((3, 0, 0.2, 0.2, 0.1), "layer 3"),
        ((0, 4, 0.2, 0.2, 0.1), "neuron 4"),
        ((0, 0, 0.2, 0.2, -math.inf), "not finite"),
    ],
)
def test_table_refuses_neurons_outside_the_model(row: tuple[int, int, float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringTable({HIGH: neurons([row])}, num_layers=3, intermediate=4)
