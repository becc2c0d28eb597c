"""Proof that the changed modules are reached: the first forwards with a personality are watched, later ones are not.

A module that has not run is not yet a fault: layers are skipped (early exit, layer drop), and some models never use some of
theirs (keys and values shared with another layer). It is one when its work was done past the change: the module was called, or
its weights took part in an operation, and the changed forward did not run; or another module stands in its place.

Why: docs/decisions.md, "What others do to a model's modules".
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpg_fast.model.layers.adapters import PersonalityActivation, PersonalityLinear, PersonalityMlp
from dpg_fast.model.layers.changes import NoEffectError
from dpg_fast.model.request import CallState

__all__ = ["NoEffectError", "Reach"]

#: forwards after which modules that did not run are named in a warning and no longer waited for
WATCHED = 8
NAMED = 6
NEVER = "the model did not run them"


class Reach:
    """Watches until every changed module was reached.

    Args:
        base: the model.
        state: shared by the changed layers, which put their adapter into ``state.reached``.
        changed: the changed modules; each has its adapter as ``dpg_adapter``.

    Attributes:
        complete: nothing is waited for any more.
    """

    def __init__(self, base: nn.Module, state: CallState, changed: Sequence[nn.Module]) -> None:
        self._base = base
        self._state = state
        self._changed = tuple(changed)
        self.restart()

    def restart(self) -> None:
        """Watch again, as after wrapping."""
        self._waiting: dict[Any, nn.Module] = {module.dpg_adapter: module for module in self._changed}
        self._forwards = 0
        self.complete = not self._waiting

    @property
    def unreached(self) -> list[str]:
        """Names of the modules that no watched forward has reached."""
        return [adapter.name for adapter in self._waiting]

    @torch.compiler.disable  # somebody may have compiled what calls this
    def run(self, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """``forward(*args, **kwargs)``, watched and not compiled.

        Raises:
            NoEffectError: it went past changed modules. What it raises itself passes through, and says nothing of modules.
        """
        called: set[Any] = set()
        mode = _Used(self._own_weights())
        with ExitStack() as stack:
            for adapter, module in self._waiting.items():
                stack.enter_context(_calls(module, adapter, called))
            stack.enter_context(_eager())
            reached: set[Any] = set()
            self._state.reached = reached
            try:
                with mode:
                    output = torch.compiler.disable(forward)(*args, **kwargs)
            finally:
                self._state.reached = None
        self._forwards += 1
        past = {a: m for a, m in self._waiting.items() if a not in reached and self._past(a, m, called, mode.used)}
        self._waiting = {adapter: module for adapter, module in self._waiting.items() if adapter not in reached}
        self.complete = not self._waiting
        if past:
            raise NoEffectError(_past_message(self._base, past))
        if self._waiting and self._forwards >= WATCHED and not self._whole_kinds():
            warnings.warn(
                f"a personality has no part in {_listed(self.unreached)}: {NEVER} in the first {WATCHED} forwards with one",
                stacklevel=2,
            )
            self._waiting = {}
        self.complete = not self._waiting
        return output

    def conclude(self) -> None:
        """After a whole call.

        Raises:
            NoEffectError: in all its forwards no changed module of one kind was reached: no MLP, or no ``q_proj``, of any layer.
        """
        if self._forwards and (unreached := self._whole_kinds()):
            raise NoEffectError(
                f"the personality had no effect in {_listed(unreached)}, because {NEVER}: nothing of their kind took part in "
                "any layer; unload() and put the model's own modules back, or use an adapter without these"
            )

    def _whole_kinds(self) -> list[str]:
        """Names of the modules of which, whatever the layer, none was reached."""
        reached = {_kind(m.dpg_adapter) for m in self._changed if m.dpg_adapter not in self._waiting}
        return [adapter.name for adapter in self._waiting if _kind(adapter) not in reached]

    def _own_weights(self) -> dict[int, Any]:
        """id of a weight -> the adapter of the one changed module that has it."""
        owners: dict[int, Any] = {}
        uses: Counter[int] = Counter()
        for module in self._changed:
            adapter = module.dpg_adapter
            inside = [child for child in module.children() if not hasattr(child, "dpg_adapter")]
            for part in (module, *inside):
                for weight in part.parameters(recurse=False):
                    owners[id(weight)] = adapter
                    uses[id(weight)] += 1
        return {key: adapter for key, adapter in owners.items() if uses[key] == 1 and adapter in self._waiting}

    def _past(self, adapter: Any, module: nn.Module, called: set[Any], used: set[Any]) -> bool:
        return adapter in called or adapter in used or _replaced(self._base, adapter.name, module)


def _kind(adapter: Any) -> str:
    return str(adapter.name).rpartition(".")[2]


class _Used(TorchFunctionMode):
    """Collects whose weights take part in operations that give a tensor."""

    def __init__(self, owners: Mapping[int, Any]) -> None:
        super().__init__()
        self._owners = owners
        self.used: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if _gives_tensor(output) and getattr(getattr(func, "__self__", None), "__name__", "") != "grad":
            for value in _flat((*args, *(kwargs or {}).values())):
                adapter = self._owners.get(id(value))
                if adapter is not None:
                    self.used.add(adapter)
        return output


def _gives_tensor(output: Any) -> bool:
    return isinstance(output, Tensor) or (isinstance(output, (tuple, list)) and any(map(_gives_tensor, output)))


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


@contextmanager
def _calls(module: nn.Module, adapter: Any, called: set[Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda *_: called.add(adapter))
    try:
        yield
    finally:
        handle.remove()


def _eager() -> AbstractContextManager[Any]:
    """Compiled functions run as they are written; inside a compiled region that is left to ``torch.compiler.disable``."""
    try:
        return torch.compiler.set_stance("force_eager")
    except RuntimeError:
        return nullcontext()


def _replaced(base: nn.Module, name: str, module: nn.Module) -> bool:
    try:
        return base.get_submodule(name) is not module
    except AttributeError:
        return True


def _past_message(base: nn.Module, modules: Mapping[Any, nn.Module]) -> str:
    causes: dict[str, list[str]] = {}
    for adapter, module in modules.items():
        causes.setdefault(_cause(base, adapter.name, module), []).append(adapter.name)
    return "; ".join(
        f"the personality had no effect in {_listed(names)}, because {cause}" for cause, names in causes.items()
    )


def _cause(base: nn.Module, name: str, module: nn.Module) -> str:
    if _replaced(base, name, module):
        return "another module was put in its place after the model was wrapped; wrap the model when it is complete"
    own = module.__dict__.get("forward")
    if own is not None:
        origin = getattr(getattr(own, "__func__", own), "__module__", None) or type(own).__module__
        return (
            f"the module has a forward of its own (from {origin}), as accelerate's hooks, Liger's patch of a model and "
            "kernelize() set it: unload(), take it off (accelerate.hooks.remove_hook_from_module, or del module.forward), "
            "and wrap the model again"
        )
    if not isinstance(module, (PersonalityActivation, PersonalityLinear, PersonalityMlp)):
        return f"its class was set to {type(module).__name__} after the model was wrapped; wrap the model when it is complete"
    return (
        "the model computes with its weights without calling it (a fused forward); switch that off, or leave the module out "
        "of the adapter"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
