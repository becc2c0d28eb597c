"""Gradients, torch.library registration and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from dpg_fast.kernels import (
    ACTIVATIONS,
    GatedLora,
    Steering,
    _grad,
    isas,
    lora_add,
    lora_add_reference,
    lora_expand_add,
    lora_shrink,
    lora_shrink_reference,
    steered_gated_act,
    steered_gated_act_reference,
    use_backend,
)
from dpg_fast.kernels.ops.steered_gated_act import backward as gated_backward
from dpg_fast.kernels.testing import assert_as_accurate
from tests.kernels import cases
from tests.kernels.ways import using

BACKENDS = ["reference", *(["cpu"] if isas() else [])]


def lora_leaves(dtype: torch.dtype) -> cases.Lora:
    c = cases.lora_case(7, 3, 2, 5, 4, dtype)
    if dtype == torch.float64:
        c = c.to(dtype)
    for t in (c.y, c.x, c.A, c.B, c.codes_a, c.codes_b):
        t.requires_grad_()
    return c


def gated_leaves(dtype: torch.dtype) -> tuple[Tensor, Tensor, GatedLora, Steering]:
    gate, up, lora, steering = cases.gated_case(7, 3, 2, 5, torch.float32)
    side = torch.float64 if dtype == torch.float64 else torch.float32
    gate, up = gate.to(dtype).clone(), up.to(dtype).clone()
    assert lora.u_up is not None
    u_gate, u_up, codes = (t.to(side) for t in (lora.u_gate, lora.u_up, lora.codes))
    lora = GatedLora(u_gate, lora.B_gate.to(dtype), u_up, lora.B_up.to(dtype), codes, lora.slots, 0.7)
    steering = Steering(steering.clamp_mask, steering.add.to(side), steering.strengths.to(side), steering.slots)
    for t in gated_wanted(gate, up, lora, steering):
        t.requires_grad_()
    return gate, up, lora, steering


def gated_wanted(gate: Tensor, up: Tensor, lora: GatedLora, steering: Steering) -> list[Tensor]:
    assert lora.u_up is not None
    of_lora = [lora.u_gate, lora.B_gate, lora.u_up, lora.B_up, lora.codes]
    return [gate, up, *of_lora, steering.add, steering.strengths]


def test_gradcheck_lora() -> None:
    c = lora_leaves(torch.float64)

    def add(y: Tensor, *rest: Tensor) -> Tensor:
        return lora_add(y.clone(), *rest, c.slots, c.scale)

    assert torch.autograd.gradcheck(add, (c.y, c.x, c.A, c.B, c.codes_a, c.codes_b))
    grouped = torch.stack([c.A.detach(), 2 * c.A.detach()]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, A, a: lora_shrink(x, A, a, c.slots), (c.x, grouped, c.codes_a))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradcheck_gated(act: str) -> None:
    gate, up, lora, steering = gated_leaves(torch.float64)

    def run(*tensors: Tensor) -> Tensor:
        g, u, ug, bg, uu, bu, c, a, s = tensors
        return steered_gated_act(
            g, u, act,
            lora=GatedLora(ug, bg, uu, bu, c, lora.slots, lora.scale),
            steering=Steering(steering.clamp_mask, a, s, steering.slots),
        )  # fmt: skip

    # Inactive poles have strength exactly 0, where the function has a kink: keep them out of the check.
    inputs = gated_wanted(gate, up, lora, steering)
    strengths = inputs.pop().detach()
    fixed = torch.where(strengths > 0, strengths, -1.0).requires_grad_()
    assert torch.autograd.gradcheck(run, (*inputs, fixed))
    assert torch.autograd.gradcheck(lambda g, u: steered_gated_act(g, u, act), (gate, up))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_gradients_match_autograd_through_the_reference(backend: str, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    c = lora_leaves(dtype)
    wanted = [c.y, c.x, c.A, c.B, c.codes_a, c.codes_b]
    weight = cases.randn(cases.generator(5), 7, 4, dtype=dtype)
    expected_y = lora_add_reference(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    expected = torch.autograd.grad((expected_y * weight).sum(), wanted)
    with use_backend(backend):
        y = lora_add(c.y.clone(), c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
        got = torch.autograd.grad((y * weight).sum(), wanted)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance * max(1.0, e.abs().max().item()))
        assert g.dtype == e.dtype

    gate, up, lora, steering = gated_leaves(dtype)
    wanted = gated_wanted(gate, up, lora, steering)
    weight = cases.randn(cases.generator(6), 7, 5, dtype=dtype)
    reference = steered_gated_act_reference(gate, up, "silu", lora=lora, steering=steering)
    expected = torch.autograd.grad((reference * weight).sum(), wanted)
    with use_backend(backend):
        h = steered_gated_act(gate, up, "silu", lora=lora, steering=steering)
        got = torch.autograd.grad((h * weight).sum(), wanted)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance * max(1.0, e.abs().max().item()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_wanted_gradients_and_inplace_on_a_linear_output(backend: str) -> None:
    c = cases.lora_case(7, 3, 2, 5, 4, torch.float32)
    weight = torch.randn(4, 5, requires_grad=True)
    B = c.B.clone().requires_grad_()
    with use_backend(backend):
        y = torch.nn.functional.linear(c.x, weight)
        out = lora_add(y, c.x, c.A, B, c.codes_a, c.codes_b, c.slots, 1.0)
        assert out is y
        out.sum().backward()
    assert weight.grad is not None and B.grad is not None
    torch.testing.assert_close(weight.grad, c.x.sum(0).expand(4, 5))
    u = lora_shrink_reference(c.x, c.A, c.codes_a, c.slots)
    per_entry = torch.einsum("tk,tj->kj", cases.token_codes(c.codes_b, c.slots), u)
    torch.testing.assert_close(B.grad, per_entry[:, :, None].expand(3, 2, 4))


def test_a_saved_tensor_that_is_overwritten_is_an_error() -> None:
    c = cases.lora_case(7, 3, 2, 5, 4, torch.float32)
    y = c.y.clone().requires_grad_() * 1.0
    square = y * y
    lora_add(y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    c = cases.lora_case(7, 3, 2, 5, 4, dtype)
    u = lora_shrink(c.x, c.A, c.codes_a, c.slots)
    ops = torch.ops.dpg_fast
    gate, up, lora, steering = cases.gated_case(7, 3, 2, 5, dtype)
    with use_backend(backend):
        torch.library.opcheck(ops.lora_shrink, (c.x, c.A, c.codes_a, c.slots))
        torch.library.opcheck(ops.lora_expand_add_, (c.y, u, c.B, c.codes_b, c.slots, 0.5))
        torch.library.opcheck(ops.lora_add_, (c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, 0.5))
        torch.library.opcheck(ops.steered_gated_act, (gate, up, "silu", *lora, *steering))
        torch.library.opcheck(ops.steered_gated_act, (gate, up, "gelu", *(None,) * 6, 1.0, *(None,) * 4))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_gradients_are_as_accurate_as_unfused_ones(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tokens are worked through in pieces. Errors of four cases together: a gradient of codes has 24 values, and
    the errors of so few are a matter of luck."""
    weight = cases.randn(cases.generator(5), 200, 130, dtype=dtype)
    drawn = [cases.lora_case(200, 6, 8, 300, 130, dtype, seed=seed) for seed in range(4)]

    def leaves(case: cases.Lora) -> list[Tensor]:
        return [t.requires_grad_() for t in (case.y, case.x, case.A, case.B, case.codes_a, case.codes_b)]

    def added(case: cases.Lora, how: Callable[..., Tensor]) -> Tensor:
        return how(
            case.y.clone(), case.x, case.A, case.B, case.codes_a, case.codes_b, case.slots, case.scale
        )  # fmt: skip

    def unfused(case: cases.Lora) -> Tensor:
        return cases.unfused_add(
            case.y, cases.unfused_shrink(case), case.B, case.codes_b, case.slots, case.scale
        )  # fmt: skip

    def gradients(chosen: list[cases.Lora], how: Callable[[cases.Lora], Tensor]) -> list[Tensor]:
        """Of each argument, those of all cases."""
        wanted = [leaves(case) for case in chosen]
        found = [
            torch.autograd.grad((how(case) * weight).sum(), tensors)
            for case, tensors in zip(chosen, wanted, strict=True)
        ]
        return [torch.stack(parts) for parts in zip(*found, strict=True)]

    exact = gradients([case.to(torch.float64) for case in drawn], lambda case: added(case, lora_add_reference))
    baseline = gradients(drawn, unfused)
    for piece in (_grad.PIECE, 1):
        monkeypatch.setattr(_grad, "PIECE", piece)
        got = gradients(drawn, lambda case: added(case, lora_add))
        for g, b, e in zip(got, baseline, exact, strict=True):
            assert g.dtype == b.dtype and g.shape == b.shape
            assert_as_accurate(g, b, e)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("way", [*cases.ISAS, "reference"])
def test_gated_gradients_are_as_accurate_as_unfused_ones(
    way: str, dtype: torch.dtype, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the gradients of steering, in one piece and in several."""
    gate, up, lora, steering = cases.gated_case(70, 13, 4, 91, dtype)
    weight = cases.randn(cases.generator(6), 70, 91, dtype=dtype)
    Run = Callable[..., Tensor]

    def run(kind: torch.dtype, how: Run, steer_too: bool = True) -> tuple[Tensor, ...]:
        side = torch.float64 if kind == torch.float64 else torch.float32
        assert lora.u_up is not None
        wide = [gate.to(kind), up.to(kind), lora.B_gate.to(kind), lora.B_up.to(kind)]
        narrow = [t.to(side) for t in (lora.u_gate, lora.u_up, lora.codes, steering.add, steering.strengths)]
        leaves = [t.clone().requires_grad_() for t in (*wide, *narrow)]
        g, u, bg, bu, ug, uu, codes, add, strengths = leaves
        both = GatedLora(ug, bg, uu, bu, codes, lora.slots, lora.scale)
        if not steer_too:
            add, strengths = add.detach(), strengths.detach()
        steer = Steering(steering.clamp_mask, add, strengths, steering.slots)
        out = how(g, u, act, both, steer)
        return torch.autograd.grad((out * weight.to(kind)).sum(), leaves if steer_too else leaves[:-2])

    def fused(g: Tensor, u: Tensor, act: str, both: GatedLora, steer: Steering) -> Tensor:
        return steered_gated_act(g, u, act, lora=both, steering=steer)

    def reference(g: Tensor, u: Tensor, act: str, both: GatedLora, steer: Steering) -> Tensor:
        return steered_gated_act_reference(g, u, act, lora=both, steering=steer)

    expected, baseline = run(torch.float64, reference), run(dtype, cases.unfused_gated)
    with using(way):
        for tokens in (256, 16):
            monkeypatch.setattr(gated_backward, "_TOKENS", tokens)
            got = run(dtype, fused)
            for g, b, e in zip(got, baseline, expected, strict=True):
                assert g.dtype == b.dtype and g.shape == b.shape
                assert_as_accurate(g, b, e)
            assert all(torch.equal(a, b) for a, b in zip(run(dtype, fused), got, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(run(dtype, fused, False), got[:-2], strict=True))


def allocations(function: Callable[[], object]) -> tuple[int, int]:
    """(largest single allocation, largest sum alive) in bytes while the function runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    events = profile.profiler.kineto_results.events()
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    del kept
    assert max(sizes) > 0
    return max(sizes), max(accumulate(sizes))


@pytest.mark.skipif(not isas(), reason="the compiled module is not built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_memory_of_a_backward_pass(dtype: torch.dtype) -> None:
    """Beside the gradients: nothing as wide as the activations, and [T, K r] only in pieces."""
    tokens, K, r, d = 6000, 6, 16, 512
    c = cases.lora_case(tokens, K, r, d, d, dtype)
    leaves = [t.requires_grad_() for t in (c.x, c.A, c.B, c.codes_a, c.codes_b)]
    gradients = sum(t.numel() * t.element_size() for t in leaves)
    narrow = 4 * tokens * 4 * (r + K)
    y = lora_add(c.y, c.x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
    gy = torch.ones_like(y)
    largest, alive = allocations(lambda: torch.autograd.grad(y, leaves, gy))
    assert largest <= c.x.numel() * dtype.itemsize
    assert alive <= gradients + narrow + 6 * 4 * _grad.PIECE

    gate, up, lora, steering = cases.gated_case(tokens, K, r, d, dtype)
    assert lora.u_up is not None
    of_lora = [lora.u_gate, lora.B_gate, lora.u_up, lora.B_up, lora.codes]
    leaves = [t.requires_grad_() for t in (gate.detach(), up.detach(), *of_lora, steering.add, steering.strengths)]
    gradients = sum(t.numel() * t.element_size() for t in leaves)
    h = steered_gated_act(leaves[0], leaves[1], "silu", lora=lora, steering=steering)
    gh = torch.ones_like(h)
    largest, alive = allocations(lambda: torch.autograd.grad(h, leaves, gh))
    assert largest <= gate.numel() * dtype.itemsize
    assert alive <= gradients + narrow + 6 * 4 * _grad.PIECE


def mlp(c: cases.Lora, act: str, lora: GatedLora, steering: Steering) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that uses every op."""

    def run(x: Tensor, weight: Tensor) -> Tensor:
        y = x @ weight
        lora_add(y, x, c.A, c.B, c.codes_a, c.codes_b, c.slots, c.scale)
        u = lora_shrink(x, c.A, c.codes_a, c.slots)
        y = lora_expand_add(y + 1, u, c.B, c.codes_b, c.slots, 0.5)
        both = lora._replace(u_gate=torch.stack([u, 2 * u]), u_up=None)
        return steered_gated_act(y, y * 2, act, lora=both, steering=steering)

    return run


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_without_graph_breaks(compiler: str, training: bool) -> None:
    torch._dynamo.reset()
    c = cases.lora_case(8, 3, 2, 6, 5, torch.float32)
    _, _, lora, steering = cases.gated_case(8, 3, 2, 5, torch.float32)
    steering = steering._replace(slots=lora.slots)
    if training:
        for t in (c.A, c.B, c.codes_a, c.codes_b):
            t.requires_grad_()
    run = mlp(c, "silu", lora, steering)
    weight = torch.randn(6, 5)
    expected = run(c.x, weight)
    got = torch.compile(run, fullgraph=True, backend=compiler)(c.x, weight)
    torch.testing.assert_close(got, expected)
    if training:
        leaves = [c.A, c.B, c.codes_a, c.codes_b]
        for e, g in zip(
            torch.autograd.grad(expected.sum(), leaves), torch.autograd.grad(got.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(g, e)
