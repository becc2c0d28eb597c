"""add_rmsnorm on every backend: accuracy, bits, roundings of Hugging Face's norms, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from dpg_fast.kernels import RideAlong, add_rmsnorm, add_rmsnorm_reference, lora_expand_add
from dpg_fast.kernels.testing import assert_as_accurate, poisoned_empty
from tests.kernels import cases
from tests.kernels.accelerators import ACCELERATORS, DEVICE, GPU, forced, on_device
from tests.kernels.ways import WAYS, using

EPS = 1e-5
ALL = [*WAYS, *(f"accelerator {name}" for name in ACCELERATORS)]

# (tokens, K, rank, d): one token, decode, a row of one value, odd widths, more tokens than a tile or a kept bank
SIZES = ((0, 6, 8, 64), (1, 6, 16, 256), (9, 6, 8, 63), (20, 3, 17, 1), (33, 2, 4, 130), (70, 6, 8, 96))
#: Triton's interpreter takes about 5 ms for each token
INTERPRETED = "" if GPU else "accelerator triton"
Case = tuple[Tensor, Tensor, Tensor, RideAlong]


@contextmanager
def on(way: str) -> Iterator[str]:
    """Every op is computed this way within the block."""
    if way.startswith("accelerator "):
        with forced(way.removeprefix("accelerator ")):
            yield DEVICE
    else:
        with using(way):
            yield "cpu"


def norm_case(tokens: int, K: int, rank: int, d: int, dtype: torch.dtype, device: str = "cpu") -> Case:
    """y and residual as columns of wider tensors, weight, lora."""
    g = cases.generator(tokens)
    wide = cases.randn(g, tokens, 2 * d, dtype=dtype)
    weight = (1 + 0.3 * cases.randn(g, d)).to(dtype)
    B = (cases.randn(g, K, rank, d) / (K * rank) ** 0.5).to(dtype)
    lora = RideAlong(cases.randn(g, tokens, rank), B, cases.randn(g, 4, K), cases.random_slots(g, tokens, 4), 0.7)
    return on_device((wide[:, :d], wide[:, d:], weight, lora), device)


def unfused(
    y: Tensor, residual: Tensor, weight: Tensor, unit_offset: bool, lora: RideAlong | None
) -> tuple[Tensor, Tensor]:
    """Separate torch operations, and the norm of a Hugging Face model."""
    if lora is not None:
        y = cases.unfused_add(y, *lora)
    h = residual + y
    if h.dtype == torch.float64:  # the modules would compute in float32
        normed = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
        return h, normed * (weight + 1 if unit_offset else weight)
    norm = (GemmaRMSNorm if unit_offset else LlamaRMSNorm)(h.shape[1], eps=EPS)
    return h, torch.func.functional_call(norm, {"weight": weight}, h)


def double(lora: RideAlong | None) -> RideAlong | None:
    return None if lora is None else RideAlong(*(cases.double(t) if isinstance(t, Tensor) else t for t in lora))


@pytest.mark.parametrize("unit_offset", [False, True], ids=["weight", "offset"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("way", ALL)
def test_accuracy(way: str, dtype: torch.dtype, unit_offset: bool) -> None:
    with on(way) as device:
        for size in SIZES if way != INTERPRETED else SIZES[:4]:
            y, residual, weight, lora = norm_case(*size, dtype, device)
            before = y.clone(), residual.clone()
            for expand in (None, lora):
                with poisoned_empty():
                    got = add_rmsnorm(y, residual, weight, EPS, unit_offset=unit_offset, lora=expand)
                exact = add_rmsnorm_reference(
                    y.double(), residual.double(), weight.double(), EPS, unit_offset=unit_offset, lora=double(expand)
                )
                for g, b, e in zip(got, unfused(y, residual, weight, unit_offset, expand), exact, strict=True):
                    assert g.shape == y.shape and g.dtype == dtype and g.is_contiguous()
                    assert_as_accurate(g, b, e)
            assert torch.equal(y, before[0]) and torch.equal(residual, before[1])


@pytest.mark.parametrize("unit_offset", [False, True], ids=["weight", "offset"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ALL)
def test_roundings_are_those_of_hugging_face(way: str, dtype: torch.dtype, unit_offset: bool) -> None:
    with on(way) as device:
        y, residual, weight, _ = norm_case(17, 2, 4, 193, dtype, device)
        h, out = add_rmsnorm(y, residual, weight, EPS, unit_offset=unit_offset)
        expected_h, expected = unfused(y, residual, weight, unit_offset, None)
        assert torch.equal(h, expected_h)
        assert (out == expected).float().mean() > 0.99


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("way", [w for w in ALL if w != "reference"])
def test_bits(way: str, dtype: torch.dtype) -> None:
    """A token's bits depend on nothing else; the expand is lora_expand_add's; base tokens are those of the op without it."""
    with on(way) as device:
        tokens = 20 if way == INTERPRETED else 70
        y, residual, weight, lora = norm_case(tokens, 6, 8, 130, dtype, device)
        h, out = add_rmsnorm(y, residual, weight, EPS, lora=lora)
        g = cases.generator(1)
        for rows in (torch.arange(1, 2), torch.arange(tokens).flip(0), torch.randperm(tokens, generator=g)[:17]):
            rows = rows.to(device)
            part = lora._replace(u=lora.u[rows], slots=lora.slots[rows])
            some = add_rmsnorm(y[rows], residual[rows], weight, EPS, lora=part)
            assert torch.equal(h[rows], some[0]) and torch.equal(out[rows], some[1])
        apart = lora_expand_add(y.contiguous().clone(), *lora)
        first, second = add_rmsnorm(apart, residual, weight, EPS)
        assert torch.equal(h, first) and torch.equal(out, second)
        base = lora.slots < 0
        plain_h, plain = add_rmsnorm(y, residual, weight, EPS)
        assert torch.equal(h[base], plain_h[base]) and torch.equal(out[base], plain[base])
        assert not torch.equal(h[~base], plain_h[~base])
        batched = add_rmsnorm(y.unflatten(0, (2, -1)), residual.unflatten(0, (2, -1)), weight, EPS, lora=lora)
        assert batched[1].shape == (2, tokens // 2, 130) and torch.equal(batched[1].flatten(0, 1), out)
        y[3, 5] = float("nan")
        assert torch.isnan(add_rmsnorm(y, residual, weight, EPS)[1]).all(1).nonzero().tolist() == [[3]]


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("way", [w for w in WAYS if w != "reference"])
def test_threads_and_pieces(way: str, at: int) -> None:
    """More tokens than the scratch holds, on several threads."""
    from dpg_fast.kernels import _cpu

    y, residual, weight, lora = norm_case(300, 64, 32, 24, torch.float32)
    before = _cpu.C.parallel_threshold(), torch.get_num_threads()
    with using(way):
        expected = add_rmsnorm(y, residual, weight, EPS, lora=lora)
        try:
            _cpu.C.set_parallel_threshold(0)
            torch.set_num_threads(at)
            got = add_rmsnorm(y, residual, weight, EPS, lora=lora)
        finally:
            _cpu.C.set_parallel_threshold(before[0])
            torch.set_num_threads(before[1])
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def leaves_of(case: Case, dtype: torch.dtype) -> list[Tensor]:
    y, residual, weight, lora = case
    side = torch.float64 if dtype == torch.float64 else torch.float32
    wide = [t.to(dtype) for t in (y, residual, weight, lora.B)]
    return [t.clone().requires_grad_() for t in (*wide, lora.u.to(side), lora.codes.to(side))]


@pytest.mark.parametrize("unit_offset", [False, True], ids=["weight", "offset"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("way", ["reference", *cases.ISAS[-1:], *(w for w in ALL if w.startswith("accelerator "))])
def test_gradients_are_as_accurate_as_unfused_ones(way: str, dtype: torch.dtype, unit_offset: bool) -> None:
    with on(way) as device:
        case = norm_case(24, 13, 4, 70, dtype, device)
        g = cases.generator(3)
        first, second = (on_device(cases.randn(g, 24, 70, dtype=dtype), device) for _ in range(2))

        def run(kind: torch.dtype, how: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
            y, residual, weight, B, u, codes = leaves = leaves_of(case, kind)
            h, out = how(y, residual, weight, RideAlong(u, B, codes, case[3].slots, 0.7))
            return torch.autograd.grad((h * first.to(kind) + out * second.to(kind)).sum(), leaves)

        exact = run(torch.float64, lambda y, r, w, lora: unfused(y, r, w, unit_offset, lora))
        baseline = run(dtype, lambda y, r, w, lora: unfused(y, r, w, unit_offset, lora))
        got = run(dtype, lambda y, r, w, lora: add_rmsnorm(y, r, w, EPS, unit_offset=unit_offset, lora=lora))
        for value, base, true in zip(got, baseline, exact, strict=True):
            assert value.dtype == base.dtype and value.shape == base.shape
            assert_as_accurate(value, base, true)


@pytest.mark.parametrize("unit_offset", [False, True], ids=["weight", "offset"])
def test_gradcheck(unit_offset: bool) -> None:
    case = norm_case(5, 2, 3, 4, torch.float64)
    slots = case[3].slots

    def run(y: Tensor, residual: Tensor, weight: Tensor, B: Tensor, u: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        return add_rmsnorm(y, residual, weight, EPS, unit_offset=unit_offset, lora=RideAlong(u, B, codes, slots, 0.7))

    leaves = leaves_of(case, torch.float64)
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradcheck(lambda *t: add_rmsnorm(*t, EPS, unit_offset=unit_offset), leaves[:3])


@pytest.mark.parametrize("way", ["reference", *cases.ISAS[-1:], *(w for w in ALL if w.startswith("accelerator "))])
def test_opcheck_and_compile(way: str) -> None:
    with on(way) as device:
        y, residual, weight, lora = norm_case(5, 2, 3, 12, torch.float32, device)
        y, residual = y.contiguous(), residual.contiguous()
        torch.library.opcheck(torch.ops.dpg_fast.add_rmsnorm, (y, residual, weight, EPS, False, *lora))
        plain = (y, residual, weight, EPS, True, None, None, None, None, 1.0)
        torch.library.opcheck(torch.ops.dpg_fast.add_rmsnorm, plain, test_utils="test_faketensor")
        torch._dynamo.reset()
        B = lora.B.clone().requires_grad_()

        def run(y: Tensor, residual: Tensor) -> Tensor:
            h, out = add_rmsnorm(y * 2, residual, weight, EPS, lora=lora._replace(B=B))
            return h + out

        expected = run(y, residual)
        got = torch.compile(run, fullgraph=True, backend="aot_eager")(y, residual)
        torch.testing.assert_close(got, expected)
        (e,), (g,) = torch.autograd.grad(expected.sum(), [B]), torch.autograd.grad(got.sum(), [B])
        torch.testing.assert_close(g, e)


def test_slots_outside_the_table_count_as_none() -> None:
    """On a device, which cannot report them."""
    ways = [w for w in ALL if w == "cuda" or w.startswith("accelerator ")]
    for way in ways:
        with on(way) as device:
            y, residual, weight, lora = norm_case(9, 2, 3, 24, torch.float32, device)
            far = torch.full_like(lora.slots, 2**30)
            flat = (y, residual, weight, EPS, False, lora.u, lora.B, lora.codes, far, 0.7)
            h, out = torch.ops.dpg_fast.add_rmsnorm(*flat)
            plain_h, plain = add_rmsnorm(y, residual, weight, EPS)
            assert torch.equal(h, plain_h) and torch.equal(out, plain)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"residual": torch.ones(6, 9)}, ValueError, "residual must have shape"),
        ({"residual": torch.ones(6, 10).half()}, TypeError, "residual must be torch.float32"),
        ({"weight": torch.ones(9)}, ValueError, r"weight must have shape \[d\]"),
        ({"weight": torch.ones(20)[::2]}, ValueError, "weight must be contiguous"),
        ({"weight": torch.ones(10).half()}, TypeError, "weight must be torch.float32"),
        ({"eps": -1.0}, ValueError, "eps must not be negative"),
        ({"eps": float("nan")}, ValueError, "eps must not be negative"),
        ({"u": torch.zeros(6, 3)}, ValueError, r"lora.u must have shape \[T, r\]"),
        ({"B": torch.zeros(3, 2, 9)}, ValueError, "lora.B must have shape"),
        ({"codes": torch.zeros(4, 2)}, ValueError, "codes must have shape"),
        ({"slots": torch.full((6,), 4, dtype=torch.int32)}, IndexError, "slots must lie in"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    y, residual, weight, lora = norm_case(6, 3, 2, 10, torch.float32)
    lora = lora._replace(**{k: v for k, v in change.items() if k in lora._fields})
    rest = (change.get("residual", residual), change.get("weight", weight), change.get("eps", EPS))
    with pytest.raises(error, match=message):
        add_rmsnorm(y, *rest, lora=lora)
