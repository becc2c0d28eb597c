"""lora_combine and lora_stacked_add: accuracy, bits, gradients and errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dpg_fast.kernels import (
    lora_combine,
    lora_combine_reference,
    lora_expand_add,
    lora_shrink,
    lora_stacked_add,
    lora_stacked_add_reference,
)
from dpg_fast.kernels.testing import assert_as_accurate, poisoned_empty
from tests.kernels import cases
from tests.kernels.ways import WAYS, using

SIZES = ((0, 6, 8), (1, 6, 8), (8, 6, 16), (7, 5, 3), (33, 3, 17), (20, 64, 2), (15, 2, 64), (40, 1, 1))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


def stacked_case(
    tokens: int, K: int, rank: int, dtype: torch.dtype, widths: tuple[int, ...] = (63, 1, 130), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(y, S, B, codes_a, codes_b, slots): y and S are columns of one tensor, as a stacked product gives them."""
    g = cases.generator(seed)
    total = sum(widths)
    out = cases.randn(g, tokens, total + len(widths) * K * rank, dtype=dtype)
    B = (cases.randn(g, K, rank, total) / rank**0.5).to(dtype)
    slots = cases.random_slots(g, tokens, 4)
    return out[:, :total], out[:, total:], B, cases.randn(g, 4, K), cases.randn(g, 4, K), slots


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_accuracy(way: str, dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    widths = (63, 1, 130)
    tokens, K, rank = size
    y, S, B, codes_a, codes_b, slots = stacked_case(*size, dtype, widths)
    with poisoned_empty():
        u = lora_combine(S, codes_a, slots, 3)
    assert u.shape == (3, tokens, rank) and u.dtype == torch.float32
    parts = S.reshape(tokens, 3, K, rank)
    low = (parts * cases.token_codes(codes_a, slots).to(dtype)[:, None, :, None]).sum(2).transpose(0, 1)
    exact_u = lora_combine_reference(S.double(), codes_a.double(), slots, 3)
    assert_as_accurate(u, low, exact_u)

    doubles = (t.double() for t in (S, B, codes_a, codes_b))
    exact = lora_stacked_add_reference(y.double(), *doubles, slots, widths, 0.7)
    baseline = y.clone()
    begin = 0
    for g, width in enumerate(widths):
        columns = slice(begin, begin + width)
        baseline[:, columns] = cases.unfused_add(y[:, columns], low[g], B[:, :, columns], codes_b, slots, 0.7)
        begin += width
    before = S.clone()
    base_rows = y[slots < 0].clone()
    assert lora_stacked_add(y, S, B, codes_a, codes_b, slots, widths, 0.7) is y
    assert_as_accurate(y, baseline, exact)
    assert torch.equal(S, before) and torch.equal(y[slots < 0], base_rows)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_equals_its_parts_bit_for_bit(way: str, dtype: torch.dtype) -> None:
    widths = (70, 33)
    y, S, B, codes_a, codes_b, slots = stacked_case(17, 6, 8, dtype, widths)
    apart = y.clone()
    u = lora_combine(S, codes_a, slots, 2)
    lora_expand_add(apart[:, :70], u[0], B[:, :, :70], codes_b, slots, 0.7)
    lora_expand_add(apart[:, 70:], u[1], B[:, :, 70:], codes_b, slots, 0.7)
    lora_stacked_add(y, S, B, codes_a, codes_b, slots, widths, 0.7)
    assert torch.equal(y, apart)


def test_tokens_do_not_see_each_other(way: str) -> None:
    widths = (63, 130)
    y, S, B, codes_a, codes_b, slots = stacked_case(33, 6, 8, torch.bfloat16, widths)
    whole, apart = y.clone(), y.clone()
    lora_stacked_add(whole, S, B, codes_a, codes_b, slots, widths)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 13), slice(13, 33)):
        part = apart[rows].clone()
        lora_stacked_add(part, S[rows], B, codes_a, codes_b, slots[rows].contiguous(), widths)
        assert torch.equal(part, whole[rows])


def test_a_stacked_product_is_the_shrink() -> None:
    """x [W; A]^T in float64 holds what lora_shrink computes."""
    c = cases.lora_case(9, 5, 3, 21, 30, torch.float32).to(torch.float64)
    W = torch.randn(30, 21, dtype=torch.float64)
    out = c.x @ torch.cat([W, c.A.reshape(15, 21)]).t()
    u = lora_combine(out[:, 30:], c.codes_a, c.slots)
    torch.testing.assert_close(u[0], lora_shrink(c.x, c.A, c.codes_a, c.slots), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    widths = (5, 3)
    y, S, B, codes_a, codes_b, slots = stacked_case(6, 3, 2, torch.float64, widths)
    codes_a, codes_b = codes_a.double(), codes_b.double()
    leaves = [t.detach().clone().requires_grad_() for t in (y, S, B, codes_a, codes_b)]

    def run(y: Tensor, S: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor) -> Tensor:
        return lora_stacked_add(y.clone(), S, B, codes_a, codes_b, slots, widths, 0.7)

    assert torch.autograd.gradcheck(run, leaves)


def test_opcheck() -> None:
    y, S, B, codes_a, codes_b, slots = stacked_case(5, 2, 3, torch.float32, (4, 7))
    torch.library.opcheck(torch.ops.dpg_fast.lora_combine.default, (S.contiguous(), codes_a, slots, 2))
    args = (y.clone(), S.contiguous(), B, codes_a, codes_b, slots, [4, 7], 0.7)
    torch.library.opcheck(torch.ops.dpg_fast.lora_stacked_add_.default, args)


def test_bad_arguments_are_named() -> None:
    y, S, B, codes_a, codes_b, slots = stacked_case(5, 2, 3, torch.float32, (4, 7))
    with pytest.raises(ValueError, match="widths must add up to the 11 columns of y"):
        lora_stacked_add(y, S, B, codes_a, codes_b, slots, (4, 6))
    with pytest.raises(ValueError, match=r"S must have shape \[T, G \* K \* r\]"):
        lora_stacked_add(y, S[:, 1:], B, codes_a, codes_b, slots, (4, 7))
    with pytest.raises(TypeError, match="S must be torch"):
        lora_stacked_add(y, S.double(), B, codes_a, codes_b, slots, (4, 7))
    with pytest.raises(IndexError, match="slots"):
        lora_stacked_add(y, S, B, codes_a, codes_b, slots + 4, (4, 7))
    with pytest.raises(ValueError, match="multiple of groups"):
        lora_combine(S[:, 1:], codes_a, slots, 2)
    with pytest.raises(ValueError, match="groups must be at least 1"):
        lora_combine(S, codes_a, slots, 0)
