"""One changed module: its class gets a mixin in front, and whatever a call of the instance reaches leads there.

A module may have a ``forward`` of its own on the instance (accelerate's hooks, Liger's and `kernels`' patches, capturing
tools), which a changed class alone would not be asked for. Copies of a changed module are of its original class, and
bound to themselves; pickling one is refused.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from dpg_fast.architecture.layers import UnsupportedArchitectureError
from dpg_fast.compat import accelerate
from dpg_fast.compat.torch import Placed
from dpg_fast.util.errors import DPGError

__all__ = [
    "NOT_PICKLED",
    "Change",
    "Changed",
    "NoEffectError",
    "Watch",
    "leads_to",
    "require_own_classes",
    "subclass_with",
]


class NoEffectError(DPGError, RuntimeError):
    """A personality was asked for and could not act."""


NOT_PICKLED = (
    "a model with a personality cannot be pickled or saved whole: use save_pretrained() for the adapter and state_dict() or "
    "base.save_pretrained() for weights, or unload() it first"
)
_CHANGE = "dpg_change"
_MOST_FUNCTIONS = 500


class Changed(nn.Module):
    """What all mixins share: a copy is a module of the original class, without the change."""

    def __copy__(self) -> nn.Module:
        return self._bare(None)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return self._bare(memo)

    def _bare(self, memo: dict[int, Any] | None) -> nn.Module:
        change: Change = self.__dict__[_CHANGE]
        if hasattr(change.original, "__deepcopy__"):
            raise TypeError(
                f"{change.name} ({change.original.__name__}) has a way of copying of its own: unload() first"
            )
        made: nn.Module = change.original.__new__(change.original)
        if memo is not None:
            memo[id(self)] = made
        state = dict(self.__getstate__())  # type: ignore[call-overload]
        for name in (_CHANGE, change.attribute):
            state.pop(name, None)
        for name, value in change.unchanged().items():
            if value is None:
                state.pop(name, None)
            else:
                state[name] = value
        made.__setstate__(state if memo is None else copy.deepcopy(state, memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(NOT_PICKLED)


class Change:
    """A module with ``mixin`` in front of its class, until :meth:`undo`.

    Args:
        name: of the module in its model.
        module: is changed when this is made.
        mixin: a :class:`Changed`.
        attribute: of the module, where the mixin finds ``part``.
        serves: whether the mixin runs a forward that is the instance's own and unknown (:attr:`own`).

    Attributes:
        own: the instance's own forward as found, when it is not the class's; None otherwise.

    Raises:
        UnsupportedArchitectureError: a call of the instance would not reach its class; nothing is changed then.
    """

    def __init__(
        self, name: str, module: nn.Module, mixin: type[Changed], attribute: str, part: object, serves: bool = False
    ) -> None:
        self.name, self.module, self.attribute = name, module, attribute
        self.original: type[nn.Module] = type(module)
        self.cls = subclass_with(mixin, self.original)
        self.own: Callable[..., Any] | None = None
        if _CHANGE in module.__dict__:
            raise DPGError(f"{name} already has a personality; unload() it first")
        self._slot = accelerate.innermost(module)
        self._found = module.__dict__.get(self._slot)
        if self._found is not None and not self._is_of(self._found, self.original):
            if not serves:
                raise UnsupportedArchitectureError(
                    f"{name} ({self.original.__name__}) has a forward of its own, {_described(self._found)}, so that a "
                    "personality would not reach it; take it off before wrapping (del module.forward; with Liger: leave "
                    "swiglu out) and, if it calls the forward that it replaces, put it on afterwards"
                )
            self.own = self._found
        module.__dict__[_CHANGE] = self
        module.__dict__[attribute] = part
        module.__class__ = self.cls
        self.lead_here()

    def lead_here(self) -> None:
        """Let a call of the instance reach the changed class, below accelerate's hooks if there are any."""
        slot = accelerate.innermost(self.module)
        if slot == "forward":
            self.module.__dict__.pop("forward", None)
        else:
            self.module.__dict__[slot] = MethodType(self.cls.forward, self.module)

    def unchanged(self) -> dict[str, Any]:
        """The instance's ``forward`` attributes as they are without the change; None stands for none."""
        wanted: dict[str, Any] = {}
        if self._slot == "forward" and self._found is not None and "forward" not in self.module.__dict__:
            wanted["forward"] = self._found
        for name in ("forward", accelerate.INNER):
            if self._leads(name):
                none = None if name == "forward" else MethodType(self.original.forward, self.module)
                wanted[name] = none if self._found is None else self._found
        return wanted

    def undo(self) -> None:
        """Give the module its class and its own forward back; one that somebody put there meanwhile is kept."""
        wanted = self.unchanged()
        self.module.__class__ = self.original
        del self.module.__dict__[self.attribute], self.module.__dict__[_CHANGE]
        for name, value in wanted.items():
            if value is None:
                self.module.__dict__.pop(name, None)
            else:
                self.module.__dict__[name] = value

    def reached(self) -> bool:
        """Whether a call of the instance still comes to the changed class, as far as its functions can be followed; if it only
        leads to the original class, it is led here again.
        """
        if not isinstance(self.module, self.cls):
            return False
        found = self.module.__dict__.get(accelerate.innermost(self.module))
        if found is not None and self._is_of(found, self.original):  # as a tool does that puts back what it had found
            self.lead_here()
        elif found is not None and not leads_to(found, self.cls.forward, self.module):
            return False
        return True

    def _leads(self, name: str) -> bool:
        found = self.module.__dict__.get(name)
        return found is not None and self._is_of(found, self.cls)

    def _is_of(self, function: Any, cls: type[nn.Module]) -> bool:
        return (
            isinstance(function, MethodType) and function.__self__ is self.module and function.__func__ is cls.forward
        )


class Watch:
    """Notices, at little cost, that changed modules are no longer reached because somebody replaced something.

    Args:
        base: the model that holds them.
        changes: one for each.

    Attributes:
        placed: how the modules were when :meth:`look` saw them last; ask `unmoved` about it before every call.
    """

    def __init__(self, base: nn.Module, changes: Iterable[Change]) -> None:
        self._base = base
        self._changes = tuple(changes)
        self.placed = self._found()

    def look(self) -> None:
        """Something is not as it was: find out whether the modules are still reached.

        Raises:
            NoEffectError: names a module that was replaced, or whose class or forward was, since the model was wrapped.
        """
        present = {id(module) for module in self._base.modules()}
        for change in self._changes:
            if id(change.module) not in present:
                why = "another module was put in its place"
            elif change.reached():
                continue
            elif not isinstance(change.module, change.cls):
                why = f"its class was set to {type(change.module).__name__}"
            else:
                why = f"it was given another forward, {_described(change.module.__dict__['forward'])},"
            raise NoEffectError(
                f"a personality would not reach {change.name}: {why} after the model was wrapped. Take that back (with "
                "use_liger_kernel: leave swiglu out), or unload() and wrap the model as it is now"
            )
        self.placed = self._found()

    def _found(self) -> list[Placed]:
        parents = {
            id(child): (parent, name) for parent in self._base.modules() for name, child in parent.named_children()
        }
        modules = [change.module for change in self._changes]
        return [Placed(m, type(m), m.__dict__.get("forward"), *parents[id(m)]) for m in modules]


def require_own_classes(changes: Iterable[Change]) -> None:
    """Raises RuntimeError naming a module whose class is no longer the one that it was given here."""
    for change in changes:
        if (cls := type(change.module)) is not change.cls:
            raise RuntimeError(
                f"the class of {change.name} was changed after the model was wrapped, to {cls.__name__}; that has to be "
                "undone first"
            )


def leads_to(function: Any, target: Any, owner: object) -> bool:
    """Whether ``function`` is the method ``target`` of ``owner``, or holds it: wrapped, compiled, in a closure or a partial."""
    waiting = [function]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_FUNCTIONS:
        found = waiting.pop()
        if isinstance(found, MethodType) and found.__func__ is target and found.__self__ is owner:
            return True
        if id(found) not in seen and not isinstance(found, nn.Module):
            seen.add(id(found))
            waiting += _held(found)
    return False


def _held(function: Any) -> Iterator[Any]:
    """What a function may call."""
    for name in ("__wrapped__", "__func__", "__self__"):
        if (inner := getattr(function, name, None)) is not None:
            yield inner
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    if isinstance(function, FunctionType):
        values: Sequence[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            try:
                values = [*values, cell.cell_contents]
            except ValueError:  # not filled yet
                continue
        yield from (value for value in values if callable(value))
    elif hasattr(function, "__dict__") and not isinstance(function, (MethodType, type)):
        yield from (value for value in vars(function).values() if callable(value))


def _described(function: Any) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    inner = getattr(inner, "__func__", inner)
    name = getattr(inner, "__qualname__", type(inner).__name__)
    return f"{getattr(inner, '__module__', '?')}.{name}"


_subclasses: dict[tuple[type, type], Any] = {}


def subclass_with(mixin: type, original: type) -> Any:
    """``original`` with ``mixin`` in front; always the same class for the same two."""
    key = (mixin, original)
    if key not in _subclasses:
        name = original.__name__ if mixin.__dict__.get("keeps_name") else f"{mixin.__name__}{original.__name__}"
        _subclasses[key] = type(name, (mixin, original), {"__module__": __name__})
    return _subclasses[key]
