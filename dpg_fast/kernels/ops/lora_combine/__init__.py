"""lora_combine: what lora_shrink returns, from the products that the base layer's own product has already made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._grad import codes_of_tokens, into_slots, pieces
from dpg_fast.kernels._library import library, nobody_watches
from dpg_fast.kernels.ops.lora_combine import cuda as _cuda
from dpg_fast.kernels.ops.lora_combine.reference import lora_combine_reference


def lora_combine(S: Tensor, codes: Tensor, slots: Tensor, groups: int = 1) -> Tensor:
    """u[g, t] = sum_k codes[slots[t], k] * S[t, g, k]; 0 for tokens with slot -1.

    With the rows of a bank's A side below those of the base weight, one product gives y and S = x A^T ("N-stack").

    Args:
        S: [..., G * K * r], float32, bfloat16, float16 or float64, entry k of group g at columns
            (g K + k) r ...; unit stride in the last dimension. T = product of the rest.
        codes: [S, K] float32 (float64 beside float64), contiguous.
        slots: int32 [T], -1 or a row of codes.
        groups: G, linears of the same input.

    Returns:
        [G, T, r]: float32 (float64 for float64 S).

    Raises:
        TypeError, ValueError: dtype, shape, stride or device not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot outside [-1, S) (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve.
    """
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not (torch.is_grad_enabled() and _checks.wants_grad(S, codes))
        and nobody_watches()
        and isinstance(S, Tensor)
        and isinstance(codes, Tensor)
        and isinstance(slots, Tensor)
        and (S.is_cpu or dispatch.direct_cuda)
        and codes.dim() == 2
        and type(groups) is int
        and groups > 0
        and slots.dim() == 1
    ):
        rank = S.shape[-1] // max(groups * codes.shape[1], 1)
        shape = (groups, slots.shape[0], rank)
        u = torch.empty(shape) if S.is_cpu else torch.empty(shape, dtype=torch.float32, device=S.device)
        if u.dtype is torch.float32 and _cpu.C.lora_combine(u, S, codes, slots):
            return u
    _checks.check_tensors(S=S, codes=codes, slots=slots)
    S = _checks.as_rows("S", S)
    check(S, codes, slots, groups)
    if torch.is_grad_enabled() and _checks.wants_grad(S, codes):
        return LoraCombine.apply(S, codes, slots, groups)
    return torch.ops.dpg_fast.lora_combine(S, codes, slots, groups)


def check(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    _checks.check_float("S", S)
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if codes.dim() != 2:
        raise ValueError(f"codes must have shape [S, K], got {list(codes.shape)}")
    K = codes.shape[1]
    if K * groups and S.shape[1] % (K * groups):
        raise ValueError(f"S has {S.shape[1]} columns, which is not a multiple of groups * K = {groups} * {K}")
    _checks.check_codes("codes", codes, K, S.dtype)
    _checks.check_slots("slots", slots, S.shape[0])
    _checks.check_device(S, codes=codes, slots=slots)
    _checks.check_slot_range(slots, codes.shape[0])


def _empty(S: Tensor, codes: Tensor, groups: int) -> Tensor:
    shape = (groups, S.shape[0], S.shape[1] // max(groups * codes.shape[1], 1))
    return torch.empty(shape, dtype=_checks.side_dtype(S.dtype), device=S.device)


def _run_cpu(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
    u = _empty(S, codes, groups)
    return u if _cpu.call("lora_combine", u, S, codes, slots) else NotImplemented


library.define("lora_combine(Tensor S, Tensor codes, Tensor slots, int groups) -> Tensor")
library.impl("lora_combine", lambda *args: dispatch.call("lora_combine", *args), "CompositeExplicitAutograd")


@torch.library.register_fake("dpg_fast::lora_combine", lib=library)
def _fake(S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
    return _empty(S, codes, groups)


class LoraCombine(torch.autograd.Function):
    """Autograd around the op, for gradients of S and codes."""

    @staticmethod
    def forward(ctx: Any, S: Tensor, codes: Tensor, slots: Tensor, groups: int) -> Tensor:
        """Runs the op and keeps its inputs."""
        ctx.save_for_backward(S, codes, slots)
        ctx.groups = groups
        return torch.ops.dpg_fast.lora_combine(S, codes, slots, groups)

    @staticmethod
    def backward(ctx: Any, gu: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of S and codes."""
        S, codes, slots = ctx.saved_tensors
        spread = gu.transpose(0, 1)[:, :, None, :]  # [T, G, 1, r]
        of_token = codes_of_tokens(codes, slots)[:, None, :, None]
        shape = (-1, ctx.groups, codes.shape[1], gu.shape[2])
        gS = torch.empty(S.shape, dtype=S.dtype, device=S.device) if ctx.needs_input_grad[0] else None
        per_token = []
        for piece in pieces(*S.shape):
            if gS is not None:
                gS[piece] = (of_token[piece] * spread[piece]).flatten(1)
            if ctx.needs_input_grad[1]:
                per_token.append((S[piece].view(shape) * spread[piece]).sum((1, 3)))
        gcodes = into_slots(torch.cat(per_token), slots, codes.shape[0]) if per_token else None
        return gS, gcodes, None, None


dispatch.register("lora_combine", "cuda", _cuda.run, _cuda.verify)
dispatch.register("lora_combine", "triton", _triton.lazy("lora_combine"), lambda S, *rest: _triton.verify(S))
dispatch.register("lora_combine", "cpu", _run_cpu, lambda S, *rest: _cpu.verify(S))
dispatch.register("lora_combine", "reference", lora_combine_reference, lambda *args: (True, ""))

__all__ = ["lora_combine", "lora_combine_reference"]
