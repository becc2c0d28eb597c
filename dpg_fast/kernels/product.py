"""The dense product of a linear layer, by the faster of the libraries that torch brings along."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpg_fast.kernels import _cpu


def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, without gradients.

    In float32 on x86 processors not made by Intel it runs in oneDNN, where `torch.nn.functional.linear` calls MKL and takes
    about twice as long (docs/decisions.md); everywhere else it is that function.

    Args:
        x: [..., d_in].
        weight: [d_out, d_in], dtype and device of x, contiguous.
        bias: [d_out] or None.

    Returns:
        [..., d_out].
    """
    if x.dtype is torch.float32 and x.is_cpu and not torch.compiler.is_compiling():
        onednn = _onednn()
        if onednn is not None:
            return onednn(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


@functools.cache
def _onednn() -> Any:
    """oneDNN's linear, or None where F.linear is used."""
    if _cpu.C is None or _cpu.C.cpu_vendor in ("", "GenuineIntel") or not torch.backends.mkldnn.is_available():
        return None
    try:
        function = torch.ops.mkldnn._linear_pointwise.default
        x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
        good = torch.allclose(function(x, weight, None, "none", [], ""), x @ weight.t())
    except (AttributeError, RuntimeError, TypeError):  # not part of torch's public interface
        return None
    return function if good else None
