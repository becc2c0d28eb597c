"""Slots: small rows on the device that hold what makes one personality, and the tokens that point to them.

A slot holds a code for the A side and one for the B side of the bank, and ten steering strengths. Tokens carry the number of
their slot, -1 for the base model. A new personality is one row written; the weights stay where they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

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
        grows: False keeps the buffers where they are; more personalities at once than slots are then an error.

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
        grows: bool = True,
    ) -> None:
        self._others, self._grows = tuple(others), grows
        with torch.inference_mode(False):  # what is made in that mode could only be changed in it
            self.values = SlotValues(
                torch.zeros(capacity, codes, device=device),
                torch.zeros(capacity, codes, device=device),
                torch.zeros(capacity, 10, device=device),
            ).mirrored(self._others)
        self.slots: OrderedDict[Row, int] = OrderedDict()
        #: holder -> the slots that are pinned for it; a holder that is gone, however it ended, pins nothing
        self._held: WeakKeyDictionary[object, frozenset[int]] = WeakKeyDictionary()

    @property
    def capacity(self) -> int:
        return self.values.strengths.shape[0]

    def acquire(
        self, holder: object, rows: Iterable[Row | None], fill: Callable[[list[Row]], SlotValues]
    ) -> dict[Row, int]:
        """A slot for each distinct row, pinned for ``holder`` beside those that it holds, until :meth:`keep`.

        ``fill`` computes the rows not yet there, in one call. A slot is written before its row points to it, and pinned last:
        whatever interrupts this leaves every row with its own contents, and pins as they were.
        """
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
        if new:
            values = fill(list(new))
            taken = self._take(len(new), self._pinned() | set(found.values()))
            self._write(taken, values)
            added = dict(zip(new, taken, strict=True))
            self.slots.update(added)
            found |= added
        self._held[holder] = self._held.get(holder, frozenset()) | frozenset(found.values())
        return found

    def keep(self, holder: object, slots: Iterable[int] = ()) -> None:
        """Pin ``slots`` alone for ``holder``; contents of the others stay until their slots are needed."""
        self._held[holder] = frozenset(slots)

    def _pinned(self) -> set[int]:
        return set().union(*self._held.values())

    def _take(self, count: int, pinned: set[int]) -> list[int]:
        """Slots that nobody holds: free ones, else the least recently used without pins, else those of twice the buffers.

        Running calls read pinned slots at every forward, so those are never evicted, however old; when all are pinned the
        buffers grow, which moves them.
        """
        while True:
            used = pinned.union(self.slots.values())
            taken = [slot for slot in range(self.capacity) if slot not in used][:count]
            for row, slot in list(self.slots.items()):
                if len(taken) == count:
                    break
                if slot not in pinned:
                    del self.slots[row]  # before its slot is overwritten
                    taken.append(slot)
            if len(taken) == count:
                return taken
            if not self._grows:
                raise RuntimeError(
                    f"{len(pinned) + count} personalities at once need as many slots; there are {self.capacity}"
                )
            self._grow()

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
