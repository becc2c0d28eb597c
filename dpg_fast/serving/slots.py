"""The slots of a running engine: which personality each token of the next step has, in buffers that never move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.personality.row import Row

__all__ = ["SlotPool", "StepPart"]


class StepPart(NamedTuple):
    """The tokens of one request in one step.

    Attributes:
        row: what the request asks for; None is the base model.
        tokens: how many.
        unsteered: how many of them, from the first, are not steered.
    """

    row: Row | None
    tokens: int
    unsteered: int = 0


class SlotPool:
    """Slots for the requests of a step, and the slot of each of its tokens.

    A slot is pinned while its row is in the step at hand; there are as many slots as a step has requests, so they cannot run
    out, and nothing has to be given back by a request that ends, is cancelled or is lost. Contents stay until a slot is needed
    for another personality, the one unused for longest first.

    Args:
        fill: computes the contents of slots for distinct rows.
        codes: K.
        requests: most of them in one step.
        tokens: most of them in one step, padding included.
        device: of the buffers.

    Attributes:
        slots: int32 [tokens], -1 for the base model and for padding.
        steered: the same for the neurons; -1 also where a token is not steered.
        live: int32 [1] in host memory, how many of the next step's first tokens may have a slot; 0 when none has.
    """

    def __init__(
        self, fill: Callable[[list[Row]], SlotValues], codes: int, requests: int, tokens: int, device: torch.device
    ) -> None:
        self._fill = fill
        self._table = SlotTable(codes, device, requests, grows=False)
        with torch.inference_mode(False):
            self.slots, self.steered = (torch.full((tokens,), -1, dtype=torch.int32, device=device) for _ in range(2))
            self.live = torch.zeros(1, dtype=torch.int32)
            self._staged = torch.full((2, tokens), -1, dtype=torch.int32)  # pageable: it may be written again at once
        self._live = 0

    @property
    def values(self) -> SlotValues:
        """Contents of the slots; the buffers stay the same."""
        return self._table.values

    def place(self, parts: Sequence[StepPart]) -> None:
        """Write the slots of the next step's tokens.

        Args:
            parts: in the order of the step's tokens.

        Raises:
            RuntimeError: more distinct personalities than slots, or more tokens than the buffers hold.
        """
        rows = [part.row for part in parts]
        total = sum(part.tokens for part in parts)
        if total > self.slots.numel():
            raise RuntimeError(f"a step has {total} tokens, the buffers hold {self.slots.numel()}")
        if not any(row is not None for row in rows):
            self._write(0)
            return
        self._table.keep(self)  # the last step has read its slots, or will have before these are written
        with torch.inference_mode(False), torch.no_grad():
            slots = self._table.acquire(self, rows, self._fill)
        numbers = [-1 if row is None else slots[row] for row in rows]
        staged: np.ndarray = self._staged.numpy()
        staged[:, :total] = np.repeat(np.array(numbers, np.int32), [part.tokens for part in parts])
        begin = 0
        for part in parts:
            if part.unsteered:
                staged[1, begin : begin + part.unsteered] = -1
            begin += part.tokens
        self._write(total)

    def _write(self, live: int) -> None:
        """Copy the first ``live`` staged slots; the others that were written before become -1."""
        end = max(live, self._live)
        if end == 0:
            return
        self._staged[:, live:end] = -1
        for buffer, staged in zip((self.slots, self.steered), self._staged, strict=True):
            buffer[:end].copy_(staged[:end], non_blocking=True)
        self._live = live
        self.live.fill_(live)
