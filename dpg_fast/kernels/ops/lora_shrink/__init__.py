"""lora_shrink: the A side of a bank of LoRA pairs, combined by the codes of each token's slot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._grad import shrink_backward
from dpg_fast.kernels._library import library, nobody_watches
from dpg_fast.kernels.ops.lora_shrink import cuda as _cuda
from dpg_fast.kernels.ops.lora_shrink.reference import lora_shrink_reference


def lora_shrink(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    """u[t] = sum_k codes[slots[t], k] * (A[k] @ x[t]); 0 for tokens with slot -1.

    Args:
        x: [..., d_in], float32, bfloat16, float16 or float64; unit stride in the last dimension. T = product
            of the rest.
        A: [K, r, d_in], contiguous, dtype of x; or [G, K, r, d_in] for G linears of the same input.
        codes: [S, K] float32 (float64 beside float64), contiguous.
        slots: int32 [T], -1 or a row of codes.

    Returns:
        [T, r], or [G, T, r]: float32 (float64 for float64 x), accumulated in that precision. Codes or inputs that are not
        finite make the results of their tokens not finite; whether NaN or infinite is not defined.

    Raises:
        TypeError, ValueError: dtype, shape, stride or device not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot outside [-1, S) (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve.
    """
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not (torch.is_grad_enabled() and _checks.wants_grad(x, A, codes))
        and nobody_watches()
        and isinstance(x, Tensor)
        and isinstance(A, Tensor)
        and isinstance(slots, Tensor)
        and (x.is_cpu or dispatch.direct_cuda)
        and 3 <= A.dim() <= 4
    ):
        tokens, lead = slots.shape[0] if slots.dim() else 0, A.shape
        shape = (tokens, lead[-2]) if len(lead) == 3 else (lead[0], tokens, lead[-2])
        u = torch.empty(shape) if x.is_cpu else torch.empty(shape, dtype=torch.float32, device=x.device)
        if u.dtype is torch.float32 and _cpu.C.lora_shrink(u, x, A, codes, slots):
            return u
    _checks.check_tensors(x=x, A=A, codes=codes, slots=slots)
    x = _checks.as_rows("x", x)
    check(x, A, codes, slots)
    if torch.is_grad_enabled() and _checks.wants_grad(x, A, codes):
        return LoraShrink.apply(x, A, codes, slots)
    return torch.ops.dpg_fast.lora_shrink(x, A, codes, slots)


def check(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    _checks.check_float("x", x)
    _checks.check_dtype("A", A, x.dtype, "the dtype of x")
    if A.dim() == 4:
        _checks.check_shape("A", A, (None, None, None, x.shape[-1]), "[G, K, r, d_in]")
    else:
        _checks.check_shape("A", A, (None, None, x.shape[-1]), "[K, r, d_in]")
    _checks.check_contiguous("A", A)
    _checks.check_codes("codes", codes, A.shape[-3], x.dtype)
    _checks.check_slots("slots", slots, x.shape[0])
    _checks.check_device(x, A=A, codes=codes, slots=slots)
    _checks.check_slot_range(slots, codes.shape[0])


def _empty(x: Tensor, A: Tensor) -> Tensor:
    shape = (*A.shape[:-3], x.shape[0], A.shape[-2])
    return torch.empty(shape, dtype=_checks.side_dtype(x.dtype), device=x.device)


def _run_cpu(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    u = _empty(x, A)
    return u if _cpu.call("lora_shrink", u, x, A, codes, slots) else NotImplemented


library.define("lora_shrink(Tensor x, Tensor A, Tensor codes, Tensor slots) -> Tensor")
library.impl("lora_shrink", lambda *args: dispatch.call("lora_shrink", *args), "CompositeExplicitAutograd")


@torch.library.register_fake("dpg_fast::lora_shrink", lib=library)
def _fake(x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
    return _empty(x, A)


class LoraShrink(torch.autograd.Function):
    """Autograd around the op, for gradients of x, A and codes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
        """Runs the op and keeps its inputs."""
        ctx.save_for_backward(x, A, codes, slots)
        return torch.ops.dpg_fast.lora_shrink(x, A, codes, slots)

    @staticmethod
    def backward(ctx: Any, gu: Tensor) -> tuple[Tensor | None, ...]:
        """Dense gradients."""
        x, A, codes, slots = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (*shrink_backward(gu, x, A, codes, slots, (needs[0], needs[1], needs[2])), None)


dispatch.register("lora_shrink", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "lora_shrink",
    "triton",
    _triton.lazy("lora_shrink"),
    lambda x, A, codes, slots: _triton.verify(x, rank=A.shape[-2]),
)
dispatch.register("lora_shrink", "cpu", _run_cpu, lambda x, A, codes, slots: _cpu.verify(x, A))
dispatch.register("lora_shrink", "reference", lora_shrink_reference, lambda *args: (True, ""))
