"""Errors against float64, relative to the unfused torch computation, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dpg_fast.kernels import (
    ACTIVATIONS,
    lora_add,
    lora_add_reference,
    lora_expand_add,
    lora_expand_add_reference,
    lora_shrink,
    lora_shrink_reference,
    steered_gated_act,
    steered_gated_act_reference,
    use_backend,
)
from dpg_fast.kernels.testing import assert_as_accurate, relative_error
from tests.kernels import cases
from tests.kernels.ways import WAYS, using


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once per instruction set, on the emulated CUDA kernels, and on the reference backend."""
    with using(request.param):
        yield request.param


@pytest.mark.parametrize("size", cases.SIZES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_lora_ops(way: str, dtype: torch.dtype, size: tuple[int, int, int, int, int]) -> None:
    c = cases.lora_case(*size, dtype)
    d = c.to(torch.float64)
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    assert u.dtype == torch.float32
    exact_u = lora_shrink_reference(d.x, d.A, d.codes_a, d.slots)
    assert_as_accurate(u, cases.unfused_shrink(c), exact_u)

    y = lora_expand_add(c.y.clone(), u, c.B, c.codes_b, c.slots, c.scale)
    exact = lora_expand_add_reference(d.y.clone(), u.double(), d.B, d.codes_b, d.slots, d.scale)
    baseline = cases.unfused_add(c.y, u, c.B, c.codes_b, c.slots, c.scale)
    assert_as_accurate(y, baseline, exact)

    fused = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    assert torch.equal(fused, y)
    exact = lora_add_reference(d.y.clone(), d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)
    u_low = cases.unfused_shrink(c)
    assert_as_accurate(fused, cases.unfused_add(c.y, u_low, c.B, c.codes_b, c.slots, c.scale), exact)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shrink_groups(way: str, groups: int) -> None:
    g = cases.generator(3)
    x, A = cases.randn(g, 9, 63), cases.randn(g, groups, 6, 8, 63)
    codes, slots = cases.randn(g, 4, 6), cases.random_slots(g, 9, 4)
    u = lora_shrink(x, A, codes, slots)
    assert u.shape == (groups, 9, 8)
    for i in range(groups):
        single = lora_shrink(x, A[i], codes, slots)
        assert torch.equal(u[i], single) if way != "reference" else torch.allclose(u[i], single, atol=1e-5)


@pytest.mark.parametrize("lora_on", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("steer_on", [False, True], ids=["unsteered", "steered"])
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_steered_gated_act(way: str, dtype: torch.dtype, act: str, lora_on: bool, steer_on: bool) -> None:
    sizes = ((0, 6, 8, 33), (60, 1, 1, 1), (1, 3, 2, 130), (8, 6, 8, 193), (15, 3, 5, 63), (33, 2, 4, 130))
    for tokens, K, rank, width in sizes:
        gate, up, lora, steering = cases.gated_case(tokens, K, rank, width, dtype, seed=tokens)
        use_lora, use_steering = (lora if lora_on else None), (steering if steer_on else None)
        before = gate.clone(), up.clone()
        h = steered_gated_act(gate, up, act, lora=use_lora, steering=use_steering)
        assert torch.equal(gate, before[0]) and torch.equal(up, before[1])
        assert h.shape == gate.shape and h.is_contiguous() and h.dtype == dtype
        exact = steered_gated_act_reference(
            gate.double(),
            up.double(),
            act,
            lora=cases.double_lora(use_lora),
            steering=cases.double_steering(use_steering),
        )
        assert_as_accurate(h, cases.unfused_gated(gate, up, act, use_lora, use_steering), exact)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_roundings_are_those_of_separate_operations(way: str, dtype: torch.dtype) -> None:
    """Nearly every element equals the reference bit for bit; it rounds after the expand, act and steering."""
    gate, up, lora, steering = cases.gated_case(33, 6, 8, 193, dtype)
    h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    with use_backend("reference"):
        expected = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    if dtype == torch.float32:
        assert relative_error(h, expected) < 1e-6
    else:
        assert (h == expected).float().mean() > 0.99


def test_clamp_comes_before_the_addition(way: str) -> None:
    from dpg_fast.kernels import Steering

    gate, up = torch.full((2, 20), 3.0), torch.ones(2, 20)
    mask = torch.zeros(20, dtype=torch.int16)
    mask[::2] = 0b10
    strengths = torch.zeros(1, 10)
    strengths[0, 1] = 0.5
    steering = Steering(mask, torch.full((10, 20), 4.0), strengths, torch.tensor([0, -1], dtype=torch.int32))
    h = steered_gated_act(gate, up, "silu", steering=steering)
    silu = torch.nn.functional.silu(torch.tensor(3.0))
    torch.testing.assert_close(h[0, ::2], torch.full((10,), 2.0))  # capped at 0, then 0.5 * 4
    torch.testing.assert_close(h[0, 1::2], (silu + 2.0).expand(10))
    torch.testing.assert_close(h[1], silu.expand(20))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_over_the_whole_range(way: str, act: str) -> None:
    """Dense sweep: large, tiny, zero, both signs; and infinities and NaN behave as in torch."""
    x = torch.cat([torch.linspace(-120, 120, 20011), torch.logspace(-30, 1.9, 999), -torch.logspace(-30, 1.9, 999)])
    one = torch.ones(1, x.numel())
    h = steered_gated_act(x[None], one, act)[0]
    exact = steered_gated_act_reference(x[None].double(), one.double(), act)[0]
    # Torch's own formula loses digits to cancellation in the negative tail; there the absolute error counts.
    torch.testing.assert_close(h.double(), exact, rtol=4e-7, atol=1e-6)
    if way == "reference":  # torch's vectorised gelu is not defined at infinity
        return
    special = torch.tensor([[float("inf"), float("nan"), -0.0, 0.0, 3e38]])
    got = steered_gated_act(special, torch.ones_like(special), act)
    torch.testing.assert_close(got, special, equal_nan=True)


def test_shared_runs_of_special_values(way: str) -> None:
    """A NaN in one token's activations stays in that token; a steering clamp keeps NaN."""
    c = cases.lora_case(9, 6, 8, 63, 63, torch.float32)
    c.x[0, 5] = float("nan")
    y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    assert torch.isnan(y[0]).all() and torch.isfinite(y[1:]).all()
    gate, up, _, steering = cases.gated_case(8, 6, 8, 63, torch.float32)
    gate[:] = float("nan")
    assert torch.isnan(steered_gated_act(gate, up, "silu", steering=steering)).all()
