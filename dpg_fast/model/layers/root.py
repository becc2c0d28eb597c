"""The base model's own ``forward``, replaced on the instance until :meth:`Root.undo`."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from dpg_fast.compat import accelerate
from dpg_fast.model.layers.changes import NOT_PICKLED, NoEffectError, leads_to

__all__ = ["Root", "is_wrapped", "remove_copied"]

_ROOT = "dpg_root"
_numbers = itertools.count()


class Root:
    """Puts ``call(*args, **kwargs)`` in the place of a model's forward, with the signature of what was there.

    A copy of the model runs its own forward, as if it had not been replaced; pickling the model is refused.

    Args:
        base: the model.
        call: see above.

    Attributes:
        original: the forward that was there, the user's own included.
        seen: what the instance's ``forward`` is now; while it is, nothing was replaced.
    """

    def __init__(self, base: nn.Module, call: Callable[..., Any]) -> None:
        self._base: nn.Module | None = base
        self._call: Callable[..., Any] | None = call
        self._found = base.__dict__.get("forward")
        self.original = base.forward
        self._key = f"{_ROOT}_{next(_numbers)}"  # one that was undone may still be called by the user's own forward
        base.__dict__[self._key] = self
        base.__dict__["forward"] = self.seen = MethodType(_with_signature_of(self.original, self._key), base)

    def check(self) -> None:
        """Raises NoEffectError when the model's forward was replaced by one that does not call this one."""
        assert self._base is not None
        forward = self._base.__dict__.get("forward")
        if forward is self.seen:
            return
        slot = accelerate.innermost(self._base)
        if not leads_to(self._base.__dict__.get(slot), self._function, self._base):
            raise NoEffectError(
                "the base model's forward was replaced after the model was wrapped, by one that does not call it, so a "
                "personality would have no effect: take it off, or unload() and wrap the model as it is now"
            )

    def undo(self) -> None:
        """Give the forward back that was there; one that was put there meanwhile is kept, and still works."""
        base = self._base
        assert base is not None
        attributes = base.__dict__
        mine = {
            name: isinstance(attributes.get(name), MethodType) and attributes[name].__func__ is self._function
            for name in ("forward", accelerate.INNER)
        }
        if mine["forward"]:
            if self._found is None:
                del attributes["forward"]
            else:
                attributes["forward"] = self._found
        if mine[accelerate.INNER]:
            attributes[accelerate.INNER] = self.original
        self._call = None
        if any(mine.values()):
            del attributes[self._key]

    @property
    def _function(self) -> Any:
        return self.seen.__func__

    def run(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call of ``base``, or of a copy of it, gives without the change."""
        return (type(base).forward.__get__(base) if self._found is None else self._found)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Root:
        made = Root.__new__(Root)
        made._base, made._call, made._key = None, None, self._key
        made._found = copy.deepcopy(self._found, memo)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(NOT_PICKLED)


def is_wrapped(model: nn.Module) -> bool:
    """Whether the model's forward is replaced now."""
    return any(isinstance(value, Root) and value._call is not None for value in model.__dict__.values())


def remove_copied(model: nn.Module) -> None:
    """Take what is left of a replaced forward off the copy of a model."""
    forward = model.__dict__.get("forward")
    key = getattr(forward, _ROOT, "")
    root = model.__dict__.get(key)
    if isinstance(root, Root) and root._call is None and isinstance(forward, MethodType) and forward.__self__ is model:
        del model.__dict__[key], model.__dict__["forward"]
        if root._found is not None:
            model.__dict__["forward"] = root._found


def _with_signature_of(original: Callable[..., Any], key: str) -> Any:
    @functools.partial(torch.compiler.disable, recursive=False)
    def forward(model: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        root = model.__dict__.get(key)
        if root is None:  # called past an undo(), by somebody who kept it
            return type(model).forward(model, *args, **kwargs)
        if root._call is not None:
            return root._call(*args, **kwargs)
        return root.run(model, args, kwargs)

    functools.update_wrapper(forward, original, updated=())
    del forward.__wrapped__  # or a method's first argument would be taken off twice
    setattr(forward, _ROOT, key)
    try:
        signature = inspect.signature(original)
    except (TypeError, ValueError):
        return forward
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    forward.__signature__ = signature.replace(parameters=[first, *kept])
    return forward
