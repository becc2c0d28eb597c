"""Other people's ways to compute an adapted linear layer, each from the same arguments as ours.

A rival that cannot run here is a :class:`Way` with a reason instead of a function.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.kernels.lora_case import LoraCase, base_cost
from benchmarks.kernels.shapes import Work
from benchmarks.kernels.way import Call, Cost, Way

GATHER_LIMIT = {"cpu": 1 << 30, "cuda": 8 << 30}
"""Bytes that a rival may gather in one call."""

# ---------------------------------------------------------------- materialised weights, gathered for every token


def _gathered(name: str, work: Work, widths: tuple[int, ...], build: Any) -> Way[LoraCase]:
    moved = work.tokens * work.model.rank * sum(widths) * work.dtype.itemsize
    if moved > GATHER_LIMIT[work.device]:
        return Way(name, reason=f"would gather {moved / 2**30:.0f} GiB of weights")
    flops = 2 * work.tokens * work.model.rank * sum(widths)
    return Way(name, build, cost=Cost(2 * moved, flops))


def gathered_shrink(work: Work) -> Way[LoraCase]:
    """A of every personality stored, gathered by slot, one batched product."""

    def build(c: LoraCase) -> Call:
        A, slots = c.materialised()[0], c.slots.long()
        return lambda: torch.bmm(A[slots], c.x[:, :, None])[:, :, 0]

    return _gathered("gather + bmm, stored A", work, (work.sizes[0],), build)


def gathered_expand(work: Work) -> Way[LoraCase]:
    """B of every personality stored, gathered by slot, one batched product, added to y."""

    def build(c: LoraCase) -> Call:
        B, slots, y = c.materialised()[1], c.slots.long(), c.y.clone()
        return lambda: y.add_(torch.bmm(B[slots], c.u.to(y.dtype)[:, :, None])[:, :, 0])

    return _gathered("gather + bmm, stored B", work, (work.sizes[1],), build)


def gathered_linear(work: Work) -> Way[LoraCase]:
    """Base product, then both sides gathered by slot (what vLLM does on the CPU)."""

    def build(c: LoraCase) -> Call:
        (A, B), slots = c.materialised(), c.slots.long()

        def run() -> Tensor:
            u = torch.bmm(A[slots], c.x[:, :, None])
            return F.linear(c.x, c.W).add_(torch.bmm(B[slots], u)[:, :, 0])

        return run

    way = _gathered("gather + bmm, stored A and B", work, work.sizes, build)
    return Way(way.name, way.build, reason=way.reason, cost=base_cost(work) + way.cost if way.cost else None)


# ---------------------------------------------------------------- PEFT


def _peft_missing() -> str:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        return f"peft is not installed ({error})"
    return ""


def peft_linear(c: LoraCase, adapters: int, training: bool = False) -> Any:
    """PEFT's own LoRA layer around the base weights, with the first `adapters` personalities as adapters "0", "1", ..."""
    from peft import LoraConfig, inject_adapter_in_model

    out_features, in_features = c.W.shape
    holder = nn.Module()
    holder.linear = nn.Linear(in_features, out_features, bias=False, device="meta")
    holder.linear.weight = nn.Parameter(c.W, requires_grad=False)
    A, B = c.materialised()
    config = LoraConfig(r=A.shape[1], lora_alpha=A.shape[1], target_modules=["linear"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(adapters):
            inject_adapter_in_model(config, holder, adapter_name=str(index))
    layer: Any = holder.linear
    layer.set_adapter("0")
    with torch.no_grad():
        for index in range(adapters):
            for side, weight in ((layer.lora_A, A), (layer.lora_B, B)):
                side[str(index)].weight = nn.Parameter(weight[index].clone(), requires_grad=training)
    return layer.train(training)


def peft_single(work: Work) -> Way[LoraCase]:
    """One adapter for all tokens; with several personalities it does less than the op."""
    name = "PEFT, one adapter" + ("" if work.people == 1 else " (one personality)")

    def build(c: LoraCase) -> Call:
        layer = peft_linear(c, 1)
        return lambda: layer(c.x)

    missing = _peft_missing()
    return Way(name, reason=missing) if missing else Way(name, build, same=work.people == 1)


def peft_mixed(work: Work) -> Way[LoraCase]:
    """A mixed batch: an adapter for each personality, named row by row."""
    name = f"PEFT, {work.people} adapters in one batch"
    if work.people == 1:
        return Way("PEFT, mixed batch", reason="one personality")

    def build(c: LoraCase) -> Call:
        layer = peft_linear(c, work.people)
        names = [str(person) for person in work.person_of_row()]
        rows = c.x.view(work.rows, -1, c.x.shape[1])
        return lambda: layer(rows, adapter_names=names).view(work.tokens, -1)

    missing = _peft_missing()
    return Way(name, reason=missing) if missing else Way(name, build, graph=False)


def peft_training(work: Work) -> Way[LoraCase]:
    """Forward and backward with one adapter's weights trained."""
    name = "PEFT, one adapter trained"

    def build(c: LoraCase) -> Call:
        layer = peft_linear(c, 1, training=True)
        x = c.x.detach().clone().requires_grad_()
        leaves = [x, layer.lora_A["0"].weight, layer.lora_B["0"].weight]
        return lambda: torch.autograd.grad(layer(x), leaves, c.gy)

    missing = _peft_missing()
    return Way(name, reason=missing) if missing else Way(name, build, same=False)


# ---------------------------------------------------------------- vLLM's Triton kernels


def _vllm(work: Work) -> tuple[Any, str]:
    if work.device != "cuda":
        return None, "CUDA only"
    if work.dtype == torch.float32:
        return None, "takes float16 and bfloat16"
    try:
        from vllm.lora.ops import triton_ops
    except Exception as error:  # an installed vLLM that does not fit this torch fails in many ways
        return None, f"vllm.lora.ops.triton_ops cannot be imported ({type(error).__name__}: {error})"
    return triton_ops, ""


class VllmLora:
    """vLLM's kernels on materialised adapters: metadata made once, as its engine does for each step."""

    def __init__(self, c: LoraCase, ops: Any) -> None:
        self.ops = ops
        A, B = c.materialised()
        self.A, self.B = A[:, None].contiguous(), B[:, None].contiguous()  # [loras, 1, ...], as vLLM stores them
        tokens = c.x.shape[0]
        meta = ops.LoRAKernelMeta.make(c.work.people, tokens, device=c.x.device)
        meta.prepare_tensors(c.slots)
        more = len(inspect.signature(meta.meta_args).parameters) - 1
        self.meta = meta.meta_args(tokens, *([False] * more))
        self.u = torch.empty(1, tokens, A.shape[1], dtype=torch.float32, device=c.x.device)

    def shrink(self, x: Tensor) -> Tensor:
        """u [T, r]."""
        self.ops.lora_shrink(x, [self.A], self.u, *self.meta, 1.0)
        return self.u[0]

    def expand(self, u: Tensor, y: Tensor) -> Tensor:
        """y += B u, in place."""
        self.ops.lora_expand(u[None], [self.B], y, *self.meta, 0, True)
        return y


def _vllm_way(work: Work, build: Any) -> Way[LoraCase]:
    name = "vLLM's Triton kernels, stored adapters"
    ops, missing = _vllm(work)
    return Way(name, reason=missing) if missing else Way(name, lambda c: build(c, VllmLora(c, ops)))


def vllm_shrink(work: Work) -> Way[LoraCase]:
    """vLLM's lora_shrink."""
    return _vllm_way(work, lambda c, lora: lambda: lora.shrink(c.x))


def vllm_expand(work: Work) -> Way[LoraCase]:
    """vLLM's lora_expand, added to y."""

    def build(c: LoraCase, lora: VllmLora) -> Call:
        y = c.y.clone()
        return lambda: lora.expand(c.u, y)

    return _vllm_way(work, build)


def vllm_linear(work: Work) -> Way[LoraCase]:
    """Base product, lora_shrink, lora_expand."""
    return _vllm_way(work, lambda c, lora: lambda: lora.expand(lora.shrink(c.x), F.linear(c.x, c.W)))
