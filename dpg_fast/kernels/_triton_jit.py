"""What the Triton kernels share: tuning, launching, roundings, activations, products.

A token's result must not depend on the batch around it. So everything that fixes the order of a sum (the
tile of a reduction, the number of splits, the kind of matrix instruction) follows from d, K, r and the dtype;
tuning varies the rest: tokens and columns per program, warps, stages. Sums over a tensor's axis, whose order
follows from the layout, only ever pick one element or one maximum in the forward kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpg_fast.kernels import _triton

#: Whether this process runs kernels under Triton's interpreter (fixed when they are defined).
INTERPRETED = tl.constexpr(_triton.interpreting())

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)

#: Products are fused with sums only where a kernel says so: its variants then agree bit for bit.
_OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}

_ready: set[tuple[Any, ...]] = set()
_recorded: list[tuple[Any, dict[str, Any]]] | None = None


@contextmanager
def recorded() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Within the block kernels are not run but listed, as (kernel, arguments); tensors may be on "meta"."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n (and 1)."""
    return 1 << max(n - 1, 0).bit_length()


def rank_tile(r: int, dtype: torch.dtype) -> int:
    """Ranks per product of an expand, padded. float32 products keep all of them in registers: few, or these spill."""
    return max(min(power_of_2(r), 16 if dtype == torch.float32 else 32), 16)


def token_bucket(tokens: int) -> int:
    """Coarse size of a batch, on which tuning is keyed. Kernels get it as a number they do not read, so a new one
    means measuring again, not compiling again."""
    return next((b for b in (16, 64, 512) if tokens <= b), 4096)


def config(warps: int, stages: int, **blocks: int) -> triton.Config:
    """A candidate for tuning."""
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


def fitting(configs: list[triton.Config], named: dict[str, Any], **rest: Any) -> list[triton.Config]:
    """Candidates for this many tokens: a tile of 32 would be half empty for 16."""
    return [c for c in configs if c.kwargs["BT"] <= 16 or {**named, **rest}["TOKENS"] > 16]


def _bench(call: Callable[[], Any], quantiles: Sequence[float]) -> Any:
    """A fifth of Triton's 125 ms for each candidate, which are thousands of calls of kernels like these."""
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)


def tuned(
    configs: Sequence[triton.Config],
    key: list[str],
    restore: list[str] | None = None,
    prune: Callable[..., list[triton.Config]] | None = None,
) -> Callable[[Any], Any]:
    """`triton.autotune`; under the interpreter only the first candidate, so nothing is measured.

    `restore` names the tensors that a kernel changes in place.
    """
    return triton.autotune(
        configs=list(configs[:1] if INTERPRETED.value else configs),
        key=key,
        restore_value=restore,
        do_bench=_bench,
        cache_results=True,
        prune_configs_by={"early_config_prune": prune} if prune else None,
    )


def capturing(on: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the current stream; only what is loaded can be launched then."""
    return on.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def _loading_forbidden() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "captur" not in str(error):
            raise
        raise RuntimeError(
            "a Triton kernel would be loaded while a CUDA graph is captured, which the driver forbids: make the same call once "
            "before capturing (the CUDA backend needs no such call)"
        ) from error


def launch(kernel: Any, grid: Any, on: Tensor, key: tuple[Any, ...], **arguments: Any) -> None:
    """Runs a tuned kernel on the current stream of `on`'s device.

    While a CUDA graph is captured nothing can be measured: a size (`key`) not seen before then runs with the
    first candidate, whose results are the same. Warm up before capturing to have the fastest one.

    Raises:
        RuntimeError: while capturing, of a kernel that has not been loaded: the driver forbids loading then.
    """
    if _recorded is not None:
        _recorded.append((kernel, {**arguments, **_OPTIONS}))
        return
    if on.device.type == "cpu":
        kernel[grid](**arguments, **_OPTIONS)
        return
    with torch.cuda.device(on.device):
        known = (id(kernel), on.device.index, on.dtype, *key)
        if known not in _ready and torch.cuda.is_current_stream_capturing():
            with _loading_forbidden():
                kernel.fn[grid](**arguments, **_OPTIONS, **kernel.configs[0].all_kwargs())
            return
        kernel[grid](**arguments, **_OPTIONS)
        _ready.add(known)


def launch_plain(kernel: Any, grid: Any, on: Tensor, **arguments: Any) -> None:
    """Runs a kernel that is not tuned on the current stream of `on`'s device; raises as `launch` does."""
    if _recorded is not None:
        _recorded.append((kernel, {**arguments, **_OPTIONS}))
        return
    if on.device.type == "cpu":
        kernel[grid](**arguments, **_OPTIONS)
        return
    with torch.cuda.device(on.device):
        if torch.cuda.is_current_stream_capturing():
            with _loading_forbidden():
                kernel[grid](**arguments, **_OPTIONS)
            return
        kernel[grid](**arguments, **_OPTIONS)


@triton.jit
def widened(x: tl.tensor) -> tl.tensor:
    """float32 of x, exactly."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def rounded(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """float32 x to the nearest value of dtype, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter would truncate
        bits = x.to(tl.int32, bitcast=True)
        up = bits + 0x7FFF + ((bits >> 16) & 1)
        return (tl.where(x == x, up, bits) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def product_interpreted(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """The interpreter's product, which knows no bfloat16, and whose float32 sums depend on the row's place."""
    return acc + tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64).to(tl.float32)


@triton.jit
def product(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """acc + a @ b: float32 sums of exact products."""
    if INTERPRETED:
        return product_interpreted(widened(a), widened(b), acc)
    if a.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit
def product_wide(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """acc + a @ b for float32 a beside b of any dtype: a enters as two halves, so next to nothing is lost."""
    if INTERPRETED:
        return product_interpreted(a, widened(b), acc)
    if b.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision="ieee")
    if b.dtype == tl.bfloat16:
        high = a.to(tl.bfloat16)
        low = (a - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(high, b, tl.dot(low, b, acc))
    # float16 would overflow; tf32 holds every float16, and 11 bits of a at a time.
    wide = b.to(tl.float32)
    high = (a.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    acc = tl.dot(a - high, wide, acc, input_precision="tf32")
    return tl.dot(high, wide, acc, input_precision="tf32")


@triton.jit
def exponential(x: tl.tensor) -> tl.tensor:
    """e^x to about one unit in the last place; the GPU's own scaling of x by log2(e) loses digits."""
    if INTERPRETED:  # numpy's own float32 exponential is off by more
        return tl.exp(x.to(tl.float64)).to(tl.float32)
    scaled = x * _LOG2E
    rest = tl.fma(x, _LOG2E, -scaled)
    e = tl.exp2(scaled)
    return tl.where(tl.abs(x) < 87.0, tl.fma(e, rest * _LN2, e), e)


@triton.jit
def logistic(y: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """s = 1 / (1 + e^-y) and s (1 - s), without cancellation or overflow."""
    q = exponential(-tl.abs(y))
    r = tl.div_rn(1.0, 1.0 + q)
    return tl.where(y >= 0.0, r, q * r), q * r * r


@triton.jit
def tanh_argument(x: tl.tensor) -> tl.tensor:
    """2 z, where gelu_tanh(x) = x/2 (1 + tanh z) = x sigmoid(2 z)."""
    return x * tl.fma(0.07135481627260025 * x, x, 1.5957691216057308)


@triton.jit
def activation(x: tl.tensor, ACT: tl.constexpr) -> tl.tensor:
    """silu, gelu_tanh or gelu of float32 x."""
    if ACT == "silu":
        return tl.div_rn(x, 1.0 + exponential(-x))
    elif ACT == "gelu_tanh":
        return tl.div_rn(x, 1.0 + exponential(-tanh_argument(x)))
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def activation_slope(x: tl.tensor, ACT: tl.constexpr) -> tl.tensor:
    """Derivative of the activation at float32 x."""
    if ACT == "silu":
        s, bend = logistic(x)
        return s + x * bend
    elif ACT == "gelu_tanh":
        s, bend = logistic(tanh_argument(x))
        return s + x * bend * tl.fma(0.21406444881780074 * x, x, 1.5957691216057308)
    else:
        density = 0.3989422804014327 * exponential(-0.5 * x * x)
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * density


@triton.jit
def slots_of(slots: tl.tensor, tokens: tl.tensor, T: tl.tensor, rows: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Slots of these tokens and whether they are rows of the table: (int32, bool)."""
    slot = tl.load(slots + tokens, mask=tokens < T, other=-1)
    return slot, (slot >= 0) & (slot < rows)


@triton.jit
def expanded_from(
    acc: tl.tensor,
    u: tl.tensor,
    B: tl.tensor,
    codes: tl.tensor,
    slot: tl.tensor,
    valid: tl.tensor,
    columns: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    stride_k: tl.tensor,
    stride_j: tl.tensor,
    first: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    """acc + scale * sum_k codes[slot, k] * (u @ B[k, first : first + RANK]): [BT, BN] float32.

    u [BT, RANK], 0 beyond R and for tokens that are not valid; columns of B before `end`.
    """
    j = first + tl.arange(0, RANK)
    inside = (j < R)[:, None] & (columns < end)[None, :]
    for k in range(0, K):
        code = scale * tl.load(codes + slot * K + k, mask=valid, other=0.0)
        entry = tl.load(B + k * stride_k + j[:, None] * stride_j + columns[None, :], mask=inside, other=0.0)
        acc = product_wide(u * code[:, None], entry, acc)
    return acc


@triton.jit
def expanded(
    acc: tl.tensor,
    u: tl.tensor,
    B: tl.tensor,
    codes: tl.tensor,
    tokens: tl.tensor,
    slot: tl.tensor,
    valid: tl.tensor,
    columns: tl.tensor,
    d: tl.tensor,
    scale: tl.tensor,
    stride_k: tl.tensor,
    stride_j: tl.tensor,
    plane: tl.tensor,
    PLANES: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    """The sum of `expanded_from` over all of R, with u the sum of PLANES tensors [T, R], `plane` elements apart."""
    for first in range(0, R, RANK):
        j = first + tl.arange(0, RANK)
        inside = valid[:, None] & (j < R)[None, :]
        where = tokens.to(tl.int64)[:, None] * R + j[None, :]
        values = tl.load(u + where, mask=inside, other=0.0)
        for p in range(1, PLANES):
            values += tl.load(u + p * plane + where, mask=inside, other=0.0)
        acc = expanded_from(
            acc, values, B, codes, slot, valid, columns, d, scale, stride_k, stride_j, first, K, R, RANK
        )
    return acc
