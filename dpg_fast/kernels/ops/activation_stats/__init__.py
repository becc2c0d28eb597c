"""activation_stats: how often and how strongly each gated neuron fires, in one pass and fixed memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dpg_fast.kernels import _checks, _cpu, _triton, dispatch
from dpg_fast.kernels._library import bump_version, library, nobody_watches
from dpg_fast.kernels.ops.activation_stats import cuda as _cuda
from dpg_fast.kernels.ops.activation_stats.reference import activation_stats_reference
from dpg_fast.kernels.types import ACTIVATIONS

_ACT_ID = {name: i for i, name in enumerate(ACTIVATIONS)}


def activation_stats(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    """Adds counts of act(gate) > 0 and a histogram of act(gate) to the table rows that the tokens point to.

    v = act(gate), computed in float32 and rounded to the dtype of gate, falls in bin b when
    edges[b - 1] < v <= edges[b]: bin 0 is v <= edges[0], the last one v > edges[-1]. NaN is counted nowhere.
    Integer sums: the result does not depend on the order of the tokens. Source of the statistics: NPTI,
    arXiv 2410.12327 (301 bins with edges 0, 0.01, ..., 2.99).

    Args:
        gate: [..., I], float32, bfloat16, float16 or float64, unit stride in the last dimension; T = product of
            the rest.
        act: "silu", "gelu_tanh", "gelu", or "identity" for values that are activations already (reference backend only).
        slots: int32 [T], row of the tables, or -1: not counted.
        edges: float32 [bins - 1], ascending and evenly spaced (that they ascend is checked for CPU tensors).
        positive: int64 [S, I], contiguous; changed in place.
        histogram: int32 or int64 [S, I, bins], contiguous; changed in place. An int32 bin wraps after 2**31 - 1
            tokens.

    Raises:
        TypeError, ValueError: dtype, shape, stride, device or activation not as above, or a CPU tensor's memory was freed or cut.
        IndexError: a slot outside [-1, S) (checked for CPU tensors).
        RuntimeError: a forced backend cannot serve.
    """
    if (
        dispatch.direct_cuda
        and not torch.compiler.is_dynamo_compiling()
        and nobody_watches()
        and isinstance(edges, Tensor)
        and not edges.is_cpu  # their values are checked
        and act in _ACT_ID
        and _cpu.C.activation_stats(gate, _ACT_ID[act], slots, edges, positive, histogram)
    ):
        return
    _checks.check_tensors(gate=gate, slots=slots, edges=edges, positive=positive, histogram=histogram)
    rows = _checks.as_rows("gate", gate.detach())
    check(rows, act, slots, edges, positive, histogram)
    torch.ops.dpg_fast.activation_stats_(rows, act, slots, edges, positive, histogram)
    bump_version(positive)
    bump_version(histogram)


def check(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    """Raises TypeError, ValueError or IndexError for arguments that no backend takes."""
    if act not in _ACT_ID and act != "identity":
        raise ValueError(f"unknown activation {act!r}; known: {', '.join(ACTIVATIONS)}, identity")
    _checks.check_float("gate", gate)
    _checks.check_slots("slots", slots, gate.shape[0])
    _checks.check_dtype("edges", edges, torch.float32, "bins are compared in float32")
    _checks.check_shape("edges", edges, (None,), "[bins - 1]")
    _checks.check_contiguous("edges", edges)
    if edges.shape[0] < 1:
        raise ValueError("edges must hold at least one value")
    looked_at = edges.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not bool(edges.diff().gt(0).all() & (edges[0] == edges[0])):
        raise ValueError("edges must ascend, without NaN")
    _checks.check_dtype("positive", positive, torch.int64, "counters are 64-bit")
    _checks.check_shape("positive", positive, (None, gate.shape[1]), "[S, I]")
    _checks.check_contiguous("positive", positive)
    if histogram.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"histogram must be torch.int32 or torch.int64, got {histogram.dtype}")
    shape = (positive.shape[0], gate.shape[1], edges.shape[0] + 1)
    _checks.check_shape("histogram", histogram, shape, "[S, I, bins]")
    _checks.check_contiguous("histogram", histogram)
    _checks.check_written("positive", positive)
    _checks.check_written("histogram", histogram.flatten(1))
    _checks.check_device(gate, slots=slots, edges=edges, positive=positive, histogram=histogram)
    _checks.check_slot_range(slots, positive.shape[0])


def _run_cpu(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> Any:
    done = _cpu.call("activation_stats", gate, _ACT_ID[act], slots, edges, positive, histogram)
    return None if done else NotImplemented


library.define(
    "activation_stats_(Tensor gate, str act, Tensor slots, Tensor edges, Tensor(a!) positive, Tensor(b!) histogram) -> ()"
)


@torch.library.impl(library, "activation_stats_", "CompositeExplicitAutograd")
def _impl(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    dispatch.call("activation_stats", gate, act, slots, edges, positive, histogram)


@torch.library.register_fake("dpg_fast::activation_stats_", lib=library)
def _fake(gate: Tensor, act: str, slots: Tensor, edges: Tensor, positive: Tensor, histogram: Tensor) -> None:
    return None


def _unless_identity(verify: Callable[..., tuple[bool, str]]) -> Callable[..., tuple[bool, str]]:
    def verified(gate: Tensor, act: str, *rest: Tensor) -> tuple[bool, str]:
        return verify(gate, act, *rest) if act in _ACT_ID else (False, f"activation {act!r} is not compiled in")

    return verified


dispatch.register("activation_stats", "cuda", _cuda.run, _unless_identity(_cuda.verify))
dispatch.register(
    "activation_stats",
    "triton",
    _triton.lazy("activation_stats"),
    _unless_identity(lambda gate, *rest: _triton.verify(gate)),
)
dispatch.register("activation_stats", "cpu", _run_cpu, _unless_identity(lambda gate, *rest: _cpu.verify(gate)))
dispatch.register("activation_stats", "reference", activation_stats_reference, lambda *args: (True, ""))

__all__ = ["activation_stats", "activation_stats_reference"]
