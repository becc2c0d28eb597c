"""Names of accelerate: the hooks that it puts around a module's forward, on the instance.

Importing this module does not import accelerate.
"""

from __future__ import annotations

import functools

from torch import nn

HOOK = "_hf_hook"
"""Instance attribute of a module that accelerate has put a hook on."""

INNER = "_old_forward"
"""Instance attribute that such a hook calls: the module's forward as it was before."""

_HOOKS_MODULE = "accelerate.hooks"


def is_hooked(module: nn.Module) -> bool:
    """Whether accelerate runs code of its own (moving inputs or weights) around the module's forward."""
    return HOOK in module.__dict__


def innermost(module: nn.Module) -> str:
    """Name of the instance attribute that stands for what the module itself computes.

    ``"forward"``, which need not be there (a call then reaches the class's), or :data:`INNER` where ``forward`` is
    accelerate's. Anything else that somebody has put over accelerate's hook is ``"forward"``.
    """
    forward = module.__dict__.get("forward")
    ours = (
        isinstance(forward, functools.partial)
        and getattr(forward.func, "__module__", None) == _HOOKS_MODULE
        and forward.args == (module,)
    )
    return INNER if ours and INNER in module.__dict__ else "forward"
