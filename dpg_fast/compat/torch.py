"""Names inside torch: hooks and children of modules."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as _module


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called before or after the module's forward or in its backward pass."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def all_modules_hooked() -> bool:
    """Whether a hook was registered that is called for every module there is."""
    return bool(
        _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    )


def children_of(module: nn.Module) -> dict[str, Any]:
    """Attribute -> child module, as the module holds them now."""
    return module._modules
