"""Gradient checkpointing: recomputed layers see the call that they were first run for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from dpg_fast.model.request import CallState
from dpg_fast.model.training.untrained import NOTHING
from dpg_fast.util.errors import DPGError

__all__ = ["CheckpointContexts"]


class CheckpointContexts:
    """The ``context_fn`` of ``torch.utils.checkpoint``.

    Args:
        state: of the model whose layers are checkpointed. A copied model's layers have nothing to do with it.
        untrained: whether a backward pass without a personality trains nothing; None when that is not asked.
    """

    def __init__(self, state: CallState, untrained: Callable[[], bool] | None = None) -> None:
        self._state = state
        self.untrained = untrained

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the forward and of its recomputation."""
        call, inside = self._state.call, self._state.inside.get()

        @contextmanager
        def recompute() -> Iterator[None]:
            if call is None and not inside and self.untrained is not None and self.untrained():
                raise DPGError(NOTHING)  # a trainer went around the wrapper
            with self._state.lock:
                before = self._state.put(call)
                try:
                    yield
                finally:
                    self._state.put(before)

        return nullcontext(), recompute()

    def __deepcopy__(self, memo: dict[int, Any]) -> CheckpointContexts:
        return CheckpointContexts(CallState())
