"""What the patched layers read, kept up to date: slots of personalities, and copies of the bank in compute dtype."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpg_fast.architecture.layers import Architecture
from dpg_fast.compat.accelerate import DEVICE_MAP, HOOK
from dpg_fast.compat.torch import still_held
from dpg_fast.hypernet import AdapterNetwork
from dpg_fast.model.abilities import networks_of
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.layers.places import META, Places
from dpg_fast.model.layers.surgery import Surgery
from dpg_fast.model.slots import SlotTable, SlotValues
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.row import Row
from dpg_fast.personality.scores import POLES

__all__ = ["Supply", "contents", "strengths_of"]


class Supply:
    """Slots and copies for one wrapped model.

    Args:
        base, architecture: of the model.
        hypernet, steering: its parts.
        calibration: level -> strength.
        surgery: hands the copies to the layers.
        places: where the layers run now.

    Attributes:
        calibration: may be replaced; slots are filled again then.
        places: where the layers ran when that was last looked up.
        current: the slots; None before they were first asked for.
    """

    def __init__(
        self,
        base: nn.Module,
        architecture: Architecture,
        hypernet: AdapterNetwork | None,
        steering: SteeringTable | None,
        calibration: Calibration,
        surgery: Surgery,
        places: Places,
    ) -> None:
        self.base, self.hypernet, self.steering, self.calibration = base, hypernet, steering, calibration
        self.places = places
        self._architecture, self._surgery = architecture, surgery
        self._mark: tuple[Any, ...] = ()
        self._trained = [part for network in networks_of(hypernet) for part in (network.trunk, network.encoder)]
        self.current: SlotTable | None = None
        self._bank_key: tuple[Any, ...] | None = None
        self._codes_key: tuple[Any, ...] | None = None
        self._steering_places: Places | None = None

    def device(self) -> torch.device:
        """Where the base model takes its input, and slots are kept."""
        if self._marked() != self._mark:
            self.place()
        return self.places.first

    def place(self) -> None:
        """After the base model may have moved: everything that its layers read follows."""
        found = Places.find(self.base, self._architecture)
        mark = self._marked()
        if found != self.places:
            self._surgery.place(found)
            if self.hypernet is not None and found.first != META:
                with lasting():
                    self.hypernet.to(found.first)
            self.places = found
        self._mark = mark

    def _marked(self) -> tuple[Any, ...]:
        """What is another when the model was moved as a whole, or dispatched again."""
        attributes = self.base.__dict__
        return next(self.base.parameters()).device, attributes.get(HOOK), attributes.get(DEVICE_MAP)

    @property
    def dtype(self) -> torch.dtype:
        """That the layers compute in."""
        dtype = getattr(self.base, "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.bfloat16

    def table(self) -> SlotTable:
        """The slots, after bringing them and all copies up to date with the weights, the device and the calibration.

        A changed bank is copied again and leaves the slots alone, which hold codes. What codes and strengths are made from (the
        trunk, a text encoder's map, the calibration) empties them when it changes, and so does another device.
        """
        base, intact = self.base, still_held(self._surgery.held)
        first = next(base.parameters()).device
        # layers were moved, one by one or all of them, or hooks were attached
        if not intact or (first, base.__dict__.get(HOOK), base.__dict__.get(DEVICE_MAP)) != self._mark:
            self.place()
        if self._steering_places is not self.places:
            self.hand_out_steering()
        if self.hypernet is not None:
            weights = [(id(p), p._version) for p in self.hypernet.bank.parameters()]
            key = (self.places, getattr(self.base, "dtype", None), *weights)
            if key != self._bank_key or not intact:
                self._bank_key = None  # half of it may be handed out
                self._surgery.set_bank(functools.partial(self._pair, self.dtype), stacked=True)
                self._bank_key = key
        read = [(id(t), t._version) for part in self._trained for t in (*part.parameters(), *part.buffers())]
        made_of = (self.places, self.calibration, *read)
        if self.current is None or made_of != self._codes_key:
            codes = self.hypernet.config.codes if self.hypernet is not None else 0
            self.current = SlotTable(codes, self.places.first, others=self.places.others)
            self._codes_key = made_of
        return self.current

    def for_training(self, rows: Sequence[Row]) -> SlotValues:
        """Contents of slots for distinct rows, which gradients reach; the layers get the bank's own weights."""
        assert self.hypernet is not None
        self.device()
        if not still_held(self._surgery.held):
            self.place()
        self.hand_out_steering()
        self._bank_key = None  # copies are due again
        self._surgery.set_bank(functools.partial(self._pair, self.dtype, detach=False), stacked=False)
        return self.values(rows).mirrored(self.places.others)

    def values(self, rows: Sequence[Row]) -> SlotValues:
        """Contents of slots for distinct rows."""
        return contents(rows, self.hypernet, self.steering, self.calibration, self.device())

    def hand_out_steering(self) -> None:
        """Give the layers their rows of the steering table, on their devices."""
        if self.steering is not None and self._steering_places is not self.places:
            with lasting():
                self._surgery.set_steering(self.steering, self.places)
        self._steering_places = self.places

    def _pair(self, dtype: torch.dtype, site: str, detach: bool = True) -> tuple[Tensor, Tensor]:
        """A and B of a site in compute dtype, where its layer runs."""
        assert self.hypernet is not None
        A, B = self.hypernet.bank.A(site), self.hypernet.bank.B(site)
        device = self.places.of[site]
        if detach:
            return A.detach().to(device, dtype), B.detach().to(device, dtype)
        return A.to(device, dtype), B.to(device, dtype)


def contents(
    rows: Sequence[Row],
    hypernet: AdapterNetwork | None,
    steering: SteeringTable | None,
    calibration: Calibration,
    device: torch.device,
) -> SlotValues:
    """Contents of slots for distinct rows, on ``device``."""
    strengths = strengths_of(rows, steering, calibration).to(device)
    if hypernet is None:
        empty = torch.zeros(len(rows), 0, device=device)
        return SlotValues(empty, empty, strengths)
    return SlotValues(*hypernet.codes_of(rows), strengths)


def strengths_of(rows: Sequence[Row], steering: SteeringTable | None, calibration: Calibration) -> Tensor:
    """float32 [n, 10]: with which strength each pole of each row is steered."""
    strengths = torch.zeros(len(rows), len(POLES))
    for number, row in enumerate(rows):
        if row.scores is not None and steering is not None:
            strengths[number] = torch.tensor(calibration.strengths(row.scores))
    return strengths
