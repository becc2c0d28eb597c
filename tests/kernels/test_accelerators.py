"""The GPU kernels: accuracy, bits, gradients. On CPU tensors under Triton's interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpg_fast.kernels import (
    ACTIVATIONS,
    GatedLora,
    Steering,
    activation_stats,
    lora_add,
    lora_add_reference,
    lora_combine,
    lora_expand_add,
    lora_expand_add_reference,
    lora_shrink,
    lora_shrink_reference,
    lora_stacked_add,
    steered_gated_act,
    steered_gated_act_reference,
    use_backend,
)
from dpg_fast.kernels.testing import assert_as_accurate, poisoned_empty, relative_error
from tests.kernels import cases
from tests.kernels.accelerators import ACCELERATORS, DEVICE, GPU, forced, needs_gpu, on_device

SIZES = (
    (60, 1, 1, 1, 1),
    (0, 6, 8, 63, 63),
    (1, 6, 8, 63, 130),
    (8, 6, 8, 576, 193),
    (15, 7, 5, 17, 33),
    (17, 2, 33, 270, 64),
    (16, 64, 2, 31, 47),
    (20, 3, 64, 65, 16),
)
Gated = tuple[Tensor, Tensor, GatedLora, Steering]

pytestmark = pytest.mark.skipif(not ACCELERATORS, reason="neither a GPU nor Triton's interpreter")


@pytest.fixture(params=ACCELERATORS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once per accelerator backend, forced."""
    with forced(request.param):
        yield request.param


def lora_case(tokens: int, K: int, rank: int, d_in: int, d_out: int, dtype: torch.dtype, seed: int = 0) -> cases.Lora:
    return on_device(cases.lora_case(tokens, K, rank, d_in, d_out, dtype, seed))


def gated_case(tokens: int, K: int, rank: int, width: int, dtype: torch.dtype, seed: int = 0) -> Gated:
    return on_device(cases.gated_case(tokens, K, rank, width, dtype, seed))


def added(c: cases.Lora, y: Tensor | None = None) -> Tensor:
    return lora_add(c.y.clone() if y is None else y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_lora_ops(backend: str, dtype: torch.dtype, size: tuple[int, int, int, int, int]) -> None:
    with forced(backend):
        c = lora_case(*size, dtype)
        d = c.to(torch.float64)
        with poisoned_empty():
            u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
        assert u.dtype == torch.float32
        exact_u = lora_shrink_reference(d.x, d.A, d.codes_a, d.slots)
        assert_as_accurate(u, cases.unfused_shrink(c), exact_u)

        y = lora_expand_add(c.y.clone(), u, c.B, c.codes_b, c.slots, c.scale)
        exact = lora_expand_add_reference(d.y.clone(), u.double(), d.B, d.codes_b, d.slots, d.scale)
        assert_as_accurate(y, cases.unfused_add(c.y, u, c.B, c.codes_b, c.slots, c.scale), exact)

        with poisoned_empty():
            fused = added(c)
        assert torch.equal(fused, y)
        exact = lora_add_reference(d.y.clone(), d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)
        u_low = cases.unfused_shrink(c)
        assert_as_accurate(fused, cases.unfused_add(c.y, u_low, c.B, c.codes_b, c.slots, c.scale), exact)


def test_shrink_groups(backend: str) -> None:
    with forced(backend):
        g = cases.generator(3)
        x, A = cases.randn(g, 9, 63), cases.randn(g, 3, 6, 8, 63)
        codes, slots = cases.randn(g, 4, 6), cases.random_slots(g, 9, 4)
        x, A, codes, slots = on_device((x, A, codes, slots))
        u = lora_shrink(x, A, codes, slots)
        assert u.shape == (3, 9, 8)
        for i in range(3):
            assert torch.equal(u[i], lora_shrink(x, A[i], codes, slots))


@pytest.mark.parametrize("lora_on", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("steer_on", [False, True], ids=["unsteered", "steered"])
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_steered_gated_act(backend: str, dtype: torch.dtype, act: str, lora_on: bool, steer_on: bool) -> None:
    with forced(backend):
        for tokens, K, rank, width in ((0, 6, 8, 33), (9, 3, 2, 130), (17, 3, 5, 63)):
            gate, up, lora, steering = gated_case(tokens, K, rank, width, dtype, seed=tokens)
            use_lora, use_steering = (lora if lora_on else None), (steering if steer_on else None)
            before = gate.clone(), up.clone()
            with poisoned_empty():
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
def test_roundings_are_those_of_separate_operations(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        gate, up, lora, steering = gated_case(33, 6, 8, 193, dtype)
        h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
        with use_backend("reference"):
            expected = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
        if dtype == torch.float32:
            assert relative_error(h, expected) < 1e-6
        else:
            assert (h == expected).float().mean() > 0.99


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_over_the_whole_range(backend: str, act: str) -> None:
    x = torch.cat([torch.linspace(-120, 120, 5003), torch.logspace(-30, 1.9, 999), -torch.logspace(-30, 1.9, 999)])
    special = torch.tensor([float("inf"), float("nan"), -0.0, 0.0, 3e38])
    with forced(backend):
        x, special = on_device((x[None], special[None]))
        one = torch.ones_like(x)
        exact = steered_gated_act_reference(x.double(), one.double(), act)
        # CUDA: expf is off by at most 2 units in the last place, addition and division round once each. With a unit of
        # 2^-23 relative to the smallest mantissa: 2 * 2^-23 + 2 * 2^-24 = 3.6e-7, and its second-order terms.
        torch.testing.assert_close(steered_gated_act(x, one, act).double(), exact, rtol=6e-7, atol=1e-6)
        got = steered_gated_act(special, torch.ones_like(special), act)
        torch.testing.assert_close(got, special, equal_nan=True)


def test_special_values_stay_where_they_are(backend: str) -> None:
    with forced(backend):
        c = lora_case(9, 6, 8, 63, 63, torch.float32)
        clean = added(c)
        c.x[0, 5] = float("nan")
        y = added(c)
        assert torch.isnan(y[0]).all() and torch.equal(y[1:], clean[1:])
        gate, up, _, steering = gated_case(8, 6, 8, 63, torch.float32)
        gate[:] = float("nan")
        assert torch.isnan(steered_gated_act(gate, up, "silu", steering=steering)).all()


def run_all(c: cases.Lora, gated: Gated) -> list[Tensor]:
    """Every op on these tokens: results with the token as first dimension."""
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    gate, up, lora, steering = gated
    h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
    plain = steered_gated_act(gate, up, "gelu_tanh", steering=steering)
    K, r = c.A.shape[:2]
    combined = lora_combine(c.x[:, : K * r], c.codes_a, c.slots)[0]
    stacked = c.y.clone()
    lora_stacked_add(stacked, c.x[:, : K * r], c.B, c.codes_a, c.codes_b, c.slots, (c.y.shape[1],), c.scale)
    return [u, added(c), h, plain, combined, stacked]


def take(rows: Tensor, c: cases.Lora, gated: Gated) -> tuple[cases.Lora, Gated]:
    gate, up, lora, steering = gated
    assert lora.u_up is not None
    lora = lora._replace(u_gate=lora.u_gate[rows], u_up=lora.u_up[rows], slots=lora.slots[rows])
    part = cases.Lora(c.y[rows], c.x[rows], c.A, c.B, c.codes_a, c.codes_b, c.slots[rows], c.scale)
    return part, (gate[rows], up[rows], lora, steering._replace(slots=steering.slots[rows]))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_token_results_depend_on_nothing_else(backend: str, dtype: torch.dtype) -> None:
    """Any order, any number of tokens; and the same again."""
    with forced(backend):
        tokens = 600 if GPU else 21
        c, gated = lora_case(tokens, 6, 8, 300, 130, dtype), gated_case(tokens, 6, 8, 193, dtype)
        whole = run_all(c, gated)
        assert all(torch.equal(a, b) for a, b in zip(whole, run_all(c, gated), strict=True))
        g = cases.generator(1)
        counts = (1, 2, 15, 16, 17, 64, 65, 512, 600) if GPU else (1, 17, 21)
        for rows in (torch.randperm(tokens, generator=g)[:n].to(DEVICE) for n in counts):
            for full, part in zip(whole, run_all(*take(rows, c, gated)), strict=True):
                assert torch.equal(full[rows], part)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_base_tokens_are_untouched(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        c = lora_case(9, 6, 8, 63, 63, dtype)
        c.y[1, 0], c.y[1, 1] = float("nan"), -0.0
        wide = torch.full((9, 90), 7.0, dtype=dtype, device=DEVICE)
        wide[:, 10:73] = c.y
        before = wide.clone()
        added(c, wide[:, 10:73])
        base = (c.slots < 0).nonzero().flatten()
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(wide.view(bits)[base], before.view(bits)[base])
        assert torch.equal(wide[:, :10], before[:, :10]) and torch.equal(wide[:, 73:], before[:, 73:])
        assert not torch.equal(wide[0], before[0])

        gate, up, lora, steering = gated_case(9, 6, 8, 63, dtype)
        plain = steered_gated_act(gate, up, "gelu")
        nobody = torch.full((9,), -1, dtype=torch.int32, device=DEVICE)
        lora, steering = lora._replace(slots=nobody), steering._replace(slots=nobody)
        assert torch.equal(steered_gated_act(gate, up, "gelu", lora=lora, steering=steering), plain)
        assert torch.equal(lora_shrink(c.x, c.A, c.codes_a, nobody), torch.zeros(9, 8, device=DEVICE))


def test_slots_outside_the_table_are_base_tokens(backend: str) -> None:
    """Nothing waits for the device to check them, so they must do no harm."""
    with forced(backend):
        ops = torch.ops.dpg_fast
        c, (gate, up, lora, steering) = (
            lora_case(8, 3, 2, 20, 30, torch.float32),
            gated_case(8, 3, 2, 30, torch.float32),
        )
        far = torch.full((8,), 2**30, dtype=torch.int32, device=DEVICE)
        y = c.y.clone()
        ops.lora_add_(y, c.x, c.A, c.B, c.codes_a, c.codes_b, far, 1.0)
        assert torch.equal(y, c.y)
        assert torch.equal(ops.lora_shrink(c.x, c.A, c.codes_a, far), torch.zeros(8, 2, device=DEVICE))
        flat = (*lora._replace(slots=far), *steering._replace(slots=far))
        assert torch.equal(ops.steered_gated_act(gate, up, "silu", *flat), steered_gated_act(gate, up, "silu"))
        tables = (
            torch.zeros(2, 30, dtype=torch.int64, device=DEVICE),
            torch.zeros(2, 30, 3, dtype=torch.int32, device=DEVICE),
        )
        ops.activation_stats_(gate, "silu", far, torch.tensor([0.0, 1.0], device=DEVICE), *tables)
        assert not tables[0].any() and not tables[1].any()


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_ride_along_expands_equal_separate_ones(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        gate, up, lora, steering = gated_case(15, 6, 8, 193, dtype)
        assert lora.u_up is not None
        fused = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
        g, u = gate.contiguous(), up.contiguous()
        lora_expand_add(g, lora.u_gate, lora.B_gate, lora.codes, lora.slots, lora.scale)
        lora_expand_add(u, lora.u_up, lora.B_up, lora.codes, lora.slots, lora.scale)
        assert torch.equal(fused, steered_gated_act(g, u, "silu", steering=steering))
        packed = lora._replace(u_gate=torch.stack([lora.u_gate, lora.u_up]), u_up=None)
        assert torch.equal(fused, steered_gated_act(gate, up, "silu", lora=packed, steering=steering))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_strided_and_batched_arguments(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        c = lora_case(12, 6, 8, 63, 65, dtype)
        expected = added(c)
        x = torch.zeros(12, 100, dtype=dtype, device=DEVICE)
        x[:, 3:66] = c.x
        bank = torch.zeros(6, 8, 200, dtype=dtype, device=DEVICE)
        bank[:, :, 70:135] = c.B
        y = torch.zeros(3, 4, 130, dtype=dtype, device=DEVICE)[..., 65:]
        y.copy_(c.y.view(3, 4, 65))
        out = lora_add(y, x[:, 3:66].unflatten(0, (3, 4)), c.A, bank[:, :, 70:135], c.codes_a, c.codes_b, c.slots, 0.7)
        assert out is y and torch.equal(out.reshape(12, 65), expected)
        gate, up, lora, steering = gated_case(12, 6, 8, 63, dtype)
        flat = steered_gated_act(gate.contiguous(), up.contiguous(), "silu", lora=lora, steering=steering)
        assert torch.equal(steered_gated_act(gate, up, "silu", lora=lora, steering=steering), flat)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_stacked_add_is_combine_and_expand(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        for widths in ((70, 33), (5, 130, 1, 64, 9)):
            g, total = cases.generator(2), sum(widths)
            y, S = cases.randn(g, 17, total, dtype=dtype), cases.randn(g, 17, len(widths) * 18, dtype=dtype)
            B, codes = cases.randn(g, 6, 3, total, dtype=dtype), cases.randn(g, 4, 6)
            y, S, B, codes, slots = on_device((y, S, B, codes, cases.random_slots(g, 17, 4)))
            apart, begin = y.clone(), 0
            u = lora_combine(S, codes, slots, len(widths))
            for group, width in enumerate(widths):
                columns = slice(begin, begin + width)
                lora_expand_add(apart[:, columns], u[group], B[:, :, columns], codes, slots, 0.7)
                begin += width
            assert torch.equal(lora_stacked_add(y, S, B, codes, codes, slots, widths, 0.7), apart)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_stats(backend: str, act: str, dtype: torch.dtype) -> None:
    """Counts equal those of the reference, up to a value that the last bit of the activation moves over an edge."""
    with forced(backend):
        g = cases.generator(5)
        gate = cases.randn(g, 23, 150, dtype=dtype) * 2
        gate[3, 7] = float("nan")
        gate, slots = on_device((gate, cases.random_slots(g, 23, 3)))
        edges = torch.arange(300, dtype=torch.float64, device=DEVICE).mul(0.01).float()
        kinds = (torch.int32, torch.int64)
        found, expected = (
            (
                torch.zeros(4, 70, dtype=torch.int64, device=DEVICE),
                torch.zeros(4, 70, 301, dtype=kinds[act == "silu"], device=DEVICE),
            )
            for _ in range(2)
        )
        for _ in range(2):
            activation_stats(gate[:, 11:81], act, slots, edges, *found)
            with use_backend("reference"):
                activation_stats(gate[:, 11:81], act, slots, edges, *expected)
        assert torch.equal(found[0], expected[0])
        assert (found[1] - expected[1]).abs().sum() <= 8
        assert torch.equal(found[1].sum(-1), expected[1].sum(-1)) and found[1].sum() > 0


@given(
    tokens=st.integers(0, 20),
    K=st.integers(1, 9),
    rank=st.integers(1, 9),
    d_in=st.integers(1, 70),
    d_out=st.integers(1, 70),
    dtype=st.sampled_from(cases.DTYPES),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_size_agrees_with_the_reference(
    backend: str, tokens: int, K: int, rank: int, d_in: int, d_out: int, dtype: torch.dtype, seed: int
) -> None:
    with forced(backend):
        c = lora_case(tokens, K, rank, d_in, d_out, dtype, seed)
        d = c.to(torch.float64)
        y = added(c)
        exact = lora_add_reference(d.y.clone(), d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)
        # One rounding of the result, plus the float32 arithmetic before it.
        assert relative_error(y, exact) < torch.finfo(dtype).eps / 2 + 2e-6


def gradients(out: Tensor, weight: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * weight.to(out.dtype)).sum(), leaves)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_lora_gradients_are_as_accurate_as_unfused_ones(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        c = lora_case(41, 5, 6, 70, 50, dtype)
        names = ("y", "x", "A", "B", "codes_a", "codes_b")
        weight = on_device(cases.randn(cases.generator(5), 41, 50, dtype=dtype))

        def leaves(case: cases.Lora) -> list[Tensor]:
            return [getattr(case, name).requires_grad_() for name in names]

        d = c.to(torch.float64)
        wanted = leaves(d)
        exact = lora_add_reference(d.y.clone(), d.x, d.A, d.B, d.codes_a, d.codes_b, d.slots, d.scale)
        expected = gradients(exact, weight, wanted)
        wanted = leaves(c)
        unfused = cases.unfused_add(c.y, cases.unfused_shrink(c), c.B, c.codes_b, c.slots, c.scale)
        baseline = gradients(unfused, weight, wanted)
        got = gradients(added(c), weight, wanted)
        for name, g, b, e in zip(names, got, baseline, expected, strict=True):
            assert g.dtype == b.dtype and g.shape == b.shape, name
            assert_as_accurate(g, b, e)


def test_grouped_shrink_gradients(backend: str) -> None:
    with forced(backend):
        g = cases.generator(8)
        x, A, codes = cases.randn(g, 9, 33), cases.randn(g, 2, 3, 5, 33), cases.randn(g, 4, 3)
        weight = cases.randn(g, 2, 9, 5)
        x, A, codes, weight, slots = on_device((x, A, codes, weight, cases.random_slots(g, 9, 4)))
        leaves = [t.requires_grad_() for t in (x, A, codes)]
        got = gradients(lora_shrink(x, A, codes, slots), weight, leaves)
        expected = gradients(lora_shrink_reference(x, A, codes, slots), weight, leaves)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_gated_gradients_are_as_accurate_as_unfused_ones(backend: str, dtype: torch.dtype, act: str) -> None:
    with forced(backend):
        gate, up, lora, steering = gated_case(23, 3, 4, 70, dtype)
        assert lora.u_up is not None
        weight = on_device(cases.randn(cases.generator(6), 23, 70, dtype=dtype))

        def run(kind: torch.dtype, how: object) -> tuple[Tensor, ...]:
            side = torch.float64 if kind == torch.float64 else torch.float32
            wide = [gate.to(kind), up.to(kind), lora.B_gate.to(kind), lora.B_up.to(kind)]
            narrow = [t.to(side) for t in (lora.u_gate, lora.u_up, lora.codes, steering.add, steering.strengths)]
            g, u, bg, bu, ug, uu, codes, add, strengths = (t.clone().requires_grad_() for t in (*wide, *narrow))
            both = GatedLora(ug, bg, uu, bu, codes, lora.slots, lora.scale)
            steer = Steering(steering.clamp_mask, add, strengths, steering.slots)
            if how is cases.unfused_gated:
                h = cases.unfused_gated(g, u, act, both, steer)
            elif how is steered_gated_act_reference:
                h = steered_gated_act_reference(g, u, act, lora=both, steering=steer)
            else:
                h = steered_gated_act(g, u, act, lora=both, steering=steer)
            return gradients(h, weight, [g, u, bg, bu, ug, uu, codes, add, strengths])

        expected = run(torch.float64, steered_gated_act_reference)
        # A rounded activation may fall on the other side of a cap: both are compared where float64 would agree.
        baseline, got = run(dtype, cases.unfused_gated), run(dtype, steered_gated_act)
        for g, b, e in zip(got, baseline, expected, strict=True):
            assert g.dtype == b.dtype and g.shape == b.shape
            assert_as_accurate(g, b, e)


def test_only_wanted_gradients(backend: str) -> None:
    with forced(backend):
        gate, up, lora, steering = gated_case(6, 3, 2, 20, torch.float32)
        B = lora.B_up.clone().requires_grad_()
        h = steered_gated_act(gate, up, "silu", lora=lora._replace(B_up=B), steering=steering)
        (got,) = torch.autograd.grad(h.sum(), [B])
        h = steered_gated_act_reference(gate, up, "silu", lora=lora._replace(B_up=B), steering=steering)
        (expected,) = torch.autograd.grad(h.sum(), [B])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    with forced(backend):
        c, gated = lora_case(7, 3, 2, 5, 4, dtype), gated_case(7, 3, 2, 5, dtype)
        gate, up, lora, steering = gated
        u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
        ops, S = torch.ops.dpg_fast, c.x.repeat(1, 2)[:, :6].contiguous()
        torch.library.opcheck(ops.lora_shrink, (c.x, c.A, c.codes_a, c.slots))
        torch.library.opcheck(ops.lora_expand_add_, (c.y, u, c.B, c.codes_b, c.slots, 0.5))
        torch.library.opcheck(ops.lora_add_, (c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, 0.5))
        torch.library.opcheck(ops.lora_combine, (S, c.codes_a, c.slots, 1))
        torch.library.opcheck(ops.lora_stacked_add_, (c.y, S, c.B, c.codes_a, c.codes_b, c.slots, [4], 0.5))
        gate, up = gate.contiguous(), up.contiguous()
        torch.library.opcheck(ops.steered_gated_act, (gate, up, "silu", *lora, *steering))
        torch.library.opcheck(ops.steered_gated_act, (gate, up, "gelu", *(None,) * 6, 1.0, *(None,) * 4))
        if backend == "triton":  # the gradients' own operators
            torch.library.opcheck(ops.steered_gated_act_grad, (gate, gate, up, "silu", *lora, *steering, True))
            torch.library.opcheck(ops.lora_shrink_grad, (c.x, c.A, c.codes_a, c.slots, u, True))
            torch.library.opcheck(ops.lora_delta, (u[None], c.B[None], c.codes_b, c.slots, 1.0))
            torch.library.opcheck(ops.slot_sums, (u, c.slots, 4))


def test_compiles_with_gradients(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch 2.11 does not trace importlib, later versions do.
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> object:
        assert not torch.compiler.is_dynamo_compiling(), f"importlib is asked for {name} while torch.compile traces"
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with forced(backend):
        torch._dynamo.reset()
        c = lora_case(8, 3, 2, 6, 5, torch.float32)
        _, _, lora, steering = gated_case(8, 3, 2, 5, torch.float32)
        leaves = [t.requires_grad_() for t in (c.A, c.B, c.codes_a, c.codes_b)]

        def run(x: Tensor, weight: Tensor) -> Tensor:
            y = lora_add(x @ weight, x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
            return steered_gated_act(y, y * 2, "silu", lora=lora, steering=steering)

        weight = torch.randn(6, 5, generator=cases.generator(9)).to(DEVICE)
        expected = run(c.x, weight)
        got = torch.compile(run, fullgraph=True, backend="aot_eager")(c.x, weight)
        torch.testing.assert_close(got, expected)
        pairs = zip(torch.autograd.grad(expected.sum(), leaves), torch.autograd.grad(got.sum(), leaves), strict=True)
        for e, g in pairs:
            torch.testing.assert_close(g, e)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_captured_graphs_follow_slots_codes_and_strengths(backend: str, dtype: torch.dtype) -> None:
    """A replay sees what the persistent buffers hold then, not what they held at capture."""
    with forced(backend):
        c, gated = lora_case(48, 6, 16, 512, 640, dtype), gated_case(48, 6, 16, 640, dtype)
        run_all(c, gated)  # compiles and tunes
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run_all(c, gated)
        _, _, lora, steering = gated
        buffers = (c.slots, c.codes_a, c.codes_b, lora.slots, lora.codes, steering.slots, steering.strengths)
        for seed in (11, 12):
            other, other_gated = lora_case(48, 6, 16, 8, 8, dtype, seed), gated_case(48, 6, 16, 8, dtype, seed)
            ol, os = other_gated[2:]
            new = (other.slots, other.codes_a, other.codes_b, ol.slots, ol.codes, os.slots, os.strengths)
            for buffer, value in zip(buffers, new, strict=True):
                buffer.copy_(value)
            for t in captured:
                t.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert all(torch.equal(a, b) for a, b in zip(captured, run_all(c, gated), strict=True))


@needs_gpu
def test_capture_of_a_size_not_seen_before(backend: str) -> None:
    """Nothing is measured during capture, and the result is that of an ordinary call."""
    with forced(backend):
        run_all(lora_case(3, 6, 16, 544, 672, torch.bfloat16), gated_case(3, 6, 16, 672, torch.bfloat16))
        c, gated = lora_case(100, 6, 16, 544, 672, torch.bfloat16), gated_case(100, 6, 16, 672, torch.bfloat16)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            captured = run_all(c, gated)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, run_all(c, gated), strict=True))


@needs_gpu
def test_two_streams(backend: str) -> None:
    with forced(backend):
        both = [
            (lora_case(64, 6, 16, 512, 640, torch.bfloat16, s), gated_case(64, 6, 16, 640, torch.bfloat16, s))
            for s in (1, 2)
        ]
        alone = [run_all(*arguments) for arguments in both]
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in both]
        for _ in range(20):
            results = []
            for stream, arguments in zip(streams, both, strict=True):
                with torch.cuda.stream(stream):
                    results.append(run_all(*arguments))
            torch.cuda.synchronize()
            for a, b in zip(alone, results, strict=True):
                assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@needs_gpu
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_decode_and_prefill_agree_on_a_large_model(backend: str, dtype: torch.dtype) -> None:
    """The first tokens of 8192, alone: the same bits, whatever was tuned for either."""
    with forced(backend):
        c, gated = lora_case(8192, 6, 16, 4096, 4096, dtype), gated_case(8192, 6, 16, 1024, dtype)
        whole = run_all(c, gated)
        for n in (1, 8, 64, 700):
            rows = torch.arange(n, device=DEVICE)
            for full, part in zip(whole, run_all(*take(rows, c, gated)), strict=True):
                assert torch.equal(full[:n], part)
