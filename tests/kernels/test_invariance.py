"""What holds bit for bit on the compiled kernels: base rows, batch composition, order, threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpg_fast.kernels import (
    GatedLora,
    Steering,
    isas,
    lora_add,
    lora_add_reference,
    lora_expand_add,
    lora_shrink,
    steered_gated_act,
)
from dpg_fast.kernels import _cpu as cpu
from dpg_fast.kernels.testing import poisoned_empty, relative_error
from tests.kernels import cases
from tests.kernels.ways import COMPILED, using

pytestmark = pytest.mark.skipif(not isas(), reason="the compiled module is not built")


@pytest.fixture(params=COMPILED, autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


@pytest.fixture
def always_threaded() -> Iterator[None]:
    before = cpu.C.parallel_threshold()
    cpu.C.set_parallel_threshold(0)
    yield
    cpu.C.set_parallel_threshold(before)


def run_all(c: cases.Lora, gated: tuple[Tensor, Tensor, GatedLora, Steering]) -> list[Tensor]:
    """Every op on these tokens: results with the token as first dimension."""
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    gate, up, lora, steering = gated
    h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    return [u, y, h]


def take(
    rows: Tensor, c: cases.Lora, gated: tuple[Tensor, Tensor, GatedLora, Steering]
) -> tuple[cases.Lora, tuple[Tensor, Tensor, GatedLora, Steering]]:
    gate, up, lora, steering = gated
    assert lora.u_up is not None
    lora = lora._replace(u_gate=lora.u_gate[rows], u_up=lora.u_up[rows], slots=lora.slots[rows])
    part = cases.Lora(c.y[rows], c.x[rows], c.A, c.B, c.codes_a, c.codes_b, c.slots[rows], c.scale)
    return part, (gate[rows], up[rows], lora, steering._replace(slots=steering.slots[rows]))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_token_results_depend_on_nothing_else(dtype: torch.dtype) -> None:
    c = cases.lora_case(33, 6, 8, 193, 130, dtype)
    gated = cases.gated_case(33, 6, 8, 193, dtype)
    whole = run_all(c, gated)
    g = cases.generator(1)
    subsets = [torch.randperm(33, generator=g), torch.arange(33).flip(0)]
    subsets += [torch.randperm(33, generator=g)[:n] for n in (1, 2, 3, 5, 7, 8, 9, 20)]
    for rows in subsets:
        for full, part in zip(whole, run_all(*take(rows, c, gated)), strict=True):
            assert torch.equal(full[rows], part)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_threads_and_repetition(dtype: torch.dtype, always_threaded: None) -> None:
    c = cases.lora_case(33, 6, 8, 193, 130, dtype)
    gated = cases.gated_case(33, 6, 8, 193, dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = run_all(c, gated)
        for n in (2, 3, 5):
            torch.set_num_threads(n)
            for _ in range(3):
                assert all(torch.equal(a, b) for a, b in zip(single, run_all(c, gated), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_base_tokens_are_untouched(dtype: torch.dtype) -> None:
    c = cases.lora_case(9, 6, 8, 63, 63, dtype)
    c.y[1, 0], c.y[1, 1] = float("nan"), -0.0
    wide = torch.full((9, 90), 7.0, dtype=dtype)
    wide[:, 10:73] = c.y
    y = wide[:, 10:73]
    before = wide.clone()
    lora_add(y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    base = (c.slots < 0).nonzero().flatten()
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(wide.view(bits)[base], before.view(bits)[base])
    assert torch.equal(wide[:, :10], before[:, :10]) and torch.equal(wide[:, 73:], before[:, 73:])
    assert not torch.equal(wide[0], before[0])

    gate, up, lora, steering = cases.gated_case(9, 6, 8, 63, dtype)
    plain = steered_gated_act(gate, up, "gelu")
    nobody = torch.full((9,), -1, dtype=torch.int32)
    h = steered_gated_act(gate, up, "gelu", lora=lora._replace(slots=nobody), steering=steering._replace(slots=nobody))
    assert torch.equal(h, plain)
    assert torch.equal(lora_shrink(c.x, c.A, c.codes_a, nobody), torch.zeros(9, 8))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_ride_along_expands_equal_separate_ones(dtype: torch.dtype) -> None:
    gate, up, lora, steering = cases.gated_case(15, 6, 8, 193, dtype)
    assert lora.u_up is not None
    fused = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    g, u = gate.contiguous(), up.contiguous()
    lora_expand_add(g, lora.u_gate, lora.B_gate, lora.codes, lora.slots, lora.scale)
    lora_expand_add(u, lora.u_up, lora.B_up, lora.codes, lora.slots, lora.scale)
    assert torch.equal(fused, steered_gated_act(g, u, "silu", steering=steering))
    packed = lora._replace(u_gate=torch.stack([lora.u_gate, lora.u_up]), u_up=None)
    assert torch.equal(fused, steered_gated_act(gate, up, "silu", lora=packed, steering=steering))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_strided_and_batched_arguments(dtype: torch.dtype) -> None:
    c = cases.lora_case(12, 6, 8, 63, 65, dtype)
    expected = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    x = torch.zeros(12, 100, dtype=dtype)
    x[:, 3:66] = c.x
    bank = torch.zeros(6, 8, 200, dtype=dtype)
    bank[:, :, 70:135] = c.B
    y = torch.zeros(3, 4, 130, dtype=dtype)[..., 65:]
    y.copy_(c.y.view(3, 4, 65))
    out = lora_add(y, x[:, 3:66].unflatten(0, (3, 4)), c.A, bank[:, :, 70:135], c.codes_a, c.codes_b, c.slots, 0.7)
    assert out is y and torch.equal(out.reshape(12, 65), expected)

    gate, up, lora, steering = cases.gated_case(12, 6, 8, 63, dtype)
    flat = steered_gated_act(gate.contiguous(), up.contiguous(), "silu", lora=lora, steering=steering)
    assert torch.equal(steered_gated_act(gate, up, "silu", lora=lora, steering=steering), flat)
    batched = steered_gated_act(
        gate.unflatten(0, (4, 3)), up.unflatten(0, (4, 3)), "silu", lora=lora, steering=steering
    )
    assert batched.shape == (4, 3, 63) and torch.equal(batched.flatten(0, 1), flat)


def test_no_output_is_left_unwritten(always_threaded: None) -> None:
    for size in cases.SIZES:
        c = cases.lora_case(*size, torch.float32)
        gated = cases.gated_case(size[0], *size[1:3], size[4], torch.float32)
        clean = run_all(c, gated)
        with poisoned_empty():
            poisoned = run_all(c, gated)
        assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))


def test_long_inputs_are_worked_through_in_pieces(way: str) -> None:
    """More tokens than the scratch holds: the pieces join without a seam. On the emulated GPU there is none: several tiles."""
    tokens = 100 if way == "cuda" else 1500
    c = cases.lora_case(tokens, 64, 16, 40, 24, torch.float32)
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    rows = torch.tensor([0, 1, 2, 15, 16, 63, 64, 99, 503, 504, 511, 512, 513, 1024, 1499])
    rows = rows[rows < tokens]
    part = cases.Lora(c.y[rows], c.x[rows], c.A, c.B, c.codes_a, c.codes_b, c.slots[rows], c.scale)
    assert torch.equal(u[rows], lora_shrink(part.x, c.A, c.codes_a, part.slots))
    got = lora_add(part.y.clone(), part.x, c.A, c.B, c.codes_a, c.codes_b, part.slots, c.scale)
    assert torch.equal(y[rows], got)


@given(
    tokens=st.integers(0, 20),
    K=st.integers(1, 9),
    rank=st.integers(1, 9),
    d_in=st.integers(1, 70),
    d_out=st.integers(1, 70),
    dtype=st.sampled_from(cases.DTYPES),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_size_agrees_with_the_reference(
    tokens: int, K: int, rank: int, d_in: int, d_out: int, dtype: torch.dtype, seed: int
) -> None:
    c = cases.lora_case(tokens, K, rank, d_in, d_out, dtype, seed)
    d = c.to(torch.float64)
    for name in COMPILED:
        with using(name):
            y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
        exact = lora_add_reference(d.y.clone(), d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)
        # One rounding of the result, plus the float32 arithmetic before it.
        assert relative_error(y, exact) < torch.finfo(dtype).eps / 2 + 2e-6
