"""lora_expand_add: the B side of a bank of LoRA pairs, added in place to the output of the base linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._grad import expand_backward
from dpg_fast.kernels._library import bump_version, library, nobody_watches
from dpg_fast.kernels.ops.lora_expand_add import cuda as _cuda
from dpg_fast.kernels.ops.lora_expand_add.reference import lora_expand_add_reference, lora_expanded_reference


def lora_expand_add(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float = 1.0) -> Tensor:
    """y[t] += scale * sum_k codes[slots[t], k] * (B[k].T @ u[t]), in place; slot -1 leaves y untouched.

    Args:
        y: [..., d_out], float32, bfloat16, float16 or float64; unit stride in the last dimension. T =
            product of the rest.
        u: [T, r] float32 (float64 beside float64), contiguous.
        B: [K, r, d_out], dtype of y, unit inner stride, rows (k, j) evenly spaced: contiguous, or a column
            slice.
        codes: [S, K] float32 (float64 beside float64), contiguous.
        slots: int32 [T], -1 or a row of codes.
        scale: usually alpha / r.

    The delta is accumulated in float32 and rounded once, when added. Without gradients the write is not
    recorded in y's autograd version.

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
        and not (torch.is_grad_enabled() and _checks.wants_grad(y, u, B, codes))
        and nobody_watches()
        and _cpu.C.lora_expand_add(y, u, B, codes, slots, scale)
    ):
        return y
    _checks.check_tensors(y=y, u=u, B=B, codes=codes, slots=slots)
    rows = _checks.as_rows("y", y)
    check(rows, u, B, codes, slots)
    if torch.is_grad_enabled() and _checks.wants_grad(y, u, B, codes):
        if torch.compiler.is_dynamo_compiling():
            rows.copy_(LoraExpanded.apply(rows, u, B, codes, slots, float(scale)))
        else:
            LoraExpandAdd.apply(rows, u, B, codes, slots, float(scale))
    else:
        torch.ops.dpg_fast.lora_expand_add_(rows, u, B, codes, slots, float(scale))
        bump_version(y)
    return y


def check(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    _checks.check_float("y", y)
    _checks.check_written("y", y)
    _checks.check_bank_b("B", B, y.shape[-1], y.dtype)
    _checks.check_dtype("u", u, _checks.side_dtype(y.dtype), "what lora_shrink returns")
    _checks.check_shape("u", u, (y.shape[0], B.shape[1]), "[T, r]")
    _checks.check_contiguous("u", u)
    _checks.check_codes("codes", codes, B.shape[0], y.dtype)
    _checks.check_slots("slots", slots, y.shape[0])
    _checks.check_device(y, u=u, B=B, codes=codes, slots=slots)
    _checks.check_slot_range(slots, codes.shape[0])


def _run_cpu(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Any:
    return None if _cpu.call("lora_expand_add", y, u, B, codes, slots, scale) else NotImplemented


def _run_reference(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> None:
    lora_expand_add_reference(y, u, B, codes, slots, scale)


library.define("lora_expand_add_(Tensor(a!) y, Tensor u, Tensor B, Tensor codes, Tensor slots, float scale) -> ()")


@torch.library.impl(library, "lora_expand_add_", "CompositeExplicitAutograd")
def _impl(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> None:
    dispatch.call("lora_expand_add", y, u, B, codes, slots, scale)


@torch.library.register_fake("dpg_fast::lora_expand_add_", lib=library)
def _fake(y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> None:
    return None


class LoraExpandAdd(torch.autograd.Function):
    """Autograd around the in-place op, for gradients of y, u, B and codes."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
        """Runs the op in place and keeps what the gradient needs (not y)."""
        ctx.mark_dirty(y)
        ctx.save_for_backward(u, B, codes, slots)
        ctx.scale = scale
        torch.ops.dpg_fast.lora_expand_add_(y, u, B, codes, slots, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Dense gradients; y's is passed on."""
        u, B, codes, slots = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grads = expand_backward(gy, u, B, codes, slots, ctx.scale, (needs[1], needs[2], needs[3]))
        return (gy, *grads, None, None)


class LoraExpanded(torch.autograd.Function):
    """The same, out of place: what torch.compile traces, whose graphs are functional anyway."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, B: Tensor, codes: Tensor, slots: Tensor, scale: float) -> Tensor:
        """Runs the op on a copy of y."""
        ctx.save_for_backward(u, B, codes, slots)
        ctx.scale = scale
        out = y.clone()
        torch.ops.dpg_fast.lora_expand_add_(out, u, B, codes, slots, scale)
        return out

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        """Dense gradients; y's is passed on."""
        u, B, codes, slots = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grads = expand_backward(gy, u, B, codes, slots, ctx.scale, (needs[1], needs[2], needs[3]))
        return (gy, *grads, None, None)


dispatch.register("lora_expand_add", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "lora_expand_add",
    "triton",
    _triton.lazy("lora_expand_add"),
    lambda y, u, B, *rest: _triton.verify(y, rank=B.shape[-2]),
)
dispatch.register("lora_expand_add", "cpu", _run_cpu, lambda y, *rest: _cpu.verify(y))
dispatch.register("lora_expand_add", "reference", _run_reference, lambda *args: (True, ""))

__all__ = ["lora_expand_add", "lora_expand_add_reference", "lora_expanded_reference"]
