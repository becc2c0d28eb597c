"""Slots of a wide head: each holds whole LoRA weights, made when the personality is first asked for.

The weights lie in buffers [D, r, d] of D slots, which the ops read as a bank of D entries; the code of slot i is 1 at i. So every
op, the stacked products included, serves wide heads unchanged, at a cost that grows with D; a changed personality rewrites
its slot's weights, where a compact bank writes 2 K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpg_fast.compat.torch import still_held
from dpg_fast.hypernet import Site
from dpg_fast.model.layers.places import Places
from dpg_fast.model.layers.surgery import Surgery
from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.model.supply import Supply, strengths_of
from dpg_fast.personality.row import Row

SLOTS = 8


class WideTable(SlotTable):
    """Slots with weights, least recently used first to go.

    Args:
        sites, rank: of the weights.
        surgery: hands the buffers to the patched layers.
        places: the devices of the buffers.
        dtype: of the weights.
        grown: called with the new values when more slots were needed; those who use the old ones must take them.
        capacity: slots at the start; doubled when more personalities are in use at once.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        rank: int,
        surgery: Surgery,
        places: Places,
        dtype: torch.dtype,
        grown: Callable[[SlotValues], None],
        capacity: int = SLOTS,
    ) -> None:
        super().__init__(0, places.first, capacity, others=places.others)
        self._surgery, self._grown = surgery, grown
        with torch.inference_mode(False):
            self._weights = {
                site.name: (
                    torch.zeros(capacity, rank, site.in_features, device=places.of[site.name], dtype=dtype),
                    torch.zeros(capacity, rank, site.out_features, device=places.of[site.name], dtype=dtype),
                )
                for site in sites
            }
        self._one_hot()

    def attach(self) -> None:
        """Give the buffers to the patched layers."""
        self._one_hot()
        self._surgery.set_bank(self._weights.__getitem__, stacked=True)

    def refresh(self, fill: Callable[[list[Row]], SlotValues]) -> None:
        """Make the weights of slots in use again; others are forgotten."""
        pinned = self._pinned()
        for row, slot in list(self.slots.items()):
            if slot not in pinned:
                del self.slots[row]
        if self.slots:
            self._write(list(self.slots.values()), fill(list(self.slots)))

    @torch.no_grad()
    def _write(self, slots: list[int], values: SlotValues) -> None:
        for written in self._written():
            index = torch.tensor(slots, device=written.strengths.device)
            written.strengths.index_copy_(0, index, values.strengths.to(written.strengths))
        index = torch.tensor(slots, device=self.values.strengths.device)
        assert values.pairs is not None
        for name, pair in values.pairs.items():
            for buffer, weight in zip(self._weights[name], pair, strict=True):
                buffer.index_copy_(0, index.to(buffer.device), weight.to(buffer))
        self._surgery.update_bank(index, self._weights.__getitem__)

    def _grow(self) -> None:
        before = self.values, self._weights
        try:
            super()._grow()
            with torch.inference_mode(False):
                self._weights = {
                    name: (torch.cat([A, torch.zeros_like(A)]), torch.cat([B, torch.zeros_like(B)]))
                    for name, (A, B) in self._weights.items()
                }
            self.attach()
            self._grown(self.values)
        except BaseException:  # running calls read these weights
            self.values, self._weights = before
            self.attach()
            self._grown(self.values)
            raise

    def _one_hot(self) -> None:
        with torch.inference_mode(False):
            codes = one_hot(self.capacity, self.values.strengths.device)
        if self.values.codes_a.shape != codes.shape:
            with torch.inference_mode(False):
                self.values = SlotValues(codes, codes, self.values.strengths).mirrored(self._others)


class WideSupply(Supply):
    """Slots that hold weights: they are made again, in place, when the head that made them has changed.

    Args:
        moved: called with the new values when slots were doubled; see `Supply` for the others.
    """

    def __init__(self, *parts: Any, moved: Callable[[SlotValues], None]) -> None:
        super().__init__(*parts)
        self._moved = moved

    def table(self) -> SlotTable:
        assert self.hypernet is not None
        self.device()
        intact = still_held(self._surgery.held)
        if not intact:
            self.place()
        self.hand_out_steering()
        place = (self.places, self.dtype)
        made_of = (self.calibration, *((id(p), p._version) for p in self.hypernet.parameters()))
        if not isinstance(self.current, WideTable) or self._bank_key != place:
            rank = self.hypernet.config.rank
            self.current = WideTable(self.hypernet.sites, rank, self._surgery, self.places, self.dtype, self._moved)
            self.current.attach()
            self._bank_key, self._codes_key = place, made_of
        elif not intact:
            self.current.attach()
        if self._codes_key != made_of:
            self._codes_key = None  # half of them may be written
            with torch.no_grad():
                self.current.refresh(self.values)
            self._codes_key = made_of
        return self.current

    def for_training(self, rows: Sequence[Row]) -> SlotValues:
        self.device()
        self.hand_out_steering()
        return self.values(rows).mirrored(
            self.places.others
        )  # the weights travel with the call: recomputed layers find them

    def values(self, rows: Sequence[Row]) -> SlotValues:
        assert self.hypernet is not None
        device = self.device()
        pairs = self.hypernet.bank.materialise_all(*self.hypernet.codes_of(rows), self.dtype)
        if self.places.others:
            pairs = {n: (A.to(self.places.of[n]), B.to(self.places.of[n])) for n, (A, B) in pairs.items()}
        codes = one_hot(len(rows), device)
        return SlotValues(codes, codes, strengths_of(rows, self.steering, self.calibration).to(device), pairs=pairs)


def one_hot(slots: int, device: torch.device) -> Tensor:
    """Codes float32 [slots, slots]: slot i has entry i alone."""
    return torch.eye(slots, device=device)
