"""Slots of a wide head: each holds whole LoRA weights, made when the personality is first asked for.

The weights lie in buffers [D, r, d] of D slots, which the ops read as a bank of D entries; the code of slot i is 1 at i. So every
op, the stacked products included, serves wide heads unchanged, at a cost that grows with D; a changed personality rewrites
its slot's weights, where a compact bank writes 2 K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from dpg_fast.hypernet import Site
from dpg_fast.model.layers.places import Places
from dpg_fast.model.layers.surgery import Surgery
from dpg_fast.model.slots import SlotTable, SlotValues

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

    def refresh(self, fill: Callable[[list[Hashable]], SlotValues]) -> None:
        """Make the weights of slots in use again; others are forgotten."""
        for item, slot in list(self._slot.items()):
            if not self._pins[slot]:
                del self._slot[item]
                self._free.append(slot)
        if self._slot:
            self._write(list(self._slot.values()), fill(list(self._slot)))

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
        super()._grow()
        with torch.inference_mode(False):
            self._weights = {
                name: (torch.cat([A, torch.zeros_like(A)]), torch.cat([B, torch.zeros_like(B)]))
                for name, (A, B) in self._weights.items()
            }
        self.attach()
        self._grown(self.values)

    def _one_hot(self) -> None:
        with torch.inference_mode(False):
            codes = one_hot(self.capacity, self.values.strengths.device)
        if self.values.codes_a.shape != codes.shape:
            with torch.inference_mode(False):
                self.values = SlotValues(codes, codes, self.values.strengths).mirrored(self._others)


def one_hot(slots: int, device: torch.device) -> Tensor:
    """Codes float32 [slots, slots]: slot i has entry i alone."""
    return torch.eye(slots, device=device)
