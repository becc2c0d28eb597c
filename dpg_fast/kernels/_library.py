"""The torch.library namespace `dpg_fast`, and the test for the direct path past it."""

from __future__ import annotations

import torch

library = torch.library.Library("dpg_fast", "DEF")

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch_level = torch._C._functorch.peek_interpreter_stack


def nobody_watches() -> bool:
    """True when no torch mode (fake tensors, tracing, functorch) wants to see the operations that run."""
    return not _dispatch_modes() and not _function_modes() and _functorch_level() is None


def bump_version(t: torch.Tensor) -> None:
    """Tells autograd that t was written to, so that a stale saved tensor raises, not misleads."""
    if not torch.compiler.is_compiling() and not t.is_inference():
        torch.autograd.graph.increment_version(t)
