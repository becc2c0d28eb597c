"""Limits, effect sizes and overlap of the selection, against choices made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpg_fast.neurons import PoleNeurons, PoleStatistics, SelectionRule, select_all, select_neurons
from dpg_fast.neurons.selection import effect_sizes, resolve_overlap
from dpg_fast.neurons.summary import jaccard, overlap_counts
from dpg_fast.personality.scores import Pole

# Three layers of four neurons; of 100 tokens each, the opposite pole never fires, so diff = prob = these / 100:
FIRING = [[9, 50, 30, 0], [40, 41, 42, 43], [1, 20, 20, 80]]


def statistics(positive: list[list[int]], p95: float = 1.0, **means: Any) -> PoleStatistics:
    table = torch.tensor(positive)
    return PoleStatistics(100, table, torch.full(table.shape, p95), **means)


POLE, OTHER = statistics(FIRING), statistics([[0] * 4] * 3)


def choose(**rule: Any) -> list[tuple[int, int]]:
    found = select_neurons(POLE, OTHER, SelectionRule(**rule))
    return list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))


ORDER = [(2, 3), (0, 1), (1, 3), (1, 2), (1, 1), (1, 0), (0, 2), (2, 1), (2, 2), (0, 0), (2, 0), (0, 3)]


def test_global_order_with_ties_by_layer_then_neuron() -> None:
    assert choose(minimum=12) == ORDER
    assert choose(minimum=0, threshold=0.2) == ORDER[:9]  # the threshold itself is in
    assert choose(minimum=10, threshold=0.2) == ORDER[:10]
    assert choose(minimum=8, threshold=0.9) == ORDER[:8]  # of the two at 0.20 the earlier neuron


def test_layers_and_numbers() -> None:
    assert choose(minimum=0, threshold=0.1, top_k=3) == ORDER[:3]
    assert choose(minimum=0, threshold=0.1, layers=(1, 1)) == [(1, 3), (1, 2), (1, 1), (1, 0)]
    assert choose(minimum=0, threshold=0.1, max_per_layer=1) == [(2, 3), (0, 1), (1, 3)]
    assert choose(minimum=0, threshold=0.1, max_per_layer=0.5) == [(2, 3), (0, 1), (1, 3), (1, 2), (0, 2), (2, 1)]
    # the floor counts what the limit per layer leaves
    assert choose(minimum=4, threshold=0.9, max_per_layer=1) == [(2, 3), (0, 1), (1, 3)]
    # two of each layer whatever the threshold
    assert choose(minimum=0, threshold=0.45, min_per_layer=2) == [(2, 3), (0, 1), (1, 3), (1, 2), (0, 2), (2, 1)]
    # a layer's minimum goes before the others when top_k cuts
    assert choose(minimum=0, threshold=0.1, min_per_layer=1, top_k=4) == [(2, 3), (0, 1), (1, 3), (1, 2)]
    # never a neuron that does not speak for the pole: (0, 3) has difference 0
    assert (0, 3) not in choose(minimum=0, threshold=0.9, min_per_layer=4)
    assert len(choose(minimum=0, threshold=0.9, min_per_layer=4)) == 11


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"criterion": "size"}, "probability, effect"),
        ({"overlap": "share"}, "keep, strongest, drop"),
        ({"top_k": 0}, "top_k"),
        ({"quantile": 1.0}, "quantile"),
        ({"min_per_layer": 1.5}, "share from 0.0 to 1.0"),
        ({"layers": (3, 2)}, "a first and a last"),
        ({"layers": (1, 3)}, "layers 0 to 2"),
        ({"min_per_layer": 3, "max_per_layer": 2}, "larger than max_per_layer"),
        ({"min_per_layer": 2, "top_k": 5}, "asks for 6 neurons, top_k allows 5"),
        ({"criterion": "effect"}, "no mean activations"),
    ],
)
def test_contradictions_are_named(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(**rule)


@settings(max_examples=60, deadline=None)
@given(
    firing=st.lists(st.lists(st.integers(0, 20), min_size=5, max_size=5), min_size=1, max_size=4),
    minimum=st.integers(0, 12),
    threshold=st.floats(-0.1, 0.3),
    top_k=st.none() | st.integers(1, 20),
    cap=st.none() | st.integers(1, 5),
)
def test_limits_hold_for_any_statistics(
    firing: list[list[int]], minimum: int, threshold: float, top_k: int | None, cap: int | None
) -> None:
    rule = SelectionRule(minimum=minimum, threshold=threshold, top_k=top_k, max_per_layer=cap)
    found = select_neurons(statistics(firing), statistics([[7] * 5] * len(firing)), rule)
    keys = list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert found.diff.tolist() == sorted(found.diff.tolist(), reverse=True)
    per_layer = torch.bincount(found.layer.long(), minlength=1)
    assert cap is None or int(per_layer.max()) <= cap
    assert top_k is None or len(found) <= top_k
    available = sum(min(len(row), cap or 5) for row in firing)
    assert len(found) >= min(minimum, available, top_k or available)
    left = [n for n in range(len(firing) * 5) if (n // 5, n % 5) not in keys]
    if cap is None and top_k is None:  # nobody better was left out
        best = max((firing[n // 5][n % 5] / 100 - 0.07 for n in left), default=-math.inf)
        assert not len(found) or best <= float(found.diff.min()) + 1e-6


def test_effect_sizes_by_hand() -> None:
    # answers' means of neuron 0: 1, 3 against 0, 0; of neuron 1: 2, 2 against 1, 1; of neuron 2: 1, 2, 1, 2 alike
    own = PoleStatistics(
        100,
        torch.tensor([[90, 80, 50, 5]]),
        torch.tensor([[0.5, 0.4, 0.3, -math.inf]]),
        2,
        torch.tensor([[2.0, 2.0, 1.5, 4.0]]),
        torch.tensor([[2.0, 0.0, 0.5, 0.5]]),
    )
    other = PoleStatistics(
        100,
        torch.tensor([[10, 75, 50, 5]]),
        torch.zeros(1, 4),
        2,
        torch.tensor([[0.0, 1.0, 1.5, 1.0]]),
        torch.tensor([[0.0, 0.0, 0.5, 0.5]]),
    )
    shift, d = effect_sizes(own, other)
    assert shift.tolist() == [[2.0, 1.0, 0.0, 3.0]]
    # pooled variances 1, 0, 0.5, 0.5; without any spread d counts as 0
    assert d[0].tolist() == pytest.approx([2.0, 0.0, 0.0, 3.0 / math.sqrt(0.5)])

    def chosen(**rule: Any) -> list[int]:
        return select_neurons(own, other, SelectionRule(criterion="effect", **rule)).neuron.tolist()

    # sizes 0, 1, 2, 3: the 60% quantile is 1.8
    assert chosen(quantile=0.6, cohens_d=0.8, finite_only=False) == [0, 3]
    assert chosen(quantile=0.6, cohens_d=0.8) == [0]
    assert chosen(quantile=0.7, cohens_d=0.8, finite_only=False) == [3]
    assert chosen(quantile=0.6, cohens_d=2.5, finite_only=False) == [3]
    assert chosen(quantile=0.6, cohens_d=0.8, top_k=1, finite_only=False) == [3]  # the larger d, not the larger diff
    single = PoleStatistics(100, own.positive, own.p95, 1, own.mean, own.variance)
    with pytest.raises(ValueError, match="two answers"):
        effect_sizes(single, other)


def listed(*rows: tuple[int, int, float]) -> PoleNeurons:
    layer, neuron, diff = zip(*rows, strict=True)
    ones = torch.ones(len(rows))
    return PoleNeurons(
        torch.tensor(layer, dtype=torch.int32), torch.tensor(neuron, dtype=torch.int32), torch.tensor(diff), ones, ones
    )


SHARED = {
    Pole.parse("E+"): listed((0, 1, 0.5), (1, 1, 0.3), (2, 0, 0.2)),
    Pole.parse("E-"): listed((1, 0, 0.4)),
    Pole.parse("N-"): listed((0, 1, 0.6), (1, 2, 0.3), (2, 0, 0.2)),
}


def test_overlap_matrix_by_hand() -> None:
    counts = overlap_counts(SHARED, 3, 4)
    plus, minus, calm = (Pole.parse(p).index for p in ("E+", "E-", "N-"))
    assert counts.shape == (10, 10)
    assert counts[plus, plus] == 3 and counts[minus, minus] == 1 and counts[calm, calm] == 3
    assert counts[plus, calm] == counts[calm, plus] == 2
    assert int(counts.sum()) == 3 + 1 + 3 + 2 * 2
    shares = jaccard(counts)
    assert shares[plus, calm] == pytest.approx(2 / 4)
    assert shares[plus, plus] == 1 and shares[plus, minus] == 0
    assert shares[0, 0] == 0  # nothing is known of O+


@pytest.mark.parametrize(
    ("how", "plus", "calm"),
    [
        ("keep", [(0, 1), (1, 1), (2, 0)], [(0, 1), (1, 2), (2, 0)]),
        ("strongest", [(1, 1), (2, 0)], [(0, 1), (1, 2)]),  # (2, 0) is equally strong: the earlier pole
        ("drop", [(1, 1)], [(1, 2)]),
    ],
)
def test_overlap_between_traits(how: Any, plus: list[tuple[int, int]], calm: list[tuple[int, int]]) -> None:
    found = resolve_overlap(SHARED, how)
    for name, expected in (("E+", plus), ("E-", [(1, 0)]), ("N-", calm)):
        neurons = found[Pole.parse(name)]
        assert list(zip(neurons.layer.tolist(), neurons.neuron.tolist(), strict=True)) == expected


def test_all_poles_at_once() -> None:
    both = {Pole.parse("C+"): POLE, Pole.parse("C-"): OTHER}
    found = select_all(both, SelectionRule(minimum=0, threshold=0.4))
    assert [len(found[pole]) for pole in both] == [6, 0]
