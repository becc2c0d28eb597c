"""Slots: small rows on the device that hold what makes one personality, and the tokens that point to them.

A slot holds a code for the A side and one for the B side of the bank, and ten steering strengths. Tokens carry the number of
their slot, -1 for the base model. A new personality is one row written; the weights stay where they are.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dpg_fast.personality.row import Row


class SlotValues(NamedTuple):
    """Contents of n slots.

    Attributes:
        codes_a, codes_b: float32 [n, K].
        strengths: float32 [n, 10].
        pairs: site name -> (A [n, r, d_in], B [n, r, d_out]): weights of a wide head, read instead of the bank; each on the
            device of its layer.
        mirrors: device -> the same contents there, for layers that run on other devices than the first.
    """

    codes_a: Tensor
    codes_b: Tensor
    strengths: Tensor
    pairs: Mapping[str, tuple[Tensor, Tensor]] | None = None
    mirrors: Mapping[torch.device, SlotValues] | None = None

    def mirrored(self, devices: Sequence[torch.device]) -> SlotValues:
        """With copies on ``devices``, which gradients reach."""
        if not devices:
            return self
        made = {}
        for device in devices:
            codes_a, codes_b, strengths = (t.to(device, non_blocking=device.type != "cpu") for t in self[:3])
            made[device] = SlotValues(codes_a, codes_b, strengths, pairs=self.pairs)
        return self._replace(mirrors=made)


class SlotTable:
    """Persistent slots with least-recently-used replacement.

    Args:
        codes: K.
        device: of the buffers.
        capacity: slots at the start. When more distinct personalities are in use at once the buffers double, which moves
            them; captured CUDA graphs then have to be captured again.
        others: devices that hold the same contents, for the layers that run there.

    Attributes:
        values: the contents.
        slots: row -> its slot, the least recently used first.
    """

    def __init__(
        self,
        codes: int,
        device: torch.device,
        capacity: int = 64,
        others: Sequence[torch.device] = (),
    ) -> None:
        self._others = tuple(others)
        with torch.inference_mode(False):  # what is made in that mode could only be changed in it
            self.values = SlotValues(
                torch.zeros(capacity, codes, device=device),
                torch.zeros(capacity, codes, device=device),
                torch.zeros(capacity, 10, device=device),
            ).mirrored(self._others)
        self.slots: OrderedDict[Row, int] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def capacity(self) -> int:
        return self.values.strengths.shape[0]

    def acquire(self, rows: Iterable[Row | None], fill: Callable[[list[Row]], SlotValues]) -> dict[Row, int]:
        """A slot for each distinct row, pinned until :meth:`release`; ``fill`` computes those not yet there, in one call."""
        found: dict[Row, int] = {}
        new: dict[Row, None] = {}
        for row in rows:
            if row is None or row in found:
                continue
            slot = self.slots.get(row)
            if slot is None:
                new[row] = None
                continue
            found[row] = slot
            self.slots.move_to_end(row)
            self._pins[slot] += 1  # before any slot is taken: what this call needs is not evicted for its own new rows
        if new:
            try:
                values = fill(list(new))
            except BaseException:
                self.release(found.values())
                raise
            for row in new:
                found[row] = self.slots[row] = self._take()
                self._pins[found[row]] += 1
            self._write([found[row] for row in new], values)
        return found

    def release(self, slots: Iterable[int]) -> None:
        """Undo the pins of one :meth:`acquire`; the contents stay until the slot is needed."""
        for slot in slots:
            self._pins[slot] -= 1
            if not self._pins[slot]:
                del self._pins[slot]

    def _take(self) -> int:
        """A slot that nobody holds: a free one, else the least recently used without pins, else one of twice as many.

        Running calls read pinned slots at every forward, so those are never evicted, however old; when all are pinned the
        buffers grow, which moves them. Eviction writes nothing: the slot is overwritten by what it was taken for.
        """
        if self._free:
            return self._free.pop()
        for row, slot in self.slots.items():
            if not self._pins[slot]:
                del self.slots[row]
                return slot
        old = self.capacity
        self._grow()
        self._free = list(range(2 * old - 1, old, -1))
        return old

    def _grow(self) -> None:
        with torch.inference_mode(False):
            a, b, strengths = (torch.cat([buffer, torch.zeros_like(buffer)]) for buffer in self.values[:3])
            self.values = SlotValues(a, b, strengths).mirrored(self._others)

    def _write(self, slots: list[int], values: SlotValues) -> None:
        for written in self._written():
            index = torch.tensor(slots, device=written.strengths.device)
            for buffer, rows in zip(written[:3], values[:3], strict=True):
                buffer.index_copy_(0, index, rows.to(buffer))

    def _written(self) -> tuple[SlotValues, ...]:
        """The buffers of every device."""
        return (self.values, *(self.values.mirrors or {}).values())
