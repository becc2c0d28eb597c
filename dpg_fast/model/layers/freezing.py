"""The base model's weights are frozen while it is wrapped."""

from __future__ import annotations

from torch import nn

__all__ = ["Frozen"]


class Frozen:
    """Freezes all parameters of a model until :meth:`undo`.

    Parameters are remembered by place and by name, not as objects: weights may be loaded or replaced, and modules put into
    others, in the meantime.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._names: set[str] = set()
        self._places: list[tuple[nn.Module, str]] = []
        for prefix, module in base.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    self._names.add(f"{prefix}.{name}" if prefix else name)
                    self._places.append((module, name))
        for parameter in base.parameters():
            parameter.requires_grad_(False)

    def undo(self) -> None:
        """Let those be trained again that could be before."""
        for name, parameter in self._base.named_parameters(remove_duplicate=False):
            if name in self._names:
                parameter.requires_grad_(True)
        for module, name in self._places:
            if isinstance(held := getattr(module, name, None), nn.Parameter):
                held.requires_grad_(True)
