"""Gradient checkpointing: recomputed layers see the call that they were first run for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from dpg_fast.model.request import CallState

__all__ = ["CheckpointContexts"]


class CheckpointContexts:
    """The ``context_fn`` of ``torch.utils.checkpoint``.

    Args:
        state: of the model whose layers are checkpointed. A copied model's layers have nothing to do with it.
    """

    def __init__(self, state: CallState) -> None:
        self._state = state

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the forward and of its recomputation."""
        call = self._state.call

        @contextmanager
        def recompute() -> Iterator[None]:
            with self._state.lock:
                before = self._state.put(call)
                try:
                    yield
                finally:
                    self._state.put(before)

        return nullcontext(), recompute()

    def __deepcopy__(self, memo: dict[int, Any]) -> CheckpointContexts:
        return CheckpointContexts(CallState())
