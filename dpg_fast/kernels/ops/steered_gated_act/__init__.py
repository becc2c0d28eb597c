"""steered_gated_act: SwiGLU or GeGLU with both LoRA expands and neuron steering, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._library import library, nobody_watches
from dpg_fast.kernels.ops.steered_gated_act import cuda as _cuda
from dpg_fast.kernels.ops.steered_gated_act.backward import gated_backward
from dpg_fast.kernels.ops.steered_gated_act.reference import steer_reference, steered_gated_act_reference
from dpg_fast.kernels.types import ACTIVATIONS, GatedLora, Steering

_ACT_ID = {name: i for i, name in enumerate(ACTIVATIONS)}
_NO_LORA = (None, None, None, None, None, None, 1.0)
_NO_STEERING = (None, None, None, None)


def steered_gated_act(
    gate: Tensor, up: Tensor, act: str, *, lora: GatedLora | None = None, steering: Steering | None = None
) -> Tensor:
    """h = steer(act(gate + delta_gate)) * (up + delta_up).

    Every intermediate is rounded to the dtype of gate, as separate torch operations would round; arithmetic
    is float32. Steering of a token with active poles (strength > 0): neurons masked by an active pole are
    capped at zero, then `strength * add` of every active pole is added. Source: NPTI, arXiv 2410.12327.

    Args:
        gate, up: [..., I], one dtype (float32, bfloat16, float16 or float64), unit stride in the last
            dimension; they may be the two halves of one merged [..., 2 I]. Not modified. T = product of the
            leading dimensions.
        act: "silu", "gelu_tanh" or "gelu".
        lora: the expands of gate and up, or None; tokens with slot -1 get none.
        steering: masks, values and strengths, or None; tokens with slot -1 are not steered.

    Returns:
        h: shape and dtype of gate, contiguous.

    Raises:
        TypeError, ValueError: dtype, shape, stride, device or activation not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot out of range (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve.
    """
    if lora is not None:
        lora = _checks.as_group("lora", GatedLora, lora)
    if steering is not None:
        steering = _checks.as_group("steering", Steering, steering)
    wants_grad = torch.is_grad_enabled() and _wants_grad(gate, up, lora, steering)
    if (
        dispatch.direct
        and not torch.compiler.is_dynamo_compiling()
        and not wants_grad
        and nobody_watches()
        and isinstance(gate, Tensor)
        and (gate.is_cpu or dispatch.direct_cuda)
        and act in _ACT_ID
    ):
        h = torch.empty_like(gate, memory_format=torch.contiguous_format)  # half the time of torch.empty(shape, dtype)
        if _cpu.C.steered_gated_act(h, gate, up, _ACT_ID[act], lora, steering):
            return h
    tensors = {"gate": gate, "up": up}
    for group, values in (("lora", lora), ("steering", steering)):
        if values is not None:
            tensors |= {f"{group}.{name}": t for name, t in values._asdict().items() if name != "scale"}
    if lora is not None and lora.u_up is None:
        del tensors["lora.u_up"]
    _checks.check_tensors(**tensors)
    g, u = _checks.as_rows("gate", gate), _checks.as_rows("up", up)
    if lora is not None and lora.u_up is None:
        if lora.u_gate.dim() != 3 or lora.u_gate.shape[0] != 2:
            shape = list(lora.u_gate.shape)
            raise ValueError(f"lora.u_gate must have shape [2, T, r] when lora.u_up is None, got {shape}")
        lora = lora._replace(u_gate=lora.u_gate[0], u_up=lora.u_gate[1])
    check(g, u, act, lora, steering)
    args = (g, u, act, *(lora or _NO_LORA), *(steering or _NO_STEERING))
    if wants_grad:
        if args[-1] is args[8]:
            args = (*args[:-1], None)  # torch.compile wants each tensor once; the Function puts it back
        h = SteeredGatedAct.apply(*args)
    else:
        h = torch.ops.dpg_fast.steered_gated_act(*args)
    return h.view(gate.shape)


def steered(v: Tensor, steering: Steering) -> Tensor:
    """steer(v) for values that an activation has already given, as in MLPs without a gate; plain torch operations.

    Args:
        v: [..., I], of any floating dtype; T = product of the leading dimensions. Not modified.
        steering: as in `steered_gated_act`.

    Returns:
        Shape and dtype of v; arithmetic is float32 (float64 for float64), rounded once.

    Raises:
        TypeError, ValueError, IndexError: as `steered_gated_act`.
    """
    if not torch.compiler.is_dynamo_compiling():
        steering = _checks.as_group("steering", Steering, steering)
        _checks.check_tensors(v=v, **{f"steering.{name}": t for name, t in steering._asdict().items()})
        if v.dim() == 0:
            raise ValueError("v must have at least one dimension, got a scalar")
    rows = v.reshape(-1, v.shape[-1])
    if not torch.compiler.is_dynamo_compiling():
        _checks.check_float("v", rows)
        _checks.check_steering(*steering, rows)
        _checks.check_slot_range(steering.slots, steering.strengths.shape[0])
    wide = torch.float64 if v.dtype == torch.float64 else torch.float32
    return steer_reference(rows.to(wide), steering).to(v.dtype).view(v.shape)


def _wants_grad(gate: Tensor, up: Tensor, lora: GatedLora | None, steering: Steering | None) -> bool:
    return (
        _checks.wants_grad(gate, up)
        or (lora is not None and _checks.wants_grad(lora.u_gate, lora.B_gate, lora.u_up, lora.B_up, lora.codes))
        or (steering is not None and _checks.wants_grad(steering.add, steering.strengths))
    )


def check(gate: Tensor, up: Tensor, act: str, lora: GatedLora | None, steering: Steering | None) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    if act not in _ACT_ID:
        raise ValueError(f"unknown activation {act!r}; known: {', '.join(ACTIVATIONS)}")
    _checks.check_float("gate", gate)
    _checks.check_dtype("up", up, gate.dtype, "the dtype of gate")
    _checks.check_shape("up", up, tuple(gate.shape), "[T, I]")
    _checks.check_device(gate, up=up)
    tokens, width = gate.shape
    if lora is not None:
        assert lora.u_up is not None  # the caller has split a packed u
        for name, u, B in (("gate", lora.u_gate, lora.B_gate), ("up", lora.u_up, lora.B_up)):
            _checks.check_bank_b(f"lora.B_{name}", B, width, gate.dtype)
            _checks.check_shape(f"lora.B_{name}", B, (*lora.B_gate.shape[:2], None), "[K, r, I]")
            _checks.check_dtype(f"lora.u_{name}", u, _checks.side_dtype(gate.dtype), "what lora_shrink returns")
            _checks.check_shape(f"lora.u_{name}", u, (tokens, B.shape[1]), "[T, r]")
            _checks.check_contiguous(f"lora.u_{name}", u)
            _checks.check_device(gate, **{f"lora.u_{name}": u, f"lora.B_{name}": B})
        _checks.check_codes("lora.codes", lora.codes, lora.B_gate.shape[0], gate.dtype)
        _checks.check_slots("lora.slots", lora.slots, tokens)
        _checks.check_device(gate, **{"lora.codes": lora.codes, "lora.slots": lora.slots})
        _checks.check_slot_range(lora.slots, lora.codes.shape[0])
    if steering is not None:
        _checks.check_steering(*steering, gate)
        _checks.check_slot_range(steering.slots, steering.strengths.shape[0])


def _run_cpu(gate: Tensor, up: Tensor, act: str, *rest: Any) -> Any:
    h = torch.empty(gate.shape, dtype=gate.dtype)
    lora, steering = (None if group[0] is None else group for group in (rest[:7], rest[7:]))
    return h if _cpu.call("steered_gated_act", h, gate, up, _ACT_ID[act], lora, steering) else NotImplemented


def _run_reference(gate: Tensor, up: Tensor, act: str, *rest: Any) -> Tensor:
    lora = None if rest[0] is None else GatedLora(*rest[:7])
    steering = None if rest[7] is None else Steering(*rest[7:])
    return steered_gated_act_reference(gate, up, act, lora=lora, steering=steering)


library.define(
    "steered_gated_act(Tensor gate, Tensor up, str act, Tensor? u_gate, Tensor? B_gate, Tensor? u_up, "
    "Tensor? B_up, Tensor? codes, Tensor? slots, float scale, Tensor? clamp_mask, Tensor? add, "
    "Tensor? strengths, Tensor? steer_slots) -> Tensor"
)


@torch.library.impl(library, "steered_gated_act", "CompositeExplicitAutograd")
def _impl(*args: Any) -> Tensor:
    return dispatch.call("steered_gated_act", *args)


@torch.library.register_fake("dpg_fast::steered_gated_act", lib=library)
def _fake(gate: Tensor, *rest: Any) -> Tensor:
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


class SteeredGatedAct(torch.autograd.Function):
    """Autograd around the op: gradients of gate, up, both u, both B, codes, add and strengths."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        act: str,
        u_gate: Tensor | None,
        B_gate: Tensor | None,
        u_up: Tensor | None,
        B_up: Tensor | None,
        codes: Tensor | None,
        slots: Tensor | None,
        scale: float,
        clamp_mask: Tensor | None,
        add: Tensor | None,
        strengths: Tensor | None,
        steer_slots: Tensor | None,
    ) -> Tensor:
        """Runs the op and keeps its inputs, no intermediate. With steering, steer_slots None means slots."""
        if clamp_mask is not None and steer_slots is None:
            steer_slots = slots
        ctx.save_for_backward(
            gate, up, u_gate, B_gate, u_up, B_up, codes, slots, clamp_mask, add, strengths, steer_slots
        )
        ctx.act, ctx.scale = act, scale
        return torch.ops.dpg_fast.steered_gated_act(
            gate,
            up,
            act,
            u_gate,
            B_gate,
            u_up,
            B_up,
            codes,
            slots,
            scale,
            clamp_mask,
            add,
            strengths,
            steer_slots,
        )

    @staticmethod
    def backward(ctx: Any, gh: Tensor) -> tuple[Tensor | None, ...]:
        """Recomputes the intermediates."""
        gate, up, u_gate, B_gate, u_up, B_up, codes, slots, mask, add, strengths, steer_slots = ctx.saved_tensors
        lora = None if u_gate is None else (u_gate, B_gate, u_up, B_up, codes, slots)
        steering = None if mask is None else (mask, add, strengths, steer_slots)
        n = ctx.needs_input_grad
        needs = (n[0], n[1], *n[3:8], n[11], n[12])
        grads = gated_backward(gh, gate, up, ctx.act, lora, ctx.scale, steering, needs)
        return (*grads[:2], None, *grads[2:7], None, None, None, *grads[7:], None)


dispatch.register("steered_gated_act", "cuda", _cuda.run, _cuda.verify)
dispatch.register(
    "steered_gated_act",
    "triton",
    _triton.lazy("steered_gated_act"),
    lambda gate, up, act, u_gate, B_gate, *rest: _triton.verify(gate, rank=1 if B_gate is None else B_gate.shape[-2]),
)
dispatch.register("steered_gated_act", "cpu", _run_cpu, lambda gate, *rest: _cpu.verify(gate))
dispatch.register("steered_gated_act", "reference", _run_reference, lambda *args: (True, ""))

__all__ = ["steered", "steered_gated_act", "steered_gated_act_reference"]
