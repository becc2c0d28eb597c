"""Argument checks shared by the ops: clear errors, and [..., d] tensors as rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch

from dpg_fast.kernels.types import POLES

G = TypeVar("G", bound=NamedTuple)

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def side_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of codes, strengths and u beside activations of `dtype`: float32, or float64 beside float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_tensors(**tensors: torch.Tensor) -> None:
    """The first check of every op, of all its tensors.

    Raises:
        TypeError: not a tensor, or a sparse, nested or otherwise not strided one.
        ValueError: a CPU tensor whose memory was freed or cut.
    """
    for name, t in tensors.items():
        if not isinstance(t, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
        if t.layout != torch.strided or t.is_nested:
            kind = "nested" if t.is_nested else t.layout
            raise TypeError(f"{name} must be a dense, strided tensor, got {kind}")
        check_memory(name, t)


def check_memory(name: str, t: torch.Tensor) -> None:
    """Raises ValueError for a CPU tensor that reaches beyond its memory, which torch itself reads and writes unseen."""
    if torch.compiler.is_compiling() or type(t) not in (torch.Tensor, torch.nn.Parameter) or not _has_memory(t):
        return
    last = t.storage_offset() + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
    needs, has = (last + 1) * t.element_size(), t.untyped_storage().nbytes()
    if needs > has:
        raise ValueError(
            f"{name} (shape {list(t.shape)}, strides {tuple(t.stride())}) needs {needs} bytes, but its memory has {has}: "
            "it was freed or resized"
        )


def _has_memory(t: torch.Tensor) -> bool:
    # Wrappers of functorch have none of their own.
    return t.is_cpu and t.numel() > 0 and not t._is_zerotensor() and torch._C._functorch.maybe_get_level(t) < 0


def check_written(name: str, rows: torch.Tensor) -> None:
    """For a tensor [T, d] that is written to.

    Raises:
        ValueError: its rows overlap, or its values are not what lies in its memory.
        RuntimeError: an inference tensor outside inference mode, or a leaf that wants a gradient (torch would say so after
            the write).
    """
    if rows.shape[0] > 1 and rows.stride(0) < rows.shape[1]:
        raise ValueError(f"{name} is written to, but its rows overlap (strides {tuple(rows.stride())})")
    if torch.compiler.is_compiling():
        return
    if rows.is_neg() or rows._is_zerotensor():
        raise ValueError(f"{name} is written to, but is a negated view or zeros without memory; pass a copy")
    if rows.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(f"{name} is an inference tensor, which can be written to only in inference mode")
    owner = rows if rows._base is None else rows._base
    if torch.is_grad_enabled() and owner.is_leaf and owner.requires_grad:
        raise RuntimeError(f"{name} is, or is a view of, a leaf that requires a gradient: it cannot be written to")


def as_group(name: str, kind: type[G], value: Any) -> G:
    """A group of arguments (types.py); any tuple of as many values will do.

    Raises:
        TypeError: not such a tuple.
    """
    if isinstance(value, kind):
        return value
    fields, least = kind._fields, len(kind._fields) - len(kind._field_defaults)
    if not isinstance(value, tuple) or not least <= len(value) <= len(fields):
        raise TypeError(f"{name} must be a {kind.__name__} ({', '.join(fields)}), got {type(value).__name__}")
    return kind(*value)


def wants_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether a tensor asks for a gradient. True for anything but tensors, which the direct path does not take."""
    try:
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    except AttributeError:
        return True
    return False


def as_rows(name: str, t: torch.Tensor) -> torch.Tensor:
    """[..., d] as a view [T, d].

    Raises:
        ValueError: no dimension, inner stride not 1, or leading dimensions that cannot be viewed as one.
    """
    if t.dim() < 1:
        raise ValueError(f"{name} must have at least one dimension, got a scalar")
    if t.shape[-1] > 1 and t.stride(-1) != 1:
        raise ValueError(f"{name} must have unit stride in its last dimension, got strides {tuple(t.stride())}")
    if t.dim() == 2:
        return t
    try:
        return t.view(math.prod(t.shape[:-1]), t.shape[-1])
    except RuntimeError:
        raise ValueError(
            f"the leading dimensions of {name} (shape {tuple(t.shape)}, strides {tuple(t.stride())}) "
            "cannot be viewed as one; pass a contiguous tensor"
        ) from None


def check_float(name: str, t: torch.Tensor) -> None:
    """Raises TypeError unless t is float32, bfloat16, float16 or float64."""
    if t.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {t.dtype}")


def check_dtype(name: str, t: torch.Tensor, dtype: torch.dtype, like: str) -> None:
    """Raises TypeError unless t has this dtype."""
    if t.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} ({like}), got {t.dtype}")


def check_shape(name: str, t: torch.Tensor, shape: tuple[int | None, ...], letters: str) -> None:
    """Raises ValueError unless t has this shape (None: any size)."""
    if t.dim() != len(shape) or any(w is not None and w != g for w, g in zip(shape, t.shape, strict=True)):
        want = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} must have shape {letters} = [{want}], got {list(t.shape)}")


def check_device(reference: torch.Tensor, **tensors: torch.Tensor) -> None:
    """Raises ValueError unless all tensors share the device of `reference`."""
    for name, t in tensors.items():
        if t.device != reference.device:
            raise ValueError(f"{name} is on {t.device}, the activations are on {reference.device}")


def check_contiguous(name: str, t: torch.Tensor) -> None:
    """Raises ValueError unless t is contiguous."""
    if not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got shape {list(t.shape)} with strides {tuple(t.stride())}")


def check_slots(name: str, slots: torch.Tensor, tokens: int) -> None:
    """Slots: int32 [T]."""
    if slots.dtype != torch.int32:
        raise TypeError(f"{name} must be torch.int32, got {slots.dtype}")
    check_shape(name, slots, (tokens,), "[T]")
    check_contiguous(name, slots)


def check_codes(name: str, codes: torch.Tensor, K: int, dtype: torch.dtype) -> None:
    """Codes: [S, K], float32 (float64 beside float64), contiguous."""
    check_dtype(name, codes, side_dtype(dtype), "codes and strengths are kept in float32")
    check_shape(name, codes, (None, K), "[S, K]")
    check_contiguous(name, codes)


def check_bank_b(name: str, B: torch.Tensor, d_out: int, dtype: torch.dtype) -> None:
    """An expand bank: [K, r, d_out], unit inner stride, rows (k, j) evenly spaced."""
    check_dtype(name, B, dtype, "the dtype of the activations")
    check_shape(name, B, (None, None, d_out), "[K, r, d_out]")
    K, r, _ = B.shape
    even = K <= 1 or r == 0 or B.stride(0) == r * B.stride(1) or r == 1
    if (d_out > 1 and B.stride(2) != 1) or not even:
        raise ValueError(
            f"{name} must have unit inner stride and evenly spaced rows (contiguous, or a column slice of a "
            f"contiguous tensor), got shape {list(B.shape)} with strides {tuple(B.stride())}"
        )


def check_steering(
    clamp_mask: torch.Tensor,
    add: torch.Tensor,
    strengths: torch.Tensor,
    slots: torch.Tensor,
    gate: torch.Tensor,
) -> None:
    """Steering tables for activations gate [T, I]."""
    tokens, width = gate.shape
    if clamp_mask.dtype != torch.int16:
        raise TypeError(f"steering.clamp_mask must be torch.int16, got {clamp_mask.dtype}")
    check_shape("steering.clamp_mask", clamp_mask, (width,), "[I]")
    check_contiguous("steering.clamp_mask", clamp_mask)
    check_dtype("steering.add", add, side_dtype(gate.dtype), "tables are kept in float32")
    check_shape("steering.add", add, (POLES, width), "[10, I]")
    check_contiguous("steering.add", add)
    check_codes("steering.strengths", strengths, POLES, gate.dtype)
    check_slots("steering.slots", slots, tokens)
    check_device(
        gate, **{"steering.clamp_mask": clamp_mask, "steering.add": add, "steering.strengths": strengths,
                 "steering.slots": slots},
    )  # fmt: skip


def check_slot_range(slots: torch.Tensor, rows: int) -> None:
    """Raises IndexError for a slot outside [-1, rows).

    CPU tensors only: elsewhere it would wait for the device.
    """
    if slots.device.type == "cpu" and slots.numel() and not torch.compiler.is_compiling():
        low, high = int(slots.min()), int(slots.max())
        if low < -1 or high >= rows:
            raise IndexError("slots must lie in [-1, rows of the code or strength table)")
