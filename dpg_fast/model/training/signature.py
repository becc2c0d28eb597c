"""A forward that shows, to those who inspect it, the parameters of the model that it passes its arguments on to.

Trainer drops every column of the data that is not a parameter of the model's forward.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from dpg_fast.compat.peft import underlying


class PassesOn:
    """Decorates the forward of a wrapper whose ``base`` is a model: that of an instance has the base's parameters as well."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.method
        base = (instance.__dict__.get("_modules") or {}).get("base")
        if base is None:
            return MethodType(self.method, instance)
        of_base: Any = type(underlying(base)).forward  # looked up at each call: Liger and others replace it later
        return MethodType(_with_parameters_of(self.method, of_base), instance)


@functools.cache
def _with_parameters_of(method: Callable[..., Any], of_base: Callable[..., Any]) -> Callable[..., Any]:
    own = inspect.signature(method).parameters
    kinds = inspect.Parameter
    others = [
        parameter.replace(
            kind=kinds.KEYWORD_ONLY, default=None if parameter.default is kinds.empty else parameter.default
        )
        for name, parameter in list(inspect.signature(of_base).parameters.items())[1:]
        if name not in own and parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    parameters = list(own.values())
    last = [p for p in parameters if p.kind is kinds.VAR_KEYWORD]

    @functools.wraps(method)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    forward.__signature__ = inspect.Signature([p for p in parameters if p not in last] + others + last)  # type: ignore[attr-defined]
    return forward
