"""lora_add: both sides of a LoRA bank in one call, in place on the output of the base linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._library import bump_version, library, nobody_watches
from dpg_fast.kernels.ops.lora_add import cuda as _cuda
from dpg_fast.kernels.ops.lora_add.reference import lora_add_reference
from dpg_fast.kernels.ops.lora_expand_add import lora_expand_add
from dpg_fast.kernels.ops.lora_shrink import check as check_shrink
from dpg_fast.kernels.ops.lora_shrink import lora_shrink


def lora_add(
    y: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    codes_a: Tensor,
    codes_b: Tensor,
    slots: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """`lora_expand_add(y, lora_shrink(x, A, codes_a, slots), B, codes_b, slots, scale)` in one call.

    The two ways agree bit for bit.

    Args:
        y: [..., d_out], float32, bfloat16, float16 or float64; unit stride in the last dimension; changed in
            place.
        x: [..., d_in], dtype of y, unit stride in the last dimension; as many tokens T as y.
        A: [K, r, d_in], contiguous, dtype of y.
        B: [K, r, d_out], dtype of y, unit inner stride, rows (k, j) evenly spaced.
        codes_a, codes_b: [S, K] float32 (float64 beside float64), contiguous.
        slots: int32 [T], -1 (y untouched) or a row of the codes.
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
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not (torch.is_grad_enabled() and _checks.wants_grad(y, x, A, B, codes_a, codes_b))
        and nobody_watches()
        and _cpu.C.lora_add(y, x, A, B, codes_a, codes_b, slots, scale)
    ):
        return y
    _checks.check_tensors(y=y, x=x, A=A, B=B, codes_a=codes_a, codes_b=codes_b, slots=slots)
    if torch.is_grad_enabled() and _checks.wants_grad(y, x, A, B, codes_a, codes_b):
        return lora_expand_add(y, lora_shrink(x, A, codes_a, slots), B, codes_b, slots, scale)
    rows, inputs = _checks.as_rows("y", y), _checks.as_rows("x", x)
    check(rows, inputs, A, B, codes_a, codes_b, slots)
    torch.ops.dpg_fast.lora_add_(rows, inputs, A, B, codes_a, codes_b, slots, float(scale))
    bump_version(y)
    return y


def check(y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    if A.dim() != 3:
        raise ValueError(f"A must have shape [K, r, d_in], got {list(A.shape)}")
    check_shrink(x, A, codes_a, slots)
    _checks.check_dtype("y", y, x.dtype, "the dtype of x")
    _checks.check_written("y", y)
    _checks.check_shape("y", y, (x.shape[0], None), "[T, d_out]")
    _checks.check_bank_b("B", B, y.shape[-1], y.dtype)
    _checks.check_shape("B", B, (A.shape[0], A.shape[1], None), "[K, r, d_out]")
    _checks.check_codes("codes_b", codes_b, B.shape[0], y.dtype)
    _checks.check_shape("codes_b", codes_b, (codes_a.shape[0], None), "[S, K]")
    _checks.check_device(x, y=y, B=B, codes_b=codes_b)


def _run_cpu(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> Any:
    return None if _cpu.call("lora_add", y, x, A, B, codes_a, codes_b, slots, scale) else NotImplemented


def _run_reference(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> None:
    lora_add_reference(y, x, A, B, codes_a, codes_b, slots, scale)


library.define(
    "lora_add_(Tensor(a!) y, Tensor x, Tensor A, Tensor B, Tensor codes_a, Tensor codes_b, Tensor slots, "
    "float scale) -> ()"
)


@torch.library.impl(library, "lora_add_", "CompositeExplicitAutograd")
def _impl(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> None:
    dispatch.call("lora_add", y, x, A, B, codes_a, codes_b, slots, scale)


@torch.library.register_fake("dpg_fast::lora_add_", lib=library)
def _fake(
    y: Tensor, x: Tensor, A: Tensor, B: Tensor, codes_a: Tensor, codes_b: Tensor, slots: Tensor, scale: float
) -> None:
    return None


dispatch.register("lora_add", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "lora_add",
    "triton",
    _triton.lazy("lora_add"),
    lambda y, x, A, *rest: _triton.verify(y, rank=A.shape[-2]),
)
dispatch.register("lora_add", "cpu", _run_cpu, lambda y, *rest: _cpu.verify(y))
dispatch.register("lora_add", "reference", _run_reference, lambda *args: (True, ""))

__all__ = ["lora_add", "lora_add_reference"]
