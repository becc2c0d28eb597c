"""activation_stats: counts and histograms, exactly, on every instruction set and the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpg_fast.kernels import ACTIVATIONS, activation_stats, use_backend, use_isa
from tests.kernels import cases
from tests.kernels.ways import WAYS, using

EDGES = torch.arange(300, dtype=torch.float64).mul(0.01).float()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once per instruction set, on the emulated CUDA kernels, and on the reference backend."""
    with using(request.param):
        yield request.param


def tables(slots: int, width: int, edges: Tensor, dtype: torch.dtype = torch.int32) -> tuple[Tensor, Tensor]:
    return torch.zeros(slots, width, dtype=torch.int64), torch.zeros(slots, width, len(edges) + 1, dtype=dtype)


def counted_one_by_one(v: Tensor, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    """The statistics of values [T, I], in Python."""
    for t, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        for i, x in enumerate(v[t].float().tolist()):
            if x != x:
                continue
            positive[slot, i] += x > 0
            histogram[slot, i, sum(edge < x for edge in edges.tolist())] += 1


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_equals_counting_one_by_one(way: str, act: str, dtype: torch.dtype) -> None:
    g = cases.generator(5)
    gate = cases.randn(g, 9, 37, dtype=dtype) * 2
    slots = cases.random_slots(g, 9, 3)
    edges = EDGES[:60] * 5  # evenly spaced, and few enough for Python
    found = tables(3, 37, edges)
    activation_stats(gate, act, slots, edges, *found)
    x = gate.float()
    v = F.silu(x) if act == "silu" else F.gelu(x, approximate="tanh" if act == "gelu_tanh" else "none")
    expected = tables(3, 37, edges)
    counted_one_by_one(v.to(dtype), slots, edges, *expected)
    # Our exponential and torch's may differ in the last bit, which moves a value across an edge once in a while.
    assert (found[0] != expected[0]).sum() == 0
    assert (found[1] - expected[1]).abs().sum() <= 2
    assert torch.equal(found[1].sum(-1), expected[1].sum(-1))


def test_values_on_edges_fall_below(way: str) -> None:
    """gelu is the identity, to float32, from about 6 on; silu from about 17 on: the bins can be set there exactly."""
    edges = torch.arange(100, 140, dtype=torch.float32)
    values = torch.tensor([99.0, 100.0, 100.00001, 101.0, 120.5, 139.0, 139.00002, 1e30, float("inf"), float("nan")])
    bins = [0, 0, 1, 1, 21, 39, 40, 40, 40]
    for act in ACTIVATIONS:
        positive, histogram = tables(1, 10, edges)
        activation_stats(values[None], act, torch.zeros(1, dtype=torch.int32), edges, positive, histogram)
        if way == "reference" and act != "silu":
            histogram[0, 8] = positive[0, 8] = 0  # torch's vectorised gelu is not defined at infinity
            bins = bins[:8]
        assert [int(h.argmax()) for h in histogram[0, : len(bins)]] == bins
        assert histogram[0, : len(bins)].sum() == len(bins) and positive[0, : len(bins)].sum() == len(bins)
        assert histogram[0, 9].sum() == 0 and positive[0, 9] == 0


def test_adds_to_what_is_there_and_leaves_other_rows(way: str) -> None:
    g = cases.generator(6)
    gate = cases.randn(g, 40, 33)
    first, second = cases.random_slots(g, 40, 4), torch.full((40,), 2, dtype=torch.int32)
    whole, parts = tables(6, 33, EDGES, torch.int64), tables(6, 33, EDGES, torch.int64)
    for slots in (first, second):
        activation_stats(gate, "silu", slots, EDGES, *whole)
        for rows in (slice(0, 1), slice(1, 17), slice(17, 17), slice(17, 40)):
            activation_stats(gate[rows], "silu", slots[rows].contiguous(), EDGES, *parts)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    assert whole[1][4:].sum() == 0 and whole[0][4:].sum() == 0
    assert whole[1].sum() == ((first >= 0).sum() + 40) * 33


@given(tokens=st.integers(0, 20), width=st.integers(1, 70), bins=st.integers(2, 30), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_compiled_equals_reference(tokens: int, width: int, bins: int, seed: int) -> None:
    g = cases.generator(seed)
    merged = cases.randn(g, tokens, 2 * width)
    slots = cases.random_slots(g, tokens, 3)
    edges = torch.arange(bins - 1, dtype=torch.float32) * 0.125 - 0.25
    results = []
    for backend in ("cpu", "reference") if cases.ISAS else ("reference",):
        made = tables(3, width, edges)
        with use_backend(backend):
            activation_stats(merged[:, width:], "silu", slots, edges, *made)
        results.append(made)
    for made in results:
        assert (made[1] - results[0][1]).abs().sum() <= 2 and (made[0] - results[0][0]).abs().sum() == 0


def test_bad_arguments_are_named() -> None:
    gate, slots = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int32)
    positive, histogram = tables(1, 5, EDGES)
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        activation_stats(gate, "relu", slots, EDGES, positive, histogram)
    with pytest.raises(TypeError, match=r"positive must be torch\.int64"):
        activation_stats(gate, "silu", slots, EDGES, positive.int(), histogram)
    with pytest.raises(ValueError, match="histogram must have shape"):
        activation_stats(gate, "silu", slots, EDGES[:7], positive, histogram)
    with pytest.raises(TypeError, match=r"histogram must be torch\.int32 or torch\.int64"):
        activation_stats(gate, "silu", slots, EDGES, positive, histogram.float())
    with pytest.raises(IndexError, match="slots"):
        activation_stats(gate, "silu", slots + 1, EDGES, positive, histogram)
    with pytest.raises(ValueError, match="at least one value"):
        activation_stats(gate, "silu", slots, EDGES[:0], positive, histogram[..., :1].contiguous())


def test_opcheck() -> None:
    gate, slots = torch.randn(4, 9), torch.tensor([0, -1, 1, 0], dtype=torch.int32)
    args = (gate, "silu", slots, EDGES, *tables(2, 9, EDGES))
    torch.library.opcheck(torch.ops.dpg_fast.activation_stats_.default, args)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("isa", cases.ISAS)
def test_every_16_bit_value_falls_as_it_does_among_few(isa: str, act: str, dtype: torch.dtype, wide: bool) -> None:
    """Many values of a 16-bit gate are looked up in a table; few are computed. NaN and infinities are among them."""
    edges = EDGES[7:90]  # the lowest is above zero, so that positive values lie in the lowest bin
    gate = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(256, 256).repeat(8, 1)
    slots = cases.random_slots(cases.generator(8), 2048, 3)
    looked_up = tables(3, 256, edges, torch.int64 if wide else torch.int32)
    computed = tables(3, 256, edges, torch.int64 if wide else torch.int32)
    with use_backend("cpu"), use_isa(isa):
        activation_stats(gate, act, slots, edges, *looked_up)
        for first in range(0, 2048, 256):
            activation_stats(gate[first : first + 256], act, slots[first : first + 256], edges, *computed)
    assert torch.equal(looked_up[0], computed[0]) and torch.equal(looked_up[1], computed[1])
    assert looked_up[0].sum() > 2**16 and looked_up[1].sum() > 2**17
