"""One module given another class for a while, also where a hook of accelerate stands between its calls and its class."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

from torch import nn

from dpg_fast.architecture import UnsupportedArchitectureError
from dpg_fast.compat.accelerate import HOOK, INNER

_subclasses: dict[tuple[type, type], type] = {}


def subclass_with(mixin: type, original: type) -> type:
    """``original`` with ``mixin`` in front; always the same class for the same two."""
    key = (mixin, original)
    if key not in _subclasses:
        name = f"{mixin.__name__}{original.__name__}"
        _subclasses[key] = type(name, (mixin, original), {"__module__": __name__})
    return _subclasses[key]


class ClassChange:
    """Puts ``mixin`` in front of the class of ``module``, until :meth:`undo`.

    Hooks that accelerate has put, or will put, on the module keep working.

    Args:
        name: of the module in its model, for messages.

    Raises:
        UnsupportedArchitectureError: the module runs a forward of its own, so a change of its class would have no effect.
    """

    def __init__(self, name: str, module: nn.Module, mixin: type[nn.Module]) -> None:
        check_forward(name, module)
        self.module, self._original = module, type(module)
        slot = forward_slot(module)
        module.__class__ = subclass_with(mixin, self._original)
        if slot is not None:  # bound to the class's forward before the change
            module.__dict__[slot] = MethodType(type(module).forward, module)

    def undo(self) -> None:
        """Give the module its own class back."""
        changed, self.module.__class__ = type(self.module), self._original
        for slot in ("forward", INNER):
            bound = self.module.__dict__.get(slot)
            if isinstance(bound, MethodType) and bound.__func__ is changed.forward:
                self.module.__dict__[slot] = MethodType(self._original.forward, self.module)


def check_forward(name: str, module: nn.Module) -> None:
    """Raises UnsupportedArchitectureError for a module that runs something else than the forward of its class."""
    found = own_forward(module)
    if found is not None:
        called = getattr(found, "__qualname__", None) or type(found).__name__
        raise UnsupportedArchitectureError(
            f"{name} ({type(module).__name__}) has a forward of its own, {called}, so a personality would have no effect "
            "there; wrap the model before it is patched, or take the patch back (del module.forward)"
        )


def forward_slot(module: nn.Module) -> str | None:
    """The attribute of this instance that holds what a call of it runs, hooks apart; None where its class decides."""
    own = module.__dict__
    if "forward" not in own:
        return None
    surrounds = HOOK in own and INNER in own and _is_hooked_forward(own["forward"])
    return INNER if surrounds else "forward"


def own_forward(module: nn.Module) -> Any:
    """What a call of this instance runs in place of its class's forward, hooks apart; None where its class decides.

    A hook keeps the class's forward in the instance; that is the class deciding.
    """
    slot = forward_slot(module)
    if slot is None:
        return None
    forward = module.__dict__[slot]
    return None if runs_class_forward(module, forward) else forward


def runs_class_forward(module: nn.Module, forward: Any) -> bool:
    """Whether ``forward`` is the bound method that the module's class has."""
    return isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ is type(module).forward


def _is_hooked_forward(forward: Any) -> bool:
    inner = forward.func if isinstance(forward, functools.partial) else forward
    return getattr(inner, "__module__", None) == "accelerate.hooks"
