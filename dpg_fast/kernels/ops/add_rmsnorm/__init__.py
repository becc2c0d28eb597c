"""add_rmsnorm: the residual addition and the RMSNorm after a linear layer, whose LoRA expand rides along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._library import library, nobody_watches
from dpg_fast.kernels.ops.add_rmsnorm import cuda as _cuda
from dpg_fast.kernels.ops.add_rmsnorm.backward import add_rmsnorm_backward
from dpg_fast.kernels.ops.add_rmsnorm.reference import add_rmsnorm_reference
from dpg_fast.kernels.types import RideAlong

_NO_LORA = (None, None, None, None, 1.0)


def add_rmsnorm(
    y: Tensor, residual: Tensor, weight: Tensor, eps: float, *, unit_offset: bool = False, lora: RideAlong | None = None
) -> tuple[Tensor, Tensor]:
    """h = residual + (y + delta), and out = h / sqrt(mean(h^2) + eps) * weight.

    In a decoder layer y comes from o or down, h is the next residual and out the input of what follows. The delta, h and
    the normed values are rounded to the dtype of y, as by lora_expand_add, an addition and Hugging Face's LlamaRMSNorm;
    arithmetic is float32. Source: RMSNorm, arXiv 1910.07467.

    Args:
        y, residual: [..., d], one shape and dtype (float32, bfloat16, float16 or float64), unit stride in the last
            dimension. Not modified. T = product of the leading dimensions.
        weight: [d], dtype of y, contiguous.
        eps: added to the mean square; not negative.
        unit_offset: multiply by 1 + weight, rounding only the product (Gemma's norm), instead of by weight.
        lora: the expand added to y, or None; tokens with slot -1 get none.

    Returns:
        (h, out): shape and dtype of y, contiguous.

    Raises:
        TypeError, ValueError: dtype, shape, stride, device or eps not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot out of range (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve.
    """
    if lora is not None:
        lora = _checks.as_group("lora", RideAlong, lora)
    wants_grad = torch.is_grad_enabled() and (
        _checks.wants_grad(y, residual, weight) or (lora is not None and _checks.wants_grad(lora.u, lora.B, lora.codes))
    )
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not wants_grad
        and nobody_watches()
        and isinstance(y, Tensor)
        and (y.is_cpu or dispatch.direct_cuda)
        and eps >= 0
    ):
        h = torch.empty_like(y, memory_format=torch.contiguous_format)
        out = torch.empty_like(y, memory_format=torch.contiguous_format)
        if _cpu.C.add_rmsnorm(h, out, y, residual, weight, eps, unit_offset, lora):
            return h, out
    _checks.check_tensors(y=y, residual=residual, weight=weight)
    if lora is not None:
        _checks.check_tensors(
            **{"lora.u": lora.u, "lora.B": lora.B, "lora.codes": lora.codes, "lora.slots": lora.slots}
        )
    rows, added = _checks.as_rows("y", y), _checks.as_rows("residual", residual)
    check(rows, added, weight, eps, lora)
    args = (rows, added, weight, float(eps), unit_offset, *(lora or _NO_LORA))
    h, out = AddRmsnorm.apply(*args) if wants_grad else torch.ops.dpg_fast.add_rmsnorm(*args)
    return h.view(y.shape), out.view(y.shape)


def check(y: Tensor, residual: Tensor, weight: Tensor, eps: float, lora: RideAlong | None) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    _checks.check_float("y", y)
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, got {eps}")
    tokens, d = y.shape
    _checks.check_dtype("residual", residual, y.dtype, "the dtype of y")
    _checks.check_shape("residual", residual, (tokens, d), "[T, d]")
    _checks.check_dtype("weight", weight, y.dtype, "the dtype of y")
    _checks.check_shape("weight", weight, (d,), "[d]")
    _checks.check_contiguous("weight", weight)
    _checks.check_device(y, residual=residual, weight=weight)
    if lora is None:
        return
    _checks.check_bank_b("lora.B", lora.B, d, y.dtype)
    _checks.check_dtype("lora.u", lora.u, _checks.side_dtype(y.dtype), "what lora_shrink returns")
    _checks.check_shape("lora.u", lora.u, (tokens, lora.B.shape[1]), "[T, r]")
    _checks.check_contiguous("lora.u", lora.u)
    _checks.check_codes("lora.codes", lora.codes, lora.B.shape[0], y.dtype)
    _checks.check_slots("lora.slots", lora.slots, tokens)
    of_lora = {"lora.u": lora.u, "lora.B": lora.B, "lora.codes": lora.codes, "lora.slots": lora.slots}
    _checks.check_device(y, **of_lora)
    _checks.check_slot_range(lora.slots, lora.codes.shape[0])


def _run_cpu(y: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool, *rest: Any) -> Any:
    h, out = (torch.empty(y.shape, dtype=y.dtype) for _ in range(2))
    lora = None if rest[0] is None else rest
    done = _cpu.call("add_rmsnorm", h, out, y, residual, weight, eps, unit_offset, lora)
    return (h, out) if done else NotImplemented


def _run_reference(
    y: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool, *rest: Any
) -> tuple[Tensor, Tensor]:
    lora = None if rest[0] is None else RideAlong(*rest)
    h, out = add_rmsnorm_reference(y, residual, weight, eps, unit_offset=unit_offset, lora=lora)
    return h.contiguous(), out.contiguous()


library.define(
    "add_rmsnorm(Tensor y, Tensor residual, Tensor weight, float eps, bool unit_offset, Tensor? u, Tensor? B, "
    "Tensor? codes, Tensor? slots, float scale) -> (Tensor, Tensor)"
)
library.impl("add_rmsnorm", lambda *args: dispatch.call("add_rmsnorm", *args), "CompositeExplicitAutograd")


@torch.library.register_fake("dpg_fast::add_rmsnorm", lib=library)
def _fake(y: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(y.shape, dtype=y.dtype, device=y.device), torch.empty(y.shape, dtype=y.dtype, device=y.device)


class AddRmsnorm(torch.autograd.Function):
    """Autograd around the op: gradients of y, residual, weight, u, B and codes."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        unit_offset: bool,
        u: Tensor | None,
        B: Tensor | None,
        codes: Tensor | None,
        slots: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Runs the op and keeps h, weight and the expand's arguments."""
        h, out = torch.ops.dpg_fast.add_rmsnorm(y, residual, weight, eps, unit_offset, u, B, codes, slots, scale)
        ctx.save_for_backward(h, weight, u, B, codes, slots)
        ctx.eps, ctx.unit_offset, ctx.scale = eps, unit_offset, scale
        return h, out

    @staticmethod
    def backward(ctx: Any, gh: Tensor, gout: Tensor) -> tuple[Tensor | None, ...]:
        """y and residual share their gradient."""
        h, weight, u, B, codes, slots = ctx.saved_tensors
        n = ctx.needs_input_grad
        lora = None if u is None else RideAlong(u, B, codes, slots, ctx.scale)
        needs = (n[2], n[5], n[6], n[7])
        g, g_weight, gu, gB, gcodes = add_rmsnorm_backward(gh, gout, h, weight, ctx.eps, ctx.unit_offset, lora, needs)
        return g, g, g_weight, None, None, gu, gB, gcodes, None, None


dispatch.register("add_rmsnorm", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "add_rmsnorm",
    "triton",
    _triton.lazy("add_rmsnorm"),
    lambda y, residual, weight, eps, unit_offset, u, B, *rest: _triton.verify(y, rank=1 if B is None else B.shape[-2]),
)
dispatch.register("add_rmsnorm", "cpu", _run_cpu, lambda y, *rest: _cpu.verify(y))
dispatch.register("add_rmsnorm", "reference", _run_reference, lambda *args: (True, ""))

__all__ = ["add_rmsnorm", "add_rmsnorm_reference"]
