"""lora_stacked_add: the LoRA part of several linears of one input, after one stacked product has made y and S."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._library import bump_version, library, nobody_watches
from dpg_fast.kernels.ops.lora_combine import check as check_combine
from dpg_fast.kernels.ops.lora_combine import lora_combine
from dpg_fast.kernels.ops.lora_expand_add import lora_expand_add
from dpg_fast.kernels.ops.lora_stacked_add import cuda as _cuda
from dpg_fast.kernels.ops.lora_stacked_add.reference import lora_stacked_add_reference


def lora_stacked_add(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: tuple[int, ...],
    scale: float = 1.0,
) -> Tensor:
    """Adds to each group of columns of y the expand of its group of S, in place; slot -1 leaves y untouched.

    `x @ [W_1; ...; W_G; A_1; ...; A_G]^T` gives y (its first columns) and S (its last): this op does the rest for all
    G linears in one call. Group g has widths[g] columns of y and of B, and columns g K r ... of S.

    Args:
        y: [..., sum(widths)], float32, bfloat16, float16 or float64; unit stride in the last dimension; changed in
            place. T = product of the rest.
        S: [..., G * K * r], dtype of y, unit stride in the last dimension; as many tokens as y.
        B: [K, r, sum(widths)], dtype of y, unit inner stride, rows (k, j) evenly spaced: the banks side by side.
        codes_a, codes_b: [S, K] float32 (float64 beside float64), contiguous.
        slots: int32 [T], -1 or a row of the codes.
        widths: outputs of each linear.
        scale: usually alpha / r.

    Without gradients the write is not recorded in y's autograd version.

    Returns:
        y.

    Raises:
        TypeError, ValueError: dtype, shape, stride or device not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot outside [-1, S) (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve, or y cannot be written to: an inference tensor outside inference mode, or
            a leaf that requires a gradient.
    """
    wants_grad = torch.is_grad_enabled() and _checks.wants_grad(y, S, B, codes_a, codes_b)
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not wants_grad
        and nobody_watches()
        and _cpu.C.lora_stacked_add(y, S, B, codes_a, codes_b, slots, widths, scale)
    ):
        return y
    _checks.check_tensors(y=y, S=S, B=B, codes_a=codes_a, codes_b=codes_b, slots=slots)
    rows, products = _checks.as_rows("y", y), _checks.as_rows("S", S)
    check(rows, products, B, codes_a, codes_b, slots, widths)
    if B.shape[0] == 0:  # S has no columns then, which would tell the rank
        return y
    if wants_grad:
        u = lora_combine(products, codes_a, slots, len(widths))
        begin = 0
        for group, width in enumerate(widths):
            columns = slice(begin, begin + width)
            lora_expand_add(rows[:, columns], u[group], B[:, :, columns], codes_b, slots, scale)
            begin += width
        return y
    torch.ops.dpg_fast.lora_stacked_add_(rows, products, B, codes_a, codes_b, slots, list(widths), float(scale))
    bump_version(y)
    return y


def check(
    y: Tensor, S: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, widths: tuple[int, ...]
) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    _checks.check_float("y", y)
    _checks.check_written("y", y)
    if not widths or min(widths) < 0 or sum(widths) != y.shape[1]:
        raise ValueError(f"widths must add up to the {y.shape[1]} columns of y, got {tuple(widths)}")
    _checks.check_bank_b("B", B, y.shape[1], y.dtype)
    _checks.check_dtype("S", S, y.dtype, "the dtype of y")
    _checks.check_shape("S", S, (y.shape[0], len(widths) * B.shape[0] * B.shape[1]), "[T, G * K * r]")
    check_combine(S, codes_a, slots, len(widths))
    for name, codes in (("codes_a", codes_a), ("codes_b", codes_b)):
        _checks.check_codes(name, codes, B.shape[0], y.dtype)
    _checks.check_shape("codes_b", codes_b, (codes_a.shape[0], None), "[S, K]")
    _checks.check_device(y, S=S, B=B, codes_b=codes_b)


def _run_cpu(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: list[int],
    scale: float,
) -> Any:
    done = _cpu.call("lora_stacked_add", y, S, B, codes_a, codes_b, slots, tuple(widths), scale)
    return None if done else NotImplemented


def _verify_cpu(
    y: Tensor, S: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, widths: list[int], scale: float
) -> tuple[bool, str]:
    if len(widths) > 8:
        return False, f"{len(widths)} groups (the CPU kernel takes up to 8)"
    return _cpu.verify(y)


library.define(
    "lora_stacked_add_(Tensor(a!) y, Tensor S, Tensor B, Tensor codes_a, Tensor codes_b, Tensor slots, int[] widths, "
    "float scale) -> ()"
)


@torch.library.impl(library, "lora_stacked_add_", "CompositeExplicitAutograd")
def _impl(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: list[int],
    scale: float,
) -> None:
    dispatch.call("lora_stacked_add", y, S, B, codes_a, codes_b, slots, widths, scale)


@torch.library.register_fake("dpg_fast::lora_stacked_add_", lib=library)
def _fake(
    y: Tensor,
    S: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    widths: list[int],
    scale: float,
) -> None:
    return None


def _run_reference(*args: object) -> None:
    lora_stacked_add_reference(*args)  # type: ignore[arg-type]


dispatch.register("lora_stacked_add", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "lora_stacked_add",
    "triton",
    _triton.lazy("lora_stacked_add"),
    lambda y, S, B, *rest: _triton.verify(y, rank=B.shape[-2]),
)
dispatch.register("lora_stacked_add", "cpu", _run_cpu, _verify_cpu)
dispatch.register("lora_stacked_add", "reference", _run_reference, lambda *args: (True, ""))

__all__ = ["lora_stacked_add", "lora_stacked_add_reference"]
