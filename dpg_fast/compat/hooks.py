"""Methods and attributes that a class of another library is known to have, checked where ours rely on them.

Overriding a method that a new release has renamed has no effect and raises nothing; these raise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


def overrides_hook(method: Method) -> Method:
    """Decorates a method that overrides one of a class of another library, which calls it.

    When the class is created, a RuntimeError says so if no parent has the method any more.
    """
    return cast(Method, _Hook(method))


class _Hook:
    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def __set_name__(self, owner: type, name: str) -> None:
        require(owner.__mro__[1:], name, f"{owner.__name__} overrides it")
        setattr(owner, name, self.method)


def require(classes: type | tuple[type, ...], name: str, use: str) -> Any:
    """What the first of the classes that has ``name`` has under it.

    Args:
        classes: one, or a class and its parents.
        use: what is done with it, for the message.

    Raises:
        RuntimeError: none has it: a release has renamed or removed it.
    """
    found = classes if isinstance(classes, tuple) else (classes,)
    for one in found:
        if hasattr(one, name):
            return getattr(one, name)
    shown = next((one for one in found if one is not object), found[0])
    raise RuntimeError(f"{shown.__name__} of {_release(shown)} has no {name}, and {use}; this version is not supported")


def set_known(thing: Any, **values: Any) -> None:
    """Set attributes that an object of another library reads, each of which it has already.

    Raises:
        RuntimeError: it has not, so that setting one would have no effect.
    """
    for name, value in values.items():
        if not hasattr(thing, name):
            kind = type(thing)
            raise RuntimeError(
                f"{kind.__name__} of {_release(kind)} has no attribute {name}; this version is not supported"
            )
        setattr(thing, name, value)


def _release(kind: type) -> str:
    name = kind.__module__.partition(".")[0]
    return f"{name} {getattr(sys.modules.get(name), '__version__', '')}".rstrip()
